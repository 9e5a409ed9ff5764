"""Slopes by differences come with bounds that hold, also where there is a kink."""

from collections.abc import Callable

import numpy as np
import pytest
from pass_bench import graph_of

from convc.passes.differences import Loss, differences, direction

KINKED = """
graph g(%x: f32[N,6,6,1]) -> (loss=%5) {
  param %a : f32[6,6,1] = zeros()
  param %b : f32[3,3,1] = zeros()
  %1 = add(%x, %a) : f32[N,6,6,1]
  %2 = relu(%1) : f32[N,6,6,1]
  %3 = max_pool2d(%2) {window=[2,2], strides=[2,2]} : f32[N,3,3,1]
  %4 = maximum(%3, %b) : f32[N,3,3,1]
  %5 = reduce_sum(%4) {axes=[0,1,2,3]} : f32[]
}
"""


@pytest.mark.parametrize(
    ("f", "slope"),
    [(np.exp, 1.0), (np.sin, 1.0), (lambda t: 3 * t + 2, 3.0), (np.cosh, 0.0)],
)
@pytest.mark.parametrize("step", [0.5, 1e-2, 1e-5])
def test_the_bound_covers_what_a_step_misses(
    f: Callable[[float], float], slope: float, step: float
) -> None:
    found = differences(f, f(0.0), step, 2.0**-52)
    assert abs(found.value - slope) <= found.bound
    assert found.bound < step**2 + 1e-13 / step


@pytest.mark.parametrize("at", [1e-9, 0.1, 0.2, 0.3, 1 / 3, 0.4, 0.49, 0.6, 0.9])
@pytest.mark.parametrize("side", [-1, 1])
def test_the_bound_covers_a_kink_wherever_it_is(at: float, side: int) -> None:
    def f(t: float) -> float:
        return 2 * t + 5 * max(side * t - at, 0.0)

    found = differences(f, f(0.0), 1.0, 0.0)
    assert abs(found.value - 2) <= found.bound + 1e-12


def test_decisions_are_held_so_that_large_steps_meet_no_kink() -> None:
    """The function of KINKED is piecewise linear: any step along a piece is exact."""
    graph = graph_of(KINKED)
    rng = np.random.default_rng(2)
    given = {
        "a": rng.normal(size=(6, 6, 1)).astype(np.float32),
        "b": rng.normal(size=(3, 3, 1)).astype(np.float32),
    }
    loss = Loss(graph, "loss", {"x": rng.normal(size=(2, 6, 6, 1))}, given)
    moved = {name: direction(name, array, 0) for name, array in given.items()}
    held = [(loss.at(moved, t) - loss.value) / t for t in (8.0, -8.0, 1e-3)]
    assert np.allclose(held, held[0], rtol=1e-9, atol=0)
    slope = loss.slope(moved, 1.0)
    assert slope is not None
    assert abs(slope.value - held[0]) <= slope.bound < 1e-6


def test_a_direction_is_the_same_in_every_run_and_another_for_another_name() -> None:
    like = np.zeros((300, 300))
    one = direction("w", like, 0)
    assert one.shape == like.shape
    assert np.array_equal(one, direction("w", like, 0))
    for other in (direction("w", like, 1), direction("v", like, 0)):
        assert not np.array_equal(one, other)
    assert np.abs(one).max() <= 1
    assert not np.array_equal(one[0], one[1])
