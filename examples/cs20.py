# Follows CS 20, lecture note 7 (2018), "Convolutions in TensorFlow".
# Look at the helpers, at the same network out of ready-made layers, and at the curves.
"""Run it with ``python examples/cs20.py FOLDER [EPOCHS [IMAGES]]``; again to go on."""

import sys
from pathlib import Path

import convc as cc


def conv_relu(
    inputs: cc.Tensor, filters: int, k_size: int, stride: int, padding: str, scope: str
) -> cc.Tensor:
    """A convolution with its biases, then ReLU."""
    with cc.variable_scope(scope):
        shape = [k_size, k_size, inputs.shape[-1], filters]
        kernel = cc.get_variable("kernel", shape, cc.he_normal())
        biases = cc.get_variable("biases", [filters], cc.normal())
        conv = cc.convolve(inputs, kernel, [1, stride, stride, 1], padding)
        return cc.relu(cc.bias_add(conv, biases))


def maxpool(
    inputs: cc.Tensor, ksize: int, stride: int, padding: str, scope: str
) -> cc.Tensor:
    """The largest element of each window."""
    sides = [1, ksize, ksize, 1], [1, stride, stride, 1]
    return cc.max_pool2d(inputs, *sides, padding, name=scope)


def fully_connected(inputs: cc.Tensor, out_dim: int, scope: str) -> cc.Tensor:
    """A matrix product and its biases."""
    with cc.variable_scope(scope):
        w = cc.get_variable("weights", [inputs.shape[-1], out_dim], cc.he_normal())
        return cc.bias_add(inputs @ w, cc.get_variable("biases", [out_dim], "zeros"))


def cs20(img: cc.Tensor) -> cc.Tensor:
    """Logits f32[N,10] of images f32[N,28,28,1], out of the helpers."""
    conv1 = conv_relu(img, 32, k_size=5, stride=1, padding="SAME", scope="conv1")
    pool1 = maxpool(conv1, 2, 2, "VALID", "pool1")
    conv2 = conv_relu(pool1, 64, k_size=5, stride=1, padding="SAME", scope="conv2")
    pool2 = maxpool(conv2, 2, 2, "VALID", "pool2")
    rows = cc.reshape(pool2, [-1, 7 * 7 * 64])
    fc = cc.relu(fully_connected(rows, 1024, "fc"))
    return fully_connected(cc.dropout(fc, keep=0.75), 10, "logits")


def cs20_layers(img: cc.Tensor, training: bool = True) -> cc.Tensor:
    """The same out of layers; a test leaves dropout out even where training is True."""
    x = cc.conv2d(
        img, filters=32, kernel_size=[5, 5], padding="SAME", activation="relu"
    )
    x = cc.max_pool2d(x, pool_size=[2, 2], strides=2)
    x = cc.conv2d(x, filters=64, kernel_size=[5, 5], padding="SAME", activation=cc.relu)
    x = cc.max_pool2d(x, pool_size=[2, 2], strides=2)
    x = cc.dense(cc.flatten(x), 1024, activation=cc.relu, name="fc")
    x = cc.dropout(x, rate=0.25, training=training, name="dropout")
    return cc.dense(x, 10, name="logits")


def main(run: str, epochs: str = "5", images: str = "60000") -> None:
    """Alternate an epoch of training and a test; both curves go into the folder."""
    splits = cc.load_mnist()
    train, again = splits.train.first(int(images)), (Path(run) / "checkpoints").exists()
    model = cc.Model(cs20)
    model.fit(train, splits.test, int(epochs), directory=run, resume=again)


if __name__ == "__main__":
    main(*sys.argv[1:])
