"""Check mode draws small numbers, the same ones every time."""

import numpy as np
import pytest
from op_bench import tensor
from pass_bench import graph_of

from convc.ir.graph import Value
from convc.passes.samples import LARGEST, PERIOD, Samples, sample


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_floats_are_small_whole_numbers_of_both_signs(kind: str) -> None:
    array = sample(Value("x", tensor(f"{kind}[N,50]")), 3)
    assert array.shape == (3, 50)
    assert array.dtype == tensor(f"{kind}[N]").dtype.numpy
    assert set(np.unique(array)) == set(range(-LARGEST, LARGEST + 1))


@pytest.mark.parametrize(
    ("kind", "count"), [("i32", 2), ("u8", 5), ("bool", 2), ("i64", 5)]
)
def test_integers_are_counted_from_zero(kind: str, count: int) -> None:
    array = sample(Value("labels", tensor(f"{kind}[N,50]")), 3)
    assert array.dtype == tensor(f"{kind}[N]").dtype.numpy
    assert {int(v) for v in np.unique(array)} == set(range(count))


def test_a_value_gets_the_same_sample_every_time_and_another_one_another() -> None:
    x, y = (sample(Value(name, tensor("f32[N,9]")), 3) for name in "xy")
    assert np.array_equal(x, sample(Value("x", tensor("f32[N,9]")), 3))
    assert not np.array_equal(x, y)


def test_real_numbers_sum_to_about_one() -> None:
    """A filter's elements are as small as their number asks for."""
    weights = sample(Value("w", tensor("f32[400,300]")), 1, whole=False)
    assert np.abs(weights).max() <= 1 / 20
    assert weights.size > PERIOD
    assert abs(float(weights.mean())) < 1e-3
    assert not np.array_equal(weights[0], weights[1])


def test_states_are_positive_among_real_numbers_and_parameters_are_not() -> None:
    text = """
    graph g(%x: f32[N,4]) -> (y=%x) {
      param %gamma : f32[40] = ones()
      state %variance : f32[40] = ones()
    }
    """
    _, parameters = Samples(whole=False).of(graph_of(text))
    assert parameters["variance"].min() > 0
    assert parameters["gamma"].min() < 0


def test_graphs_share_the_very_same_arrays() -> None:
    """So that what is evaluated on them can be remembered."""
    text = """
    graph g(%x: f32[N,4]) -> (y=%x) {
      state %step : i64[] = zeros()
      state %average : f32[] = zeros()
    }
    """
    for samples in (Samples(), Samples(whole=False)):
        one, two = (samples.of(graph_of(text)) for _ in range(2))
        assert all(one[0][k] is two[0][k] for k in ("x",))
        assert all(one[1][k] is two[1][k] for k in ("step", "average"))


def test_an_input_that_is_fed_holds_its_number() -> None:
    graph = graph_of("graph g(%x: f32[N,4], %p: f32[] = 0.75) -> (y=%x) {}")
    for samples in (Samples(), Samples(whole=False)):
        one, two = (samples.of(graph)[0]["p"] for _ in range(2))
        assert one is two
        assert (one.dtype, float(one)) == (np.float32, 0.75)
