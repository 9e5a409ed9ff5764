"""Check mode draws small whole numbers, the same ones every time."""

import numpy as np
import pytest
from op_bench import tensor
from pass_bench import stage_after

from convc.ir.graph import Value
from convc.passes.manager import Pass
from convc.passes.samples import LARGEST, sample


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_floats_are_small_whole_numbers_of_both_signs(kind: str) -> None:
    array = sample(Value("x", tensor(f"{kind}[N,50]")), 3)
    assert array.shape == (3, 50)
    assert array.dtype == tensor(f"{kind}[N]").dtype.numpy
    assert set(np.unique(array)) == set(range(-LARGEST, LARGEST + 1))


@pytest.mark.parametrize(
    ("kind", "count"), [("i32", 2), ("u8", 2), ("bool", 2), ("i64", 5)]
)
def test_integers_are_counted_from_zero(kind: str, count: int) -> None:
    array = sample(Value("labels", tensor(f"{kind}[N,50]")), 3)
    assert array.dtype == tensor(f"{kind}[N]").dtype.numpy
    assert {int(v) for v in np.unique(array)} == set(range(count))


def test_a_value_gets_the_same_sample_every_time_and_another_one_another() -> None:
    x, y = (sample(Value(name, tensor("f32[N,9]")), 3) for name in "xy")
    assert np.array_equal(x, sample(Value("x", tensor("f32[N,9]")), 3))
    assert not np.array_equal(x, y)


def test_labels_are_classes_even_where_there_is_one() -> None:
    text = """
    graph g(%x: f32[N,1], %labels: i32[N]) -> (loss=%l) {
      %e = softmax_cross_entropy(%x, %labels) : f32[N]
      %l = reduce_mean(%e) {axes=[0]} : f32[]
    }
    """
    assert stage_after(Pass("keep", lambda graph, context: graph), of=text).checked
