"""Layers that arrange, join and reduce."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from convc.ir.errors import ModelError
from convc.ir.interpreter import interpret
from convc.ir.verifier import verify
from convc.layers import (
    add,
    concat,
    crop2d,
    flatten,
    pad,
    reduce_mean,
    reduce_sum,
    reshape,
    transpose,
)
from convc.tracing import Tensor, get_variable, trace

KIND = "f32[N,4,6]"


def result(function: Callable[[Tensor], Any], kind: str = KIND) -> str:
    return str(verify(trace(function, {"x": kind})).outputs[0][1].type)


def test_flatten_makes_each_image_one_row() -> None:
    assert result(flatten, "f32[N,7,7,64]") == "f32[N,3136]"
    assert result(flatten, "f32[N]") == "f32[N,1]"
    assert trace(flatten, {"x": "f32[N,3]"}).nodes == ()
    with pytest.raises(ModelError, match="flatten: a scalar has no batch"):
        result(flatten, "f32[]")


def test_a_crop_takes_the_border_off_every_side() -> None:
    graph = verify(trace(lambda x: crop2d(x, 1), {"x": "f32[N,4,5,2]"}))
    x = np.arange(80, dtype=np.float32).reshape(2, 4, 5, 2)
    (cropped,) = interpret(graph, {"x": x}, {}).outputs.values()
    assert np.array_equal(cropped, x[:, 1:-1, 1:-1])
    assert trace(lambda x: crop2d(x, 0), {"x": "f32[N,4,5,2]"}).nodes == ()


def test_a_crop_leaves_something() -> None:
    with pytest.raises(ModelError, match="crop2d: a border of 2 .* nothing of 4"):
        result(lambda x: crop2d(x, 2), "f32[N,6,4,2]")
    with pytest.raises(ModelError, match="crop2d: pixels must be a whole number"):
        result(lambda x: crop2d(x, -1), "f32[N,6,4,2]")


@pytest.mark.parametrize(
    "shape", [[-1, 24], [None, 24], ["N", 24], [-1, -1], (None, -1)]
)
def test_the_batch_is_written_minus_one_none_or_n(shape: Any) -> None:
    assert result(lambda x: reshape(x, shape)) == "f32[N,24]"


def test_one_open_dimension_is_computed() -> None:
    assert result(lambda x: reshape(x, [-1, 2, -1, 3])) == "f32[N,2,4,3]"
    assert result(lambda x: reshape(x, [-1, 24, -1])) == "f32[N,24,1]"
    assert result(lambda x: reshape(x, [2, -1]), "f32[8]") == "f32[2,4]"


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([-1, 25], r"24 elements per image do not fill shape \[-1, 25\], which has 25"),
        ([-1, 7, -1], "24 elements per image do not fill .* which has a multiple of 7"),
        ([-1, -1, -1], "one dimension beside the batch may be -1, .* has 2"),
        ([24], r"the batch stays first, .* write \['N'\] with -1 for N"),
        ([4, 6], r"the batch stays first, .* write \['N', 6\]"),
        ([], "the batch stays first"),
        ([-1, 0], "a dimension must be a whole number of at least 1, got 0"),
        ([-1, None], "a dimension must be a whole number of at least 1, got None"),
        (24, "shape is a list of dimensions, got 24"),
        ("N", "shape is a list of dimensions, got 'N'"),
    ],
)
def test_a_shape_that_does_not_fit_is_explained(shape: Any, said: str) -> None:
    with pytest.raises(ModelError, match=f"reshape: {said}"):
        result(lambda x: reshape(x, shape))


def test_concat_joins_along_an_axis_from_either_end() -> None:
    assert result(lambda x: concat([x, x, x])) == "f32[N,4,18]"
    assert result(lambda x: concat((x, x), axis=1)) == "f32[N,8,6]"


def test_concat_wants_a_list_of_tensors_that_fit() -> None:
    with pytest.raises(ModelError, match="concat: inputs must be a list of tensors"):
        result(concat)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="concat: inputs must be a list of tensors"):
        result(lambda x: concat([]))
    with pytest.raises(ModelError, match=r"concat: inputs\[1\] must be a tensor"):
        result(lambda x: concat([x, 3]))  # type: ignore[list-item]
    with pytest.raises(ModelError, match="axis must be one of .* other than the batch"):
        result(lambda x: concat([x, x], axis=0))
    with pytest.raises(ModelError, match="operands may differ along axis 2 only"):
        result(lambda x: concat([x, reshape(x, [-1, 6, 4])]))


def test_add_is_the_operator_under_a_name() -> None:
    graph = trace(lambda x: add(x, x, name="residual"), {"x": KIND})
    assert graph.nodes[0].locs[0].layer == "residual"
    with pytest.raises(ModelError, match="add: y must be a tensor .* got a int"):
        result(lambda x: add(x, 3))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="shapes do not broadcast"):
        result(lambda x: add(x, get_variable("w", [5])))


def test_reductions_count_axes_from_either_end() -> None:
    x = np.random.default_rng(0).random((2, 4, 6))
    for layer, numpy in ((reduce_mean, np.mean), (reduce_sum, np.sum)):
        for axes in (1, -1, [1, 2], (-2, -1), (0, 1, 2)):
            graph = verify(trace(partial(layer, axes=axes), {"x": KIND}))
            (y,) = interpret(graph, {"x": x}, {}, float64=True).outputs.values()
            at = axes if isinstance(axes, int) else tuple(axes)
            np.testing.assert_allclose(y, numpy(x, axis=at), rtol=1e-14)


def test_reductions_refuse_axes_that_are_not_there() -> None:
    with pytest.raises(ModelError, match="must be distinct axes of x"):
        result(lambda x: reduce_sum(x, [1, -2]))
    with pytest.raises(ModelError, match="must be distinct axes of x"):
        result(lambda x: reduce_sum(x, 3))
    with pytest.raises(ModelError, match="axes must be a whole number of at least -3"):
        result(lambda x: reduce_sum(x, -4))


def test_transpose_orders_the_axes_after_the_batch() -> None:
    assert result(lambda x: transpose(x, [0, 2, 1])) == "f32[N,6,4]"
    for perm, said in (
        ([1, 0, 2], "must leave the batch in front"),
        ([0, 1], "must order the axes of x"),
        ([0, -1, 1], "perm must be a whole number of at least 0, got -1"),
        (3, "perm is a list of axes, got 3"),
    ):
        with pytest.raises(ModelError, match=f"transpose: .*{said}"):
            result(lambda x, p=perm: transpose(x, p))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "padding", "shape"),
    [
        ("f32[N,4,6,3]", 2, "f32[N,8,10,3]"),
        ("f32[N,4,6,3]", [[1, 0], [0, 3]], "f32[N,5,9,3]"),
        ("f32[N,4,6,3]", [[0, 0], [1, 1], [0, 2], [3, 0]], "f32[N,6,8,6]"),
        (KIND, [[0, 0], [1, 2], (0, 1)], "f32[N,7,7]"),
        ("f32[4,6]", [[1, 0], [0, 2]], "f32[5,8]"),
    ],
)
def test_pad_takes_what_images_need_or_a_pair_for_each_axis(
    kind: str, padding: Any, shape: str
) -> None:
    assert result(lambda x: pad(x, padding), kind) == shape


@pytest.mark.parametrize(
    ("padding", "said"),
    [
        (1, r"padding is a number or .* got 1 \(inputs: f32\[N,4,6\]\)"),
        ([[1, 1], [1, 1]], "padding is a number or"),
        ([[0, 0], [1, 1], 2], "padding is a number or"),
        ("same", "padding is a number or .* got 'same'"),
        ([[0, 0], [0, -1], [0, 0]], "padding must be a whole number of at least 0"),
        ([[1, 0], [0, 0], [0, 0]], "must be a pair for every axis, 0 for the batch"),
    ],
)
def test_padding_that_does_not_fit_is_refused(padding: Any, said: str) -> None:
    with pytest.raises(ModelError, match=f"pad: .*{said}"):
        result(lambda x: pad(x, padding))
