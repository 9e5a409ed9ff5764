# Follows CS 20SI, lecture note 7 (2017), "Playing with convolutions in TensorFlow".
# Look at the scopes that name the weights, and at the accuracy epoch by epoch.
"""Run it with ``python examples/cs20si.py [EPOCHS [IMAGES]]``."""

import sys

import convc as cc


def cs20si(images: cc.Tensor) -> cc.Tensor:
    """Logits f32[N,10] of images f32[N,28,28,1]; the variables are made by name."""
    with cc.variable_scope("conv1"):
        w = cc.get_variable("weights", [5, 5, 1, 32], cc.he_normal())
        b = cc.get_variable("biases", [32], initializer=cc.normal())
        conv = cc.convolve(images, w, strides=[1, 1, 1, 1], padding="SAME")
        conv1 = cc.relu(cc.bias_add(conv, b))
    pool1 = cc.max_pool2d(conv1, 2, padding="SAME", name="pool1")

    with cc.variable_scope("conv2"):
        w = cc.get_variable("weights", [5, 5, 32, 64], cc.he_normal())
        b = cc.get_variable("biases", [64], initializer=cc.normal())
        conv = cc.convolve(pool1, w, strides=[1, 1, 1, 1], padding="SAME")
        conv2 = cc.relu(cc.bias_add(conv, b))
    pool2 = cc.max_pool2d(conv2, 2, padding="SAME", name="pool2")

    with cc.variable_scope("fc"):
        w = cc.get_variable("weights", [7 * 7 * 64, 1024], cc.he_normal())
        b = cc.get_variable("biases", [1024], initializer=cc.normal())
        rows = cc.reshape(pool2, [-1, 7 * 7 * 64])
        fc = cc.dropout(cc.relu(cc.bias_add(rows @ w, b)), keep=0.75)

    with cc.variable_scope("softmax_linear"):
        w = cc.get_variable("weights", [1024, 10], cc.truncated_normal(0.02))
        b = cc.get_variable("biases", [10], initializer=cc.normal())
        return cc.bias_add(fc @ w, b)


def main(epochs: int = 5, images: int = 60_000) -> None:
    """Train on the first images of MNIST and list the test accuracy by epoch."""
    model = cc.Model(cs20si)
    for parameter in model.graph.parameters:
        print(f"{parameter.value.name:<24} {parameter.value.type}")
    splits = cc.load_mnist()
    history = model.fit(splits.train.first(images), splits.test, epochs)
    print("Epochs  Accuracy")
    for epoch in history.epochs:
        print(f"{epoch.number:6}  {epoch.test_accuracy:.4f}")
    if splits.notice:
        print(f"notice: {splits.notice}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
