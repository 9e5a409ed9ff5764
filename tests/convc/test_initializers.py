"""Initial values: their laws, their streams, and rules that do not fit."""

import math
from typing import Any

import numpy as np
import pytest

from convc import initializers
from convc.initializers import Initializer, fans, initial_state, initialize, resolve
from convc.ir import philox
from convc.ir.errors import TypeRuleError
from convc.ir.graph import Parameter, Value
from convc.ir.types import DType, TensorType
from convc.layers import dense, dropout
from convc.networks import strided
from convc.tracing import Tensor, trace

SCALAR = TensorType(DType.I64, ())


def matrix(*shape: int, dtype: DType = DType.F32) -> TensorType:
    return TensorType(dtype, shape)


def draw(rule: Initializer, kind: TensorType, name: str = "w", seed: int = 1) -> Any:
    return initialize(Parameter(Value(name, kind), rule.name, rule.attrs), seed)


def test_fills_have_the_parameters_dtype_and_shape() -> None:
    for kind in (matrix(2, 3), matrix(2, dtype=DType.F64), SCALAR):
        for rule, value in ((initializers.zeros(), 0), (initializers.ones(), 1)):
            array = draw(rule, kind)
            assert (array.dtype, array.shape) == (kind.dtype.numpy, kind.shape)
            assert np.all(array == value)
    array = draw(initializers.constant(0.1), matrix(2, 2))
    assert np.all(array == np.float32(0.1))
    assert array.flags.writeable


def test_a_constant_may_be_a_nested_list_or_an_array() -> None:
    values = [[1.0, 2.0], [3.0, 4.0]]
    for given in (values, np.array(values, np.float32)):
        rule = initializers.constant(given)
        assert rule.attrs == {"value": ((1.0, 2.0), (3.0, 4.0))}
        assert draw(rule, matrix(2, 2)).tolist() == values


def test_the_seed_gives_itself() -> None:
    for seed in (0, 7, 2**40):
        assert draw(Initializer("seed"), SCALAR, seed=seed) == seed


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((7,), (7, 7)), ((3, 4), (3, 4)), ((5, 5, 2, 8), (50, 200))],
)
def test_fans_count_the_window(shape: tuple[int, ...], expected: object) -> None:
    assert fans(shape) == expected


@pytest.mark.parametrize(
    ("rule", "limit"),
    [
        (initializers.glorot_uniform(), math.sqrt(6 / (200 + 300))),
        (initializers.he_uniform(), math.sqrt(6 / 200)),
    ],
)
def test_uniform_rules_fill_their_interval_evenly(
    rule: Initializer, limit: float
) -> None:
    w = draw(rule, matrix(200, 300)).astype(np.float64)
    assert w.min() >= -limit
    assert w.max() <= limit
    # Six standard errors of the mean, and of the variance, of n uniform draws.
    n = w.size
    assert abs(w.mean()) < 6 * limit / math.sqrt(3 * n)
    assert abs(w.var() / (limit**2 / 3) - 1) < 6 * math.sqrt(0.8 / n)


@pytest.mark.parametrize(
    ("rule", "stddev", "cut"),
    [
        (initializers.normal(0.5), 0.5, None),
        (initializers.truncated_normal(0.5), 0.5 * 0.87962566, 1.0),
        (initializers.glorot_normal(), math.sqrt(2 / 500), None),
        (initializers.he_normal(), math.sqrt(2 / 200), None),
    ],
)
def test_normal_rules_have_the_deviation_they_promise(
    rule: Initializer, stddev: float, cut: float | None
) -> None:
    w = draw(rule, matrix(200, 300)).astype(np.float64)
    # Six standard errors; a cut normal's fourth moment is below the normal's.
    assert abs(w.mean()) < 6 * stddev / math.sqrt(w.size)
    assert abs(w.var() / stddev**2 - 1) < 6 * math.sqrt(2 / w.size)
    if cut is not None:
        assert abs(w).max() <= cut


def test_the_mean_moves_a_normal() -> None:
    base = draw(initializers.normal(0.5), matrix(4, 4))
    moved = draw(initializers.normal(0.5, mean=2), matrix(4, 4))
    np.testing.assert_array_equal(moved, base + np.float32(2))


def test_values_come_from_the_stream_of_the_name_and_the_seed() -> None:
    rule, kind = initializers.normal(1.0), matrix(3, 5)
    w = draw(rule, kind, "conv1/kernel", seed=9)
    expected = philox.normal(9, philox.stream_of("conv1/kernel"), 0, 15)
    np.testing.assert_array_equal(w.ravel(), expected)
    assert not np.array_equal(w, draw(rule, kind, "conv2/kernel", seed=9))
    assert not np.array_equal(w, draw(rule, kind, "conv1/kernel", seed=10))


def test_another_layer_leaves_the_values_of_the_rest_alone() -> None:
    def longer(image: Tensor) -> Tensor:
        return dense(dropout(strided(image), keep=0.5), 3, name="more")

    short = initial_state(trace(strided, {"image": "f32[N,28,28,1]"}), 3)
    long = initial_state(trace(longer, {"image": "f32[N,28,28,1]"}), 3)
    assert long["training/seed"] == 3
    assert set(long) - set(short) == {
        *("more/kernel", "more/biases", "training/seed", "training/step")
    }
    for name, array in short.items():
        np.testing.assert_array_equal(long[name], array)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("xavier", "an initializer is one of zeros, .* or constant.*, got 'xavier'"),
        ("constant", "got 'constant'"),
        (None, "an initializer is one of .* got None"),
        (np.zeros(2), "an initializer is one of .* got array"),
        (len, "an initializer is one of"),
        (initializers.normal(stddev=-1), "normal: stddev must be a number from 0, got"),
        (
            initializers.normal(mean=float("nan")),
            "normal: mean must be a number, got nan",
        ),
        (initializers.truncated_normal(stddev="a"), "stddev must be a number from 0"),  # type: ignore[arg-type]
        (initializers.normal(stddev=True), "stddev must be a number from 0, got True"),
        (initializers.constant([1, 2]), r"the list has the shape \[2\], .* f32\[2,2\]"),
        (initializers.constant([[1], [2, 3]]), "constant: needs finite numbers"),
        (initializers.constant("a"), "constant: needs finite numbers, got 'a'"),
        (initializers.constant(float("inf")), "constant: needs finite numbers"),
        (Initializer("zeros", {"value": 1}), "zeros: has no argument 'value'"),
        (Initializer("seed"), r"seed: fills an integer scalar only, not f32\[2,2\]"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(given: Any, said: str) -> None:
    with pytest.raises(TypeRuleError, match=said):
        resolve(given, matrix(2, 2))


def test_the_smallest_deviation_is_zero() -> None:
    assert np.all(draw(initializers.normal(0, mean=3), matrix(2, 2)) == 3)


def test_random_rules_fill_no_integers() -> None:
    with pytest.raises(TypeRuleError, match=r"normal: draws real numbers, not i64\[\]"):
        resolve("normal", SCALAR)


def test_a_rule_edited_in_ir_text_is_checked_again() -> None:
    with pytest.raises(
        TypeRuleError, match="%w: unknown initializer 'magic', known: c"
    ):
        draw(Initializer("magic"), matrix(2, 2))
    with pytest.raises(
        TypeRuleError, match="%w: normal: stddev must be a number from 0"
    ):
        draw(Initializer("normal", {"stddev": -1.0}), matrix(2, 2))


@pytest.mark.parametrize("name", sorted(initializers.INITIALIZERS))
def test_a_name_stands_for_the_rule_with_its_defaults(name: str) -> None:
    function = initializers.INITIALIZERS[name]
    assert resolve(name, matrix(2, 2)) == resolve(function, matrix(2, 2)) == function()
    assert function().name == name
