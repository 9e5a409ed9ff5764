"""The sizes of results, derived with the numbers of textbooks."""

from math import floor

import pytest

from convc.ir.graph import Graph
from convc.ir.ops.window import resolve_axis
from convc.layers import (
    avg_pool2d,
    conv2d,
    dense,
    dropout,
    flatten,
    global_max_pool2d,
    max_pool2d,
)
from convc.networks import two_conv
from convc.sizes import Size, along, back_along, sizes
from convc.summary import SIZES, summary_table
from convc.tracing import Tensor, layer_scope, trace

LECTURES = [
    # notes on convnets: a 5x5 convolution and a pool of 2x2 on MNIST
    ((28, 5, 1, 1, "same"), "(28 - 5 + 2*2)/1 + 1 = 28"),
    ((28, 2, 2, 1, "valid"), "(28 - 2 + 2*0)/2 + 1 = 14"),
    # slides: 3x3 on 4x4, stride 2 on 5x5, and 5x5 with stride 2 on MNIST and CIFAR
    ((4, 3, 1, 1, "valid"), "(4 - 3 + 2*0)/1 + 1 = 2"),
    ((4, 3, 1, 1, "same"), "(4 - 3 + 2*1)/1 + 1 = 4"),
    ((5, 3, 2, 1, "valid"), "(5 - 3 + 2*0)/2 + 1 = 2"),
    ((28, 5, 2, 1, "same"), "(28 - 5 + 1 + 2)/2 + 1 = 14"),
    ((32, 5, 2, 1, "same"), "(32 - 5 + 1 + 2)/2 + 1 = 16"),
    # what no formula of the lectures has: a rest, dilation, padding by hand
    ((28, 5, 2, 1, "valid"), "floor((28 - 5 + 2*0)/2) + 1 = 12"),
    ((7, 1, 2, 1, "same"), "(7 - 1 + 2*0)/2 + 1 = 4"),
    ((8, 1, 2, 1, "same"), "floor((8 - 1 + 2*0)/2) + 1 = 4"),
    ((28, 3, 1, 2, "same"), "2*(3-1)+1 = 5, (28 - 5 + 2*2)/1 + 1 = 28"),
    ((28, 5, 1, 1, (2, 0)), "(28 - 5 + 2 + 0)/1 + 1 = 26"),
]


@pytest.mark.parametrize(("given", "derivation"), LECTURES, ids=str)
def test_a_derivation_has_the_numbers_of_the_lecture(
    given: tuple[int, int, int, int, str], derivation: str
) -> None:
    size, kernel, stride, dilation, padding = given
    axis = resolve_axis("conv2d", size, kernel, stride, dilation, padding)
    assert along(axis) == derivation


@pytest.mark.parametrize("padding", ["same", "valid", (1, 2), (0, 3)])
def test_every_derivation_is_true(padding: str | tuple[int, int]) -> None:
    """Python agrees with what is left of each equals sign."""
    for size in range(5, 13):
        for kernel, stride, dilation in [(3, 2, 1), (2, 3, 1), (1, 4, 1), (2, 2, 3)]:
            axis = resolve_axis("conv2d", size, kernel, stride, dilation, padding)
            for equation in along(axis).split(", "):
                left, right = equation.split(" = ")
                assert eval(left, {"floor": floor}) == int(right), equation
            assert int(right) == axis.out


BACK = [
    ((28, 5, 2, 1, "same"), "(14 - 1)*2 + 5 - 1 - 2 = 28"),
    ((5, 3, 2, 1, "valid"), "(2 - 1)*2 + 3 - 2*0 = 5"),
    ((6, 2, 3, 1, "valid"), "(2 - 1)*3 + 2 - 2*0 + 1 = 6"),
    ((9, 3, 2, 2, "valid"), "2*(3-1)+1 = 5, (3 - 1)*2 + 5 - 2*0 = 9"),
]


@pytest.mark.parametrize(("given", "derivation"), BACK, ids=str)
def test_a_transposed_convolution_goes_the_way_back(
    given: tuple[int, int, int, int, str], derivation: str
) -> None:
    size, kernel, stride, dilation, padding = given
    axis = resolve_axis("conv2d", size, kernel, stride, dilation, padding)
    assert back_along(axis) == derivation


def test_what_a_layer_makes_of_its_input_first_does_not_show() -> None:
    """Growing images, sequences as images of one row, volumes as planes."""

    def growing(x: Tensor) -> Tensor:
        with layer_scope("up") as t:
            rule = {"strides": (2, 2), "padding": "same", "dilations": (1, 1)}
            kernel = t.variable("kernel", (3, 3, 4, 1), "zeros")
            return t.emit("conv2d_input_grad", x, kernel, size=(8, 8), **rule)

    def row(x: Tensor) -> Tensor:
        return conv2d(x, 1, [1, 3], strides=[1, 2], name="row")

    def volume(x: Tensor) -> Tensor:
        with layer_scope("volume") as t:
            x = t.emit("reshape", x, shape=("N", 12, 2, 1))
            x = t.emit("max_pool2d", x, window=(2, 2), strides=(2, 2))
            return t.emit("reshape", x, shape=("N", 2, 3, 1, 1))

    cases = [
        (growing, "f32[N,4,4,1]", Size("up", "", "(4 - 1)*2 + 3 - 0 - 1 = 8")),
        (row, "f32[N,1,9,1]", Size("row", "", "(9 - 3 + 2*0)/2 + 1 = 4")),
        (volume, "f32[N,3,4,2,1]", Size("volume", "", "3*4*2 -> 2*3*1")),
    ]
    for network, kind, size in cases:
        assert sizes(trace(network, {"x": kind}).nodes) == [size]


def test_the_sizes_of_two_conv_lead_from_28_to_3136() -> None:
    table = summary_table(trace(two_conv, {"image": "f32[N,28,28,1]"}))
    assert table.sizes().splitlines() == [
        SIZES,
        "conv1   (28 - 5 + 2*2)/1 + 1 = 28",
        "pool1   (28 - 2 + 2*0)/2 + 1 = 14",
        "conv2   (14 - 5 + 2*2)/1 + 1 = 14",
        "pool2   (14 - 2 + 2*0)/2 + 1 = 7",
        "fc      7*7*64 = 3136 -> 1024",
        "logits  1024 -> 10",
    ]


def net(image: Tensor) -> Tensor:
    x = conv2d(image, 4, [5, 3], strides=2, padding="same", name="conv")
    x = avg_pool2d(x, [1, 2], name="mean")
    x = max_pool2d(x, 2, 1, padding="same", name="max")
    x = dropout(flatten(global_max_pool2d(x, name="all")), 0.5)
    return dense(x, 4, name="out")


def netted() -> Graph:
    return trace(net, {"image": "f32[N,32,30,3]"})


def test_axes_that_differ_have_a_line_each() -> None:
    assert sizes(netted().nodes) == [
        Size("conv", "height", "(32 - 5 + 1 + 2)/2 + 1 = 16"),
        Size("conv", "width", "(30 - 3 + 0 + 1)/2 + 1 = 15"),
        Size("mean", "height", "(16 - 1 + 2*0)/1 + 1 = 16"),
        Size("mean", "width", "floor((15 - 2 + 2*0)/2) + 1 = 7"),
        Size("max", "height", "(16 - 2 + 0 + 1)/1 + 1 = 16"),
        Size("max", "width", "(7 - 2 + 0 + 1)/1 + 1 = 7"),
        Size("all", "height", "(16 - 16 + 2*0)/16 + 1 = 1"),
        Size("all", "width", "(7 - 7 + 2*0)/7 + 1 = 1"),
        Size("out", "", "1*1*4 = 4 -> 4"),
    ]


def test_columns_are_as_wide_as_their_words() -> None:
    lines = summary_table(netted()).sizes().splitlines()
    assert lines[1] == "conv  height  (32 - 5 + 1 + 2)/2 + 1 = 16"
    assert lines[-1] == "out           1*1*4 = 4 -> 4"


def test_a_flat_input_that_is_no_image_is_one_number() -> None:
    def flat(x: Tensor) -> Tensor:
        return dense(x, 3, name="only")

    assert sizes(trace(flat, {"x": "f32[N,6]"}).nodes) == [Size("only", "", "6 -> 3")]


def test_a_network_without_such_layers_has_no_sizes() -> None:
    graph = trace(lambda x: x + 1, {"x": "f32[N,6]"})
    assert summary_table(graph).sizes() == SIZES
