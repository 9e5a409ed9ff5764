"""A kernel that is scheduled as Winograd's tiles is bounded as such."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pass_bench import graph_of

from convc.ir.graph import Graph
from convc.ir.interpreter import interpret
from convc.ir.rounding import bounded
from convc.ir.winograd import OPS, error_bound, most_roundings

UNIT = 2.0**-24
TEXT = """
graph g(%x: f32[N,5,6,CC], %w: f32[3,3,CC,2]) -> (y=%1) {
  %1 = kernel conv(%x, %w) : f32[N,5,6,2] {
    %a = conv2d(%0, %1) {padding=same} : f32[N,5,6,2]
    yield %a
  }
}
"""


def scheduled(channels: int, algorithm: str, m: int = 2) -> Graph:
    graph = graph_of(TEXT.replace("CC", str(channels)))
    schedule = {"algorithm": algorithm, "images": 1, "m": m}
    return replace(graph, nodes=(replace(graph.nodes[0], schedule=schedule),))


def bound(
    graph: Graph, x: NDArray[np.float32], w: NDArray[np.float32]
) -> NDArray[np.float64]:
    bounds = bounded(graph, {"x": x, "w": w}, {})
    assert np.allclose(
        bounds.outputs["y"], interpret(graph, {"x": x, "w": w}, {}).outputs["y"]
    )
    return np.asarray(bounds.output_bounds["y"])


def test_the_bound_of_ones_is_what_the_row_sums_say() -> None:
    """8 a dimension for an output whose tile lies inside the image: 64 a channel."""
    x = np.full((1, 5, 6, 3), 1 / 3, np.float32)
    w = np.full((3, 3, 3, 2), 1 / 3, np.float32)
    count = 3 + most_roundings(2, 3)
    mass = 3 * 64 / 9
    inner = bound(scheduled(3, "winograd"), x, w)[0, 2, 2]
    assert inner == pytest.approx(count * UNIT * mass, rel=1e-4)
    assert most_roundings(2, 3) == (9 - 1) + (4 - 1) + (9 - 1)


def test_another_algorithm_is_bounded_as_the_sum_it_is() -> None:
    rng = np.random.default_rng(1)
    x, w = (rng.random(s, np.float32) for s in ((2, 5, 6, 3), (3, 3, 3, 2)))
    plain = replace(scheduled(3, "im2col_rows").nodes[0], schedule=None)
    meant = replace(scheduled(3, "im2col_rows"), nodes=(plain,))
    other = bound(scheduled(3, "im2col_rows"), x, w)
    assert np.array_equal(other, bound(meant, x, w))
    assert (other < bound(scheduled(3, "winograd"), x, w)).all()


def test_an_empty_window_beside_a_full_one_may_round_but_for_f_2_3() -> None:
    """The sum of zeros is exact; a tile's other pixels cancel but for rounding."""
    x, w = np.zeros((1, 5, 6, 4), np.float32), np.full((3, 3, 4, 2), 0.3, np.float32)
    x[:, 2, 2] = 0.7
    empty = (0, 0, 0)
    assert not bound(scheduled(4, "im2col_rows"), x, w)[empty].any()
    assert not bound(scheduled(4, "winograd"), x, w)[empty].any()
    assert bound(scheduled(4, "winograd", m=4), x, w)[empty].all()


def test_whole_numbers_stay_exact() -> None:
    rng = np.random.default_rng(2)
    x, w = (
        rng.integers(-3, 4, s).astype(np.float32) for s in ((2, 5, 6, 8), (3, 3, 8, 2))
    )
    assert not bound(scheduled(8, "winograd"), x, w).any()


GRADIENTS = """
graph g(%d: f32[N,8,8,3], %w: f32[3,3,2,3], %x: f32[N,8,8,2]) -> (dx=%1, dw=%2) {
  %1, %2 = kernel b(%d, %w, %x) : f32[N,8,8,2], f32[3,3,2,3] {
    %a = conv2d_input_grad(%0, %1) {padding=same, size=[8,8]} : f32[N,8,8,2]
    %b = conv2d_filter_grad(%2, %0) {padding=same, kernel=[3,3]} : f32[3,3,2,3]
    yield %a, %b
  }
}
"""
SHAPES = {"d": (2, 8, 8, 3), "w": (3, 3, 2, 3), "x": (2, 8, 8, 2)}


def gradient_bounds(algorithm: str, m: int, given: dict[str, Any]) -> dict[str, Any]:
    graph = graph_of(GRADIENTS)
    schedule = {"algorithm": algorithm, "images": 1, "m": m}
    node = replace(graph.nodes[0], schedule=schedule)
    return dict(bounded(replace(graph, nodes=(node,)), given, {}).output_bounds)


def test_the_bounds_of_gradients_of_ones_are_those_that_gate() -> None:
    """Where tiles lie inside the image; else they have less to be off by."""
    ones = {k: np.ones(s, np.float32) for k, s in SHAPES.items()}
    found = gradient_bounds("winograd", 2, {k: v * 0.9 for k, v in ones.items()})
    for name, op, terms in (("dx", OPS[1], 3), ("dw", OPS[2], 2 * 4 * 4)):
        worst = found[name].max() / 0.9**2
        gate = error_bound(2, 3, terms, op)
        assert 0.9 * gate < worst < 1.3 * gate, (name, worst, gate)


@pytest.mark.parametrize("m", [2, 4])
def test_gradients_round_more_than_their_sums(m: int) -> None:
    rng = np.random.default_rng(4)
    given = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    sums = gradient_bounds("im2col_rows", m, given)
    for name, bounds in gradient_bounds("winograd", m, given).items():
        assert (sums[name] < bounds).all(), name


def test_gradients_of_whole_numbers_stay_exact() -> None:
    rng = np.random.default_rng(3)
    given = {k: rng.integers(-3, 4, s).astype(np.float32) for k, s in SHAPES.items()}
    for name, bounds in gradient_bounds("winograd", 2, given).items():
        assert not bounds.any(), name
