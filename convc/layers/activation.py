"""Activations: functions of one tensor, element by element (softmax: by row)."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from convc.ir.errors import TypeRuleError
from convc.layers import arguments as args
from convc.tracing import Tensor, Trace, layer_scope

Activation = str | Callable[[Tensor], Tensor] | None
"""How a layer is told its activation: a name, a function of a tensor, or None."""


def _unary(op: str, x: Tensor, name: str | None) -> Tensor:
    with layer_scope(op, name, absorb=True) as t:
        return t.emit(op, args.tensor(op, "inputs", x))


def relu(inputs: Tensor, name: str | None = None) -> Tensor:
    """max(x, 0); its slope at 0 is 0."""
    return _unary("relu", inputs, name)


def sigmoid(inputs: Tensor, name: str | None = None) -> Tensor:
    """1 / (1 + exp(-x))."""
    return _unary("sigmoid", inputs, name)


def tanh(inputs: Tensor, name: str | None = None) -> Tensor:
    """The hyperbolic tangent."""
    return _unary("tanh", inputs, name)


def softmax(inputs: Tensor, name: str | None = None) -> Tensor:
    """exp(x) normalized to sum 1 along the last axis."""
    return _unary("softmax", inputs, name)


def log_softmax(inputs: Tensor, name: str | None = None) -> Tensor:
    """The logarithm of softmax, without forming it."""
    return _unary("log_softmax", inputs, name)


def exp(inputs: Tensor, name: str | None = None) -> Tensor:
    """The exponential function."""
    return _unary("exp", inputs, name)


def log(inputs: Tensor, name: str | None = None) -> Tensor:
    """The natural logarithm."""
    return _unary("log", inputs, name)


def sqrt(inputs: Tensor, name: str | None = None) -> Tensor:
    """The square root."""
    return _unary("sqrt", inputs, name)


def leaky_relu(inputs: Tensor, alpha: float = 0.2, name: str | None = None) -> Tensor:
    """max(x, alpha · x) for alpha of [0, 1)."""
    with layer_scope("leaky_relu", name, absorb=True) as t:
        x = args.tensor("leaky_relu", "inputs", inputs)
        slope = args.fraction("leaky_relu", "alpha", alpha)
        return t.emit("maximum", x, _times(t, x, slope))


def elu(inputs: Tensor, alpha: float = 1.0, name: str | None = None) -> Tensor:
    """Where x > 0, x; elsewhere alpha · (exp(x) - 1) (Clevert et al., 2016)."""
    with layer_scope("elu", name, absorb=True) as t:
        x = args.tensor("elu", "inputs", inputs)
        scale = args.real("elu", "alpha", alpha)
        below = t.emit("minimum", x, t.operand("elu", 0, x))
        grown = t.emit("subtract", t.emit("exp", below), t.operand("elu", 1, x))
        return t.emit("add", t.emit("relu", x), _times(t, grown, scale))


def silu(inputs: Tensor, name: str | None = None) -> Tensor:
    """The product x · sigmoid(x), also called swish."""
    with layer_scope("silu", name, absorb=True) as t:
        x = args.tensor("silu", "inputs", inputs)
        return t.emit("multiply", x, t.emit("sigmoid", x))


def gelu(inputs: Tensor, name: str | None = None) -> Tensor:
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))) (Hendrycks and Gimpel, 2016)."""
    with layer_scope("gelu", name, absorb=True) as t:
        x = args.tensor("gelu", "inputs", inputs)
        cube = t.emit("multiply", t.emit("multiply", x, x), x)
        bent = t.emit("add", x, _times(t, cube, 0.044715))
        bend = t.emit("tanh", _times(t, bent, math.sqrt(2 / math.pi)))
        gate = t.emit("add", bend, t.operand("gelu", 1, x))
        return t.emit("multiply", _times(t, x, 0.5), gate)


def softplus(inputs: Tensor, name: str | None = None) -> Tensor:
    """log(1 + exp(x)), as max(x, 0) + log(1 + exp(-|x|)) so that nothing overflows."""
    with layer_scope("softplus", name, absorb=True) as t:
        x = args.tensor("softplus", "inputs", inputs)
        below = t.emit("exp", t.emit("minimum", x, t.emit("negate", x)))
        rest = t.emit("log", t.emit("add", below, t.operand("softplus", 1, x)))
        return t.emit("add", t.emit("relu", x), rest)


def _times(t: Trace, x: Tensor, factor: float) -> Tensor:
    return t.emit("multiply", x, t.operand("multiply", factor, x))


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "relu": relu,
        "sigmoid": sigmoid,
        "tanh": tanh,
        "softmax": softmax,
        "log_softmax": log_softmax,
        "leaky_relu": leaky_relu,
        "elu": elu,
        "silu": silu,
        "swish": silu,
        "gelu": gelu,
        "softplus": softplus,
        "linear": lambda inputs: inputs,
    }
)
"""What a layer's ``activation`` may be called."""


def activate(layer: str, x: Tensor, activation: Activation) -> Tensor:
    """``x`` after the activation of a layer; TypeRuleError for an unknown one."""
    if activation is None:
        return x
    function = (
        ACTIVATIONS.get(activation) if isinstance(activation, str) else activation
    )
    if not callable(function):
        raise TypeRuleError(
            f"{layer}: activation is a function or one of {', '.join(ACTIVATIONS)}, "
            f"got {activation!r}"
        )
    result = function(x)
    if not isinstance(result, Tensor):
        raise TypeRuleError(
            f"{layer}: the activation must return a tensor, "
            f"it returned a {type(result).__name__}"
        )
    return result
