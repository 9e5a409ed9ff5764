"""Pooling layers: windows, strides, and a window that does not fit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convc.ir.errors import ModelError
from convc.ir.graph import Graph
from convc.ir.interpreter import interpret
from convc.ir.verifier import verify
from convc.layers import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from convc.tracing import Tensor, trace

POOLS = (max_pool2d, avg_pool2d)


def traced(function: Callable[[Tensor], Any], kind: str = "f32[N,7,7,2]") -> Graph:
    return verify(trace(function, {"x": kind}))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ({}, "f32[N,3,3,2]"),
        ({"padding": "SAME"}, "f32[N,4,4,2]"),
        ({"pool_size": 3}, "f32[N,2,2,2]"),
        ({"pool_size": 3, "strides": 1}, "f32[N,5,5,2]"),
        ({"pool_size": [1, 2, 3, 1], "strides": [1, 1, 2, 1]}, "f32[N,6,3,2]"),
        ({"pool_size": 7}, "f32[N,1,1,2]"),
        ({"pool_size": 8, "padding": 1}, "f32[N,1,1,2]"),
        ({"pool_size": 8, "padding": "same"}, "f32[N,1,1,2]"),
    ],
)
def test_strides_default_to_the_window(
    pool: Callable[..., Tensor], arguments: dict[str, Any], result: str
) -> None:
    graph = traced(lambda x: pool(x, **arguments))
    assert str(graph.outputs[0][1].type) == result


@pytest.mark.parametrize("pool", POOLS)
def test_a_window_larger_than_its_input_is_refused(pool: Callable[..., Tensor]) -> None:
    said = (
        f"{pool.__name__}: a window of 8 is larger than its input of 7; use a smaller"
    )
    with pytest.raises(ModelError, match=said):
        traced(lambda x: pool(x, 8))


def test_padding_is_smaller_than_the_window() -> None:
    assert traced(lambda x: max_pool2d(x, 2, padding=1)).nodes
    with pytest.raises(
        ModelError, match="padding must be smaller than the window of 2"
    ):
        traced(lambda x: max_pool2d(x, 2, padding=2))


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_wants_images_and_sizes(pool: Callable[..., Tensor]) -> None:
    with pytest.raises(ModelError, match="inputs must have 4 axes, has 2"):
        traced(pool, "f32[N,7]")
    with pytest.raises(ModelError, match="pool_size must be a whole number"):
        traced(lambda x: pool(x, 0))
    with pytest.raises(ModelError, match="strides must be a whole number"):
        traced(lambda x: pool(x, 2, 0))


def test_global_pools_leave_one_number_a_channel() -> None:
    x = np.random.default_rng(0).random((3, 7, 5, 2))
    for pool, reduce in ((global_avg_pool2d, np.mean), (global_max_pool2d, np.max)):
        graph = traced(pool, "f32[N,7,5,2]")
        (result,) = interpret(graph, {"x": x}, {}, float64=True).outputs.values()
        np.testing.assert_allclose(result, reduce(x, axis=(1, 2)), rtol=1e-14)


@pytest.mark.parametrize("pool", [max_pool1d, avg_pool1d])
def test_sequences_are_pooled_along_their_length(pool: Callable[..., Tensor]) -> None:
    for arguments, result in (
        ({}, "f32[N,3,2]"),
        ({"pool_size": 3, "strides": 2, "padding": "SAME"}, "f32[N,4,2]"),
        ({"pool_size": [1, 2, 1], "padding": [0, 1]}, "f32[N,4,2]"),
    ):
        graph = traced(lambda x, a=arguments: pool(x, **a), "f32[N,7,2]")  # type: ignore[misc]
        assert str(graph.outputs[0][1].type) == result
    with pytest.raises(ModelError, match=r"pool_size has one number \(length\), got 2"):
        traced(lambda x: pool(x, [2, 2]), "f32[N,7,2]")
    with pytest.raises(ModelError, match=f"{pool.__name__}: inputs must have 3 axes"):
        traced(pool)


@pytest.mark.parametrize("pool", [max_pool3d, avg_pool3d])
def test_volumes_are_pooled_along_three_axes(pool: Callable[..., Tensor]) -> None:
    for arguments, result in (
        ({}, "f32[N,2,3,4,2]"),
        ({"pool_size": (1, 3, 2), "strides": 2, "padding": "SAME"}, "f32[N,3,4,5,2]"),
        ({"padding": [[1, 0], [0, 1], [1, 1]]}, "f32[N,3,4,5,2]"),
    ):
        graph = traced(lambda x, a=arguments: pool(x, **a), "f32[N,5,7,9,2]")  # type: ignore[misc]
        assert str(graph.outputs[0][1].type) == result
    with pytest.raises(
        ModelError, match=f"{pool.__name__}: a window of 6 is larger than"
    ):
        traced(lambda x: pool(x, 6), "f32[N,5,7,9,2]")
    with pytest.raises(ModelError, match=f"{pool.__name__}: inputs must have 5 axes"):
        traced(pool)
