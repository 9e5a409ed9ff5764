"""Learning-rate schedules: their values as IR, and arguments out of range."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convc.ir.builder import GraphBuilder
from convc.ir.errors import ModelError
from convc.ir.interpreter import interpret
from convc.ir.types import DType, TensorType
from convc.ir.verifier import verify
from convc.schedules import (
    Constant,
    CosineDecay,
    ExponentialDecay,
    PiecewiseConstant,
    Schedule,
    Warmup,
    schedule,
)


def rates(rule: Schedule, steps: list[int], float64: bool = True) -> list[float]:
    b = GraphBuilder("rate")
    step = b.input("step", TensorType(DType.I64, ()))
    rate = rule.build(b, step)
    assert str(rate.type) == "f32[]"
    b.output("rate", rate)
    graph = verify(b.finish())
    return [
        float(interpret(graph, {"step": np.array(s)}, {}, float64).outputs["rate"])
        for s in steps
    ]


@pytest.mark.parametrize(
    ("rule", "formula"),
    [
        (Constant(0.1), lambda s: 0.1),
        (ExponentialDecay(0.1, 10, 0.5), lambda s: 0.1 * 0.5 ** (s / 10)),
        (
            ExponentialDecay(0.1, 10, 0.5, staircase=True),
            lambda s: 0.1 * 0.5 ** (s // 10),
        ),
        (ExponentialDecay(0.1, 10, 1.5), lambda s: 0.1 * 1.5 ** (s / 10)),
        (
            CosineDecay(0.1, 40),
            lambda s: 0.05 * (1 + math.cos(math.pi * min(s, 40) / 40)),
        ),
        (
            CosineDecay(0.1, 40, alpha=0.2),
            lambda s: 0.02 + 0.04 * (1 + math.cos(math.pi * min(s, 40) / 40)),
        ),
        (Warmup(0.1, 20), lambda s: 0.1 * min(1, (s + 1) / 20)),
        (
            Warmup(ExponentialDecay(0.1, 10, 0.5), 20),
            lambda s: 0.1 * 0.5 ** (s / 10) * min(1, (s + 1) / 20),
        ),
    ],
)
def test_a_schedule_computes_its_formula(
    rule: Schedule, formula: Callable[[int], float]
) -> None:
    steps = [0, 1, 9, 10, 11, 19, 20, 39, 40, 41, 100]
    expected = [formula(s) for s in steps]
    np.testing.assert_allclose(rates(rule, steps), expected, rtol=1e-12, atol=1e-15)


def test_pieces_change_exactly_at_their_boundaries() -> None:
    """In f32 too: each value is multiplied by 0 or 1, so none picks up rounding."""
    rule = PiecewiseConstant([10, 20], [0.1, 0.01, 0.001])
    steps = [0, 9, 10, 19, 20, 10**9]
    expected = [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert rates(rule, steps, float64=False) == [float(np.float32(v)) for v in expected]


def test_one_piece_is_a_constant() -> None:
    assert rates(PiecewiseConstant([], [0.5]), [0, 5]) == [0.5, 0.5]


def test_schedules_compare_and_print_by_their_arguments() -> None:
    assert PiecewiseConstant([1], [1, 2]) == PiecewiseConstant((1,), (1, 2))
    assert "decay_steps=10" in repr(ExponentialDecay(0.1, 10, 0.5))
    assert Warmup(0.1, 5) == Warmup(Constant(0.1), 5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: Constant(-0.1),
            "constant: rate must be a finite number from 0, got -0.1",
        ),
        (lambda: Constant(math.inf), "constant: rate must be a finite number"),
        (lambda: ExponentialDecay(-1, 10, 0.5), "exponential_decay: initial must be"),
        (
            lambda: ExponentialDecay(1, 0, 0.5),
            "decay_steps must be a whole number from 1",
        ),
        (lambda: ExponentialDecay(1, 1.5, 0.5), "decay_steps must be a whole number"),  # type: ignore[arg-type]
        (lambda: ExponentialDecay(1, 10, 0), "decay_rate must be above 0, got 0"),
        (
            lambda: ExponentialDecay(1, 10, -1),
            "decay_rate must be a finite number from 0",
        ),
        (lambda: CosineDecay(1, True), "cosine_decay: decay_steps must be a whole"),
        (lambda: CosineDecay(1, 1, 1.01), "cosine_decay: alpha must be at most 1, got"),
        (lambda: PiecewiseConstant([1], [1]), "got 1 values and 1 boundaries"),
        (lambda: PiecewiseConstant([1, 1], [1, 1, 1]), "must rise, got 1 after 1"),
        (
            lambda: PiecewiseConstant([0], [1, 1]),
            "each boundary must be a whole number",
        ),
        (lambda: PiecewiseConstant([1], [1, -1]), "each value must be a finite number"),
        (lambda: Warmup(-1, 5), "warmup: after must be a finite number from 0, got -1"),
        (lambda: Warmup(1, 0), "warmup: warmup_steps must be a whole number from 1"),
    ],
)
def test_arguments_out_of_range_are_refused_at_the_users_line(
    make: Callable[[], Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        make()
    assert f"at {__file__}:" in str(caught.value)


def test_a_number_is_a_constant_schedule() -> None:
    assert schedule("x", "rate", 0.5) == Constant(0.5)
    assert schedule("x", "rate", Constant(0.5)) == Constant(0.5)
    for wrong in (True, "0.5", None, -1):
        with pytest.raises(ModelError, match="x: rate must be a finite number from 0"):
            schedule("x", "rate", wrong)
