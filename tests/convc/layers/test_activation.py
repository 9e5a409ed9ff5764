"""Activations: values against NumPy, slopes against differences, no overflow."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convc.autodiff import add_gradients
from convc.ir.builder import GraphBuilder
from convc.ir.errors import ModelError
from convc.ir.interpreter import interpret
from convc.ir.verifier import verify
from convc.layers import (
    ACTIVATIONS,
    dense,
    elu,
    exp,
    leaky_relu,
    log,
    log_softmax,
    reduce_sum,
    softmax,
    sqrt,
)
from convc.tracing import Tensor, trace

KIND = "f32[N,5]"

REFERENCES: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "linear": lambda x: x,
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True)),
}
POINTS = np.linspace(-4, 4, 20).reshape(4, 5)


def run(function: Callable[[Tensor], Any], x: Any, wide: bool = True) -> Any:
    graph = verify(trace(function, {"x": KIND}))
    return interpret(graph, {"x": x}, {}, float64=wide).outputs["output"]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_an_activation_computes_its_formula(name: str) -> None:
    y = run(ACTIVATIONS[name], POINTS)
    np.testing.assert_allclose(y, REFERENCES[name](POINTS), rtol=1e-12, atol=1e-15)


def slopes(function: Callable[[Tensor], Tensor], x: Any) -> Any:
    """The derivative of sum(function(x)) by the compiler's own gradient rules."""
    graph = trace(lambda x: reduce_sum(function(x), [0, 1]), {"x": KIND})
    b = GraphBuilder("slopes", graph)
    (dx,) = add_gradients(b, graph.output("output"), [graph.inputs[0]])
    assert dx is not None
    b.output("dx", dx)
    return interpret(verify(b.finish()), {"x": x}, {}, float64=True).outputs["dx"]


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"softmax", "log_softmax"}))
def test_an_activations_slope_is_its_difference_quotient(name: str) -> None:
    h = 1e-6
    near = (REFERENCES[name](POINTS + h) - REFERENCES[name](POINTS - h)) / (2 * h)
    np.testing.assert_allclose(slopes(ACTIVATIONS[name], POINTS), near, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "slope"), [("elu", 1), ("softplus", 0.5), ("gelu", 0.5)]
)
def test_the_slope_of_a_smooth_activation_at_zero_is_right(
    name: str, slope: float
) -> None:
    """Made of pieces that meet at zero, its slope there is no piece's alone."""
    assert np.all(slopes(ACTIVATIONS[name], np.zeros((1, 5))) == slope)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_large_numbers_do_not_overflow(name: str) -> None:
    x = np.array([[-1e4, -100, 0, 100, 1e4]], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        assert np.isfinite(run(ACTIVATIONS[name], x, wide=False)).all()


def test_alpha_is_the_slope_or_depth_below_zero() -> None:
    x = np.array([[-2.0, -1, 0, 1, 2]])
    np.testing.assert_allclose(
        run(lambda x: leaky_relu(x, alpha=0.5), x), [[-1, -0.5, 0, 1, 2]]
    )
    np.testing.assert_allclose(
        run(lambda x: elu(x, alpha=2), x)[0, :2], 2 * np.expm1([-2, -1])
    )
    with pytest.raises(
        ModelError, match="leaky_relu: alpha must be at least 0 and below"
    ):
        trace(lambda x: leaky_relu(x, alpha=1), {"x": KIND})
    with pytest.raises(ModelError, match="elu: alpha must be a finite number"):
        trace(lambda x: elu(x, alpha=float("nan")), {"x": KIND})


def test_exp_log_and_sqrt_are_at_hand() -> None:
    np.testing.assert_allclose(
        run(lambda x: sqrt(exp(log(x * x))), POINTS), abs(POINTS), rtol=1e-12
    )


def test_softmax_wants_a_batch_and_classes() -> None:
    for function in (softmax, log_softmax):
        with pytest.raises(ModelError, match="x must have a batch and a class axis"):
            trace(function, {"x": "f32[N]"})


def test_an_activation_wants_a_tensor() -> None:
    with pytest.raises(ModelError, match="relu: inputs must be a tensor of the traced"):
        trace(lambda x: ACTIVATIONS["relu"](3), {"x": KIND})  # type: ignore[arg-type]


def test_an_unknown_activation_lists_those_there_are() -> None:
    with pytest.raises(ModelError, match="one of relu, .*, linear, got 'sofmax'"):
        trace(lambda x: dense(x, 3, activation="sofmax"), {"x": KIND})
    with pytest.raises(ModelError, match="activation is a function or one of .* got 3"):
        trace(lambda x: dense(x, 3, activation=3), {"x": KIND})  # type: ignore[arg-type]
