"""conv2d_transpose: sizes, variables, its row in a table, its place in a step."""

from typing import Any

import pytest

from convc.ir.errors import ModelError
from convc.ir.graph import Graph
from convc.ir.verifier import verify
from convc.layers import conv2d, conv2d_transpose, reduce_mean
from convc.model import Model
from convc.summary import summary_table
from convc.tracing import Tensor, trace


def traced(**arguments: Any) -> Graph:
    given = {"filters": 4, "kernel_size": 3, "name": "up", **arguments}
    net = trace(lambda x: conv2d_transpose(x, **given), {"x": "f32[N,5,6,2]"})
    return verify(net)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, "f32[N,7,8,4]"),
        ({"padding": "SAME"}, "f32[N,5,6,4]"),
        ({"padding": "same", "strides": 2}, "f32[N,10,12,4]"),
        ({"padding": "same", "strides": [1, 4, 3, 1]}, "f32[N,20,18,4]"),
        ({"strides": (2, 3)}, "f32[N,11,18,4]"),
        ({"strides": 4}, "f32[N,20,24,4]"),
        ({"padding": 1, "strides": 2}, "f32[N,9,11,4]"),
        ({"padding": [[0, 3], [1, 1]]}, "f32[N,4,6,4]"),
        ({"dilation_rate": 2}, "f32[N,9,10,4]"),
    ],
)
def test_the_size_is_that_of_an_image_whose_convolution_gives_the_inputs(
    arguments: dict[str, Any], shape: str
) -> None:
    graph = traced(**arguments)
    assert str(graph.outputs[0][1].type) == shape
    geometry = {"kernel_size": 3, **arguments}
    back = trace(lambda x: conv2d(x, 2, **geometry), {"x": shape})
    assert str(back.outputs[0][1].type) == "f32[N,5,6,2]"


def test_the_kernel_is_that_of_the_convolution() -> None:
    graph = traced(kernel_size=(3, 2), activation="relu")
    assert {p.value.name: str(p.value.type) for p in graph.parameters} == {
        "up/kernel": "f32[3,2,4,2]",
        "up/biases": "f32[4]",
    }
    assert [n.op for n in graph.nodes] == ["conv2d_input_grad", "bias_add", "relu"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"filters": 0}, "conv2d_transpose: filters must be a whole number"),
        ({"strides": 0}, "conv2d_transpose: strides must be a whole number"),
        (
            {"padding": [[4, 3], [0, 0]]},
            r"padding \[4, 3\] takes all of the 7 elements off an axis; use less",
        ),
        (
            {"padding": "full"},
            "conv2d_transpose: padding is same, valid, .* 'full'",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        traced(**arguments)


def test_a_table_counts_each_product_once() -> None:
    """2 · inputs · taps · filters, one for each bias; it is a layer of its own kind."""
    (row,) = summary_table(traced(strides=2, padding="same")).rows
    assert (row.kind, row.count) == ("conv2d_transpose", 9 * 4 * 2 + 4)
    assert row.flops == 2 * 5 * 6 * 2 * 9 * 4 + 10 * 12 * 4


def decoder(image: Tensor) -> Tensor:
    x = conv2d(image, 2, 3, 2, padding="same", activation="relu", name="down")
    x = conv2d_transpose(x, 2, 3, 2, padding="same", activation="relu", name="up")
    return conv2d_transpose(x, 1, 1, name="out")


def test_a_step_refuses_nothing_and_holds_under_check() -> None:
    """The two gradients of a filter that read what the layer reads are kept apart."""

    def net(image: Tensor) -> Tensor:
        return reduce_mean(decoder(image), (1, 2))

    model = Model(net, image="f32[N,4,4,2]")
    stages = model.training_step().stages(batch=2, threads=1, check=True)
    assert [s.name for s in stages if s.refusals] == ["recompute"]


def test_precision_is_that_of_any_product() -> None:
    model = Model(decoder, image="f32[N,4,4,2]")
    stages = model.inference("tf32").stages("triton", batch=2)
    after = next(s for s in stages if s.name == "choose-precision").graph
    kinds = {n.attrs["precision"] for n in after.nodes if "precision" in n.attrs}
    assert kinds == {"tf32"}
