# Follows CSCI 1470/2470, "Deep Learning", the lecture on convolution (spring 2023).
# Look at the two layers it ends with: 16 filters of 5x5, on MNIST and on CIFAR-10.
"""Run it with ``python examples/csci1470.py [EPOCHS [IMAGES]]``."""

import sys

import convc as cc


def csci1470(inputs: cc.Tensor) -> cc.Tensor:
    """Logits f32[N,10] of images f32[N,28,28,1]: the layer, ReLU, and a dense one.

    The filters spread by sqrt(2 / 25), more than the slides' 0.1: it learns faster.
    """
    filters = cc.get_variable("filter", [5, 5, 1, 16], cc.normal(stddev=0.28))
    conv = cc.convolve(inputs, filters, [1, 2, 2, 1], padding="Same", name="conv")
    return cc.dense(cc.flatten(cc.relu(conv)), 10, name="logits")


@cc.takes(inputs="f32[N,32,32,3]")
def csci1470_cifar(inputs: cc.Tensor) -> cc.Tensor:
    """The same for color images of CIFAR-10: the filter has a depth of 3."""
    filters = cc.get_variable("filter", [5, 5, 3, 16], cc.normal(stddev=0.16))
    conv = cc.convolve(inputs, filters, [1, 2, 2, 1], padding="SAME", name="conv")
    return cc.dense(cc.flatten(cc.relu(conv)), 10, name="logits")


def main(epochs: int = 5, images: int = 60_000) -> None:
    """Show both layers' sizes, and train the first."""
    for network in csci1470, csci1470_cifar:
        print(cc.Model(network).summary())
    splits = cc.load_mnist()
    cc.Model(csci1470).fit(splits.train.first(images), splits.test, epochs)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
