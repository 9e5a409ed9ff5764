"""Convolution of sequences and volumes: shapes, variables, one product, errors."""

from typing import Any

import pytest

from convc.ir.errors import ModelError
from convc.ir.graph import Graph
from convc.ir.verifier import verify
from convc.layers import conv1d, conv3d, relu
from convc.summary import summary_table
from convc.tracing import Tensor, trace


def sequence(**arguments: Any) -> Graph:
    given = {"filters": 4, "kernel_size": 3, "name": "c", **arguments}
    return verify(trace(lambda x: conv1d(x, **given), {"x": "f32[N,9,6]"}))


def volume(**arguments: Any) -> Graph:
    given = {"filters": 4, "kernel_size": 3, "name": "c", **arguments}
    return verify(trace(lambda x: conv3d(x, **given), {"x": "f32[N,7,8,9,2]"}))


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, "f32[N,7,4]"),
        ({"padding": "SAME", "strides": 2}, "f32[N,5,4]"),
        ({"padding": [0, 2], "strides": [1, 3, 1]}, "f32[N,3,4]"),
        ({"padding": [[1, 1]], "dilation_rate": [2]}, "f32[N,7,4]"),
        ({"padding": [[0, 0], [1, 0], [0, 0]]}, "f32[N,8,4]"),
    ],
)
def test_a_sequence_has_one_of_everything(
    arguments: dict[str, Any], shape: str
) -> None:
    assert str(sequence(**arguments).outputs[0][1].type) == shape


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, "f32[N,5,6,7,4]"),
        ({"padding": "SAME", "strides": 2}, "f32[N,4,4,5,4]"),
        ({"kernel_size": (1, 2, 3), "strides": [1, 3, 2, 1, 1]}, "f32[N,3,4,7,4]"),
        ({"padding": [[1, 0], [0, 2], [3, 3]]}, "f32[N,6,8,13,4]"),
        ({"padding": 1, "dilation_rate": (3, 2, 1)}, "f32[N,3,6,9,4]"),
    ],
)
def test_a_volume_has_three_of_everything(
    arguments: dict[str, Any], shape: str
) -> None:
    assert str(volume(**arguments).outputs[0][1].type) == shape


def test_kernels_have_an_axis_for_each_of_the_windows() -> None:
    kinds = {p.value.name: str(p.value.type) for p in sequence(groups=2).parameters}
    assert kinds == {"c/kernel": "f32[3,3,4]", "c/biases": "f32[4]"}
    kinds = {p.value.name: str(p.value.type) for p in volume().parameters}
    assert kinds == {"c/kernel": "f32[3,3,3,2,4]", "c/biases": "f32[4]"}


def test_each_is_one_convolution_with_its_bias_and_activation_behind_it() -> None:
    """So that the three are one kernel; a function of the user's comes last."""
    for graph in (sequence(activation="relu"), volume(activation=relu)):
        ops = [n.op for n in graph.nodes]
        at = ops.index("conv2d")
        assert ops.count("conv2d") == 1
        assert ops[at : at + 3] == ["conv2d", "bias_add", "relu"]
    shapes: list[tuple[Any, ...]] = []

    def own(y: Tensor) -> Tensor:
        shapes.append(y.shape)
        return y

    assert [n.op for n in volume(activation=own).nodes][-1] == "reshape"
    assert shapes == [("N", 5, 6, 7, 4)]


def test_a_plain_volume_costs_few_rows_more_than_it_must() -> None:
    """8 rows and one of zeros between planes: 9 of 8 products are needed."""
    (row,) = summary_table(volume(padding="same", use_bias=False)).rows
    assert row.kind == "conv3d"
    assert row.flops == 2 * 7 * (8 + 1) * 9 * 4 * 27 * 2
    assert summary_table(sequence()).rows[0].kind == "conv1d"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kernel_size": [3, 3]}, r"kernel_size has one number \(length\), got 2 in"),
        ({"padding": [[0, 1], [0, 1]]}, r"valid, a number or \[before, after\], got"),
        ({"padding": "full"}, r"a number or \[before, after\], got 'full'"),
        ({"kernel_size": 10}, "conv1d: a window of 10 is larger than its input of 9"),
        ({"groups": 4}, "6 and 4 are not both multiples of 4"),
        ({"strides": [2, 1, 1]}, r"for the batch .* write \[1, 1, 1\]"),
    ],
)
def test_arguments_of_a_sequence_that_do_not_fit_are_named(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        sequence(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"kernel_size": [3, 3]},
            r"one number or three \(depth, height, width\), got 2 in \[3, 3\]",
        ),
        (
            {"padding": [[0, 1]]},
            r"a number or \[\[front, back\], \[top, bottom\], \[",
        ),
        ({"kernel_size": 8}, "conv3d: a window of 8 is larger than its input of 7"),
        ({"strides": 0}, "conv3d: strides must be a whole number of at least 1, got 0"),
    ],
)
def test_arguments_of_a_volume_that_do_not_fit_are_named(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        volume(**arguments)


def test_other_ranks_are_answered_with_reshape() -> None:
    said = r"conv1d: inputs must have 3 axes, has 2 .*\[-1, length, channels\]\) makes"
    with pytest.raises(ModelError, match=said):
        trace(lambda x: conv1d(x, 4, 3), {"x": "f32[N,9]"})
    said = r"has 4 .*; reshape\(x, \[-1, depth, height, width, channels\]\) makes vol"
    with pytest.raises(ModelError, match=said):
        trace(lambda x: conv3d(x, 4, 3), {"x": "f32[N,9,9,9]"})
