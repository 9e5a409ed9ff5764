"""Functions that emitted files bring along are right on all of float32's range."""

from collections.abc import Callable

import numpy as np
import pytest
from emitted_programs import emitted
from op_bench import tensor

from convc.ir.builder import GraphBuilder
from convc.ir.interpreter import interpret
from convc.ir.rounding_base import LIBRARY

UNIT = 2.0**-24
RANGE = {
    "exp": np.linspace(-87.0, 88.7, 4001),
    "log": np.concatenate(
        [np.geomspace(1e-37, 1e38, 2000), np.linspace(0.9, 1.1, 2001)]
    ),
    "cos": np.linspace(-50.0, 50.0, 4001),
    "tanh": np.concatenate([np.linspace(-10, 10, 2000), np.geomspace(1e-30, 1, 2001)]),
    "sigmoid": np.linspace(-80.0, 80.0, 4001),
}
EXACT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "log": np.log,
    "cos": np.cos,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
SPECIAL = [-np.inf, -1000.0, -0.0, 0.0, 1000.0, np.inf, np.nan]


def found(op: str, x: np.ndarray) -> np.ndarray:
    """What the emitted op makes of each number."""
    b = GraphBuilder("function")
    b.output("y", b(op, b.input("x", tensor(f"f32[N,{len(x)}]"))))
    y: np.ndarray = emitted(b.finish(), 1)(x=x[None].astype(np.float32))["y"][0]
    return y.astype(np.float64)


@pytest.mark.parametrize("op", RANGE)
def test_a_function_is_as_exact_as_a_librarys(op: str) -> None:
    """Relative to the result, also where that is small; sigmoid divides by a sum."""
    x = RANGE[op].astype(np.float32)
    exact = EXACT[op](x.astype(np.float64))
    roundings = LIBRARY + 2 * (op == "sigmoid")
    assert (abs(found(op, x) - exact) <= roundings * UNIT * abs(exact)).all()


@pytest.mark.parametrize("op", ["exp", "tanh", "sigmoid"])
def test_what_is_not_finite_or_too_large_is_as_numpys(op: str) -> None:
    x = np.array(SPECIAL, np.float32)
    with np.errstate(all="ignore"):
        expected = EXACT[op](x).astype(np.float64)
    assert np.array_equal(found(op, x), expected, equal_nan=True)


def test_a_loss_in_float64_is_the_mean_of_the_images() -> None:
    """A quotient of float64 is no business of float32's division."""
    b = GraphBuilder("loss")
    logits, labels = b.input("z", tensor("f64[N,5]")), b.input("y", tensor("i32[N]"))
    losses = b("softmax_cross_entropy", logits, labels)
    b.output("loss", b("reduce_mean", losses, axes=(0,)))
    graph = b.finish()
    z, y = np.linspace(-2, 2, 15).reshape(3, 5), np.array([4, 0, 2], np.int32)
    expected = interpret(graph, {"z": z, "y": y}, {}).outputs["loss"]
    got = emitted(graph, 4)(z=z, y=y)["loss"]
    assert abs(got - expected) <= 64 * 2.0**-53 * abs(expected)
