"""A kernel that is scheduled as products of frequencies is bounded as such."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pass_bench import graph_of

from convc.ir.dft import Dft, Line, error_bound
from convc.ir.graph import Graph
from convc.ir.rounding import Bounds, bounded

TEXT = """
graph g(%x: f32[N,6,7,3], %w: f32[3,3,3,4], %d: f32[N,3,4,4]) -> (y=%1, dx=%2, dw=%3) {
  %1 = kernel a(%x, %w) : f32[N,3,4,4] {
    %a = conv2d(%0, %1) {padding=same, strides=[2,2]} : f32[N,3,4,4]
    yield %a
  }
  %2, %3 = kernel b(%d, %w, %x) : f32[N,6,7,3], f32[3,3,3,4] {
    %a = conv2d_input_grad(%0, %1) {padding=same, strides=[2,2], size=[6,7]} :
      f32[N,6,7,3]
    %b = conv2d_filter_grad(%2, %0) {padding=same, strides=[2,2], kernel=[3,3]} :
      f32[3,3,3,4]
    yield %a, %b
  }
}
""".replace(" :\n     ", " :")
SHAPES = {"x": (2, 6, 7, 3), "w": (3, 3, 3, 4), "d": (2, 3, 4, 4)}
RESULTS = ("y", "dx", "dw")


def scheduled(algorithm: str) -> Graph:
    graph = graph_of(TEXT)
    schedule = {"algorithm": algorithm, "images": 1, "filters": 1}
    nodes = (replace(node, schedule=schedule) for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def bounds(algorithm: str, **given: NDArray[np.float32]) -> Bounds:
    rng = np.random.default_rng(0)
    feeds = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    return bounded(scheduled(algorithm), {**feeds, **given}, {})


@pytest.mark.parametrize("name", RESULTS)
def test_the_means_are_the_same_and_the_bound_is_wider(name: str) -> None:
    direct, dft = bounds("im2col_rows"), bounds("dft")
    assert np.array_equal(direct.outputs[name], dft.outputs[name])
    assert (direct.output_bounds[name] < dft.output_bounds[name]).all()


def test_the_bound_of_ones_is_the_one_that_gates() -> None:
    ones = {k: np.ones(s, np.float32) for k, s in SHAPES.items()}
    found = bounds("dft", **ones).output_bounds["y"].max()
    rows, cols = Line(6, 3, 3, 2, 1, 0), Line(7, 3, 4, 2, 1, 1)
    assert found == pytest.approx(error_bound(Dft(rows, cols), 3), rel=1e-3)


@pytest.mark.parametrize("name", RESULTS)
def test_nothing_but_zeros_is_exact_and_whole_numbers_are_not(name: str) -> None:
    zeros = {k: np.zeros(s, np.float32) for k, s in SHAPES.items()}
    whole = {k: np.full(s, 3, np.float32) for k, s in SHAPES.items()}
    assert bounds("dft", **zeros).output_bounds[name].max() < 1e-30
    assert not bounds("im2col_rows", **whole).output_bounds[name].any()
    assert bounds("dft", **whole).output_bounds[name].all()


def test_a_pixel_far_away_may_round() -> None:
    """The sum of zeros beside it is exact; frequencies cancel but for rounding."""
    x = np.zeros(SHAPES["x"], np.float32)
    x[:, 5, 6] = 0.7
    corner = (0, 0, 0)
    assert not bounds("im2col_rows", x=x).output_bounds["y"][corner].any()
    assert bounds("dft", x=x).output_bounds["y"][corner].all()
