# Follows "Learn TensorFlow Now", part 5, "Building a ConvNet": four convolutions.
# Look at the cost: one network, the initial weights of the note beside sane ones.
"""Run it with ``python examples/ltfn5.py [IMAGES]``."""

import sys
from collections.abc import Callable

import convc as cc
from convc.initializers import Initializer

Halve = Callable[[cc.Tensor, str], cc.Tensor]
THE_NOTES = cc.recipe(batch=100)


def pooled(x: cc.Tensor, name: str) -> cc.Tensor:
    """Half the height and width: the largest of each 2x2."""
    return cc.max_pool2d(x, [1, 2, 2, 1], [1, 2, 2, 1], padding="SAME", name=name)


def averaged(x: cc.Tensor, name: str) -> cc.Tensor:
    """Half the height and width: the mean of each 2x2."""
    return cc.avg_pool2d(x, [1, 2, 2, 1], [1, 2, 2, 1], padding="SAME", name=name)


def strided(x: cc.Tensor, name: str) -> cc.Tensor:
    """Half the height and width: a convolution with stride 2 (the all-conv. net)."""
    return cc.conv2d(x, int(x.shape[-1]), 3, 2, "SAME", activation="relu", name=name)


def layers(x: cc.Tensor, weights: Initializer, halve: Halve) -> cc.Tensor:
    """Two pairs of convolutions (64, 64 and 128, 128), each halved, then logits."""
    for number, out_depth in enumerate((64, 64, 128, 128), 1):
        with cc.variable_scope(f"layer{number}"):
            w = cc.get_variable("weights", [3, 3, x.shape[-1], out_depth], weights)
            b = cc.get_variable("bias", [out_depth], cc.zeros())
            conv = cc.convolve(x, w, strides=[1, 1, 1, 1], padding="SAME")
            x = cc.relu(cc.bias_add(conv, b))
        if number % 2 == 0:
            x = halve(x, f"pool{number // 2}")
    with cc.variable_scope("fully_connected"):
        w = cc.get_variable("weights", [7 * 7 * 128, 10], weights)  # 6,272 inputs
        b = cc.get_variable("bias", [10], cc.zeros())
        return cc.bias_add(cc.reshape(x, [-1, 7 * 7 * 128]) @ w, b)


@THE_NOTES
def ltfn5(image: cc.Tensor) -> cc.Tensor:
    """The network of the note, whose initial weights spread by 1: far too wide."""
    return layers(image, cc.truncated_normal(stddev=1.0), pooled)


@THE_NOTES
def ltfn5_sane(image: cc.Tensor) -> cc.Tensor:
    """The same with a spread that follows from what each layer reads."""
    return layers(image, cc.he_normal(), pooled)


@THE_NOTES
def ltfn5_average(image: cc.Tensor) -> cc.Tensor:
    """The sane one with average pooling."""
    return layers(image, cc.he_normal(), averaged)


@THE_NOTES
def ltfn5_strided(image: cc.Tensor) -> cc.Tensor:
    """The sane one with strides in place of pooling."""
    return layers(image, cc.he_normal(), strided)


def main(images: int = 20_000) -> None:
    """Train both on the first images of MNIST, side by side."""
    splits = cc.load_mnist()
    for network in ltfn5, ltfn5_sane:
        print(network.__name__)
        cc.Model(network).fit(splits.train.first(images), splits.test, 1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
