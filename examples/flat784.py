# Follows "Explaining TensorFlow code for a convolutional neural network", a post.
# Look at keep_prob, fed at run time: one number in training, another in tests.
"""Run it with ``python examples/flat784.py [TRAINING_ITERS]``."""

import sys
from itertools import count

import convc as cc
from convc.data.batches import batches

# Parameters
learning_rate = 0.001
training_iters = 200_000  # images, not steps
batch_size = 128
display_step = 10
n_input = 784  # an image of MNIST, 28*28, in a row
n_classes = 10
dropout = 0.75  # the share of units that is kept
Variables = dict[str, cc.Tensor]


def conv2d(x: cc.Tensor, W: cc.Tensor, b: cc.Tensor, strides: int = 1) -> cc.Tensor:
    """A convolution with bias and ReLU."""
    x = cc.convolve(x, W, strides=[1, strides, strides, 1], padding="SAME")
    return cc.relu(cc.bias_add(x, b))


def maxpool2d(x: cc.Tensor, k: int = 2) -> cc.Tensor:
    """The largest of each k x k."""
    return cc.max_pool2d(x, [1, k, k, 1], strides=[1, k, k, 1], padding="SAME")


def conv_net(
    x: cc.Tensor, weights: Variables, biases: Variables, dropout: cc.Tensor
) -> cc.Tensor:
    """Logits of any number of rows: -1 stands for it."""
    x = cc.reshape(x, [-1, 28, 28, 1])
    conv1 = maxpool2d(conv2d(x, weights["wc1"], biases["bc1"]), k=2)
    conv2 = maxpool2d(conv2d(conv1, weights["wc2"], biases["bc2"]), k=2)
    fc1 = cc.reshape(conv2, [-1, weights["wd1"].shape[0]])
    fc1 = cc.relu(cc.add(cc.matmul(fc1, weights["wd1"]), biases["bd1"]))
    fc1 = cc.dropout(fc1, keep=dropout)
    return cc.add(cc.matmul(fc1, weights["out"]), biases["out"])


@cc.takes(x=f"f32[N,{n_input}]", keep_prob=cc.fed(train=dropout, test=1.0))
def flat784(x: cc.Tensor, keep_prob: cc.Tensor) -> cc.Tensor:
    """Logits f32[N,10] of rows f32[N,784], with variables of our own."""
    shapes = {"wc1": [5, 5, 1, 32], "wc2": [5, 5, 32, 64]}
    shapes |= {"wd1": [7 * 7 * 64, 1024], "out": [1024, n_classes]}
    sizes = {"bc1": 32, "bc2": 64, "bd1": 1024, "out": n_classes}
    with cc.variable_scope("weights"):
        weights = {k: cc.get_variable(k, s, cc.he_normal()) for k, s in shapes.items()}
    with cc.variable_scope("biases"):
        biases = {k: cc.get_variable(k, [n], cc.zeros()) for k, n in sizes.items()}
    return conv_net(x, weights, biases, keep_prob)


def main(images: int = training_iters) -> None:
    """Train on so many images in all, with a look at every tenth batch."""
    net, mnist = cc.Model(flat784), cc.load_mnist().shaped([n_input])
    step = net.training_step(optimizer=cc.Adam(learning_rate))
    train = step.compile(batch=batch_size)
    test = net.evaluation_step().compile(batch=256)  # runs any number up to that
    steps = (b for epoch in count() for b in batches(mnist.train, batch_size, 0, epoch))
    for number, (x, y) in zip(range(images // batch_size), steps, strict=False):
        train(x=x, labels=y, keep_prob=dropout)
        if number % display_step == 0:
            test.load(train.parameters)
            loss, correct = test(x=x, labels=y, keep_prob=1.0).values()
            print(f"{number:5}  loss {loss:.4f}  accuracy {correct / len(y):.4f}")
    test.load(train.parameters)
    few = mnist.test.first(256)
    _, correct = test(x=few.images, labels=few.labels, keep_prob=1.0).values()
    print(f"accuracy on {len(few)} test images: {correct / len(few):.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
