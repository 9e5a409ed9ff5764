"""Rules for the first values of parameters, and drawing those values.

A rule is a name with arguments, as the IR prints it. Values are pure functions of
(seed, parameter name, shape), so adding a layer leaves the others' values alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite, prod, sqrt
from reprlib import repr as short_repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convc.ir import philox
from convc.ir.errors import TypeRuleError
from convc.ir.graph import Attr, Graph, Parameter
from convc.ir.ops.base import number
from convc.ir.types import TensorType

# A normal cut off at two standard deviations has this much of the deviation left.
_TRUNCATED = 0.87962566103423978


@dataclass(frozen=True)
class Initializer:
    """A rule by its name in IR text, with its arguments."""

    name: str
    attrs: Mapping[str, Attr] = field(default_factory=dict)


def zeros() -> Initializer:
    """All 0."""
    return Initializer("zeros")


def ones() -> Initializer:
    """All 1."""
    return Initializer("ones")


def constant(value: Any) -> Initializer:
    """One number everywhere, or nested lists of numbers with the parameter's shape."""
    return Initializer("constant", {"value": _nested(value)})


def normal(stddev: float = 0.05, mean: float = 0.0) -> Initializer:
    """Normal numbers."""
    return Initializer("normal", {"stddev": stddev, "mean": mean})


def truncated_normal(stddev: float = 0.1, mean: float = 0.0) -> Initializer:
    """Normal numbers, redrawn where they are over two ``stddev`` from the mean."""
    return Initializer("truncated_normal", {"stddev": stddev, "mean": mean})


def glorot_uniform() -> Initializer:
    """Uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010, eq. 16)."""
    return Initializer("glorot_uniform")


def glorot_normal() -> Initializer:
    """Truncated normal of variance 2 / (fan_in + fan_out) after truncation."""
    return Initializer("glorot_normal")


def he_uniform() -> Initializer:
    """Uniform in ±sqrt(6 / fan_in) (He et al., 2015, eq. 10)."""
    return Initializer("he_uniform")


def he_normal() -> Initializer:
    """Truncated normal of variance 2 / fan_in after truncation."""
    return Initializer("he_normal")


INITIALIZERS: Mapping[str, Callable[[], Initializer]] = {
    "zeros": zeros,
    "ones": ones,
    "normal": normal,
    "truncated_normal": truncated_normal,
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
}
"""The rules that need no argument, by the name a layer may be given instead."""

_ATTRS = {
    "normal": ("stddev", "mean"),
    "truncated_normal": ("stddev", "mean"),
    "constant": ("value",),
}


def resolve(given: object, kind: TensorType) -> Initializer:
    """``given`` (a rule, its name, or the function that makes it) for a parameter.

    TypeRuleError when it is no rule or does not fit the type.
    """
    if isinstance(given, str) and given in INITIALIZERS:
        given = INITIALIZERS[given]()
    elif callable(given) and given in INITIALIZERS.values():
        given = given()
    if not isinstance(given, Initializer):
        raise TypeRuleError(
            f"an initializer is one of {', '.join(INITIALIZERS)} or constant(...), "
            f"got {short_repr(given)}"
        )
    _check(given.name, given.attrs, kind)
    return given


def check_initializer(parameter: Parameter) -> None:
    """TypeRuleError if the parameter's rule is unknown or does not fit its type."""
    try:
        _check(parameter.initializer, parameter.attrs, parameter.value.type)
    except TypeRuleError as error:
        raise TypeRuleError(f"{parameter.value}: {error}") from None


def initialize(parameter: Parameter, seed: int) -> NDArray[Any]:
    """The parameter's first value, in its logical (plain layout) shape.

    Drawn from the Philox stream of its name at step 0; the rule ``seed`` gives the
    seed itself. TypeRuleError for a rule that is unknown or does not fit.
    """
    value = first_value(parameter, seed)
    shape = parameter.value.type.bind(1)
    return value if value.shape == shape else np.broadcast_to(value, shape).copy()


def first_value(parameter: Parameter, seed: int) -> NDArray[Any]:
    """The same, but a scalar where all elements are alike."""
    check_initializer(parameter)
    kind, rule, attrs = parameter.value.type, parameter.initializer, parameter.attrs
    shape, dtype = kind.bind(1), kind.dtype.numpy
    if rule == "seed":
        return np.asarray(seed, dtype)
    if rule in ("zeros", "ones", "constant"):
        value = {"zeros": 0, "ones": 1}.get(rule, attrs.get("value"))
        return np.asarray(value, dtype)
    stream = philox.stream_of(parameter.value.name)
    drawn = _drawn(rule, attrs, shape, seed, stream)
    return drawn.reshape(shape).astype(dtype, copy=False)


def initial_state(graph: Graph, seed: int) -> dict[str, NDArray[Any]]:
    """The first value of every parameter and state of ``graph``, by name."""
    return {p.value.name: initialize(p, seed) for p in graph.parameters}


def _drawn(
    rule: str, attrs: Mapping[str, Attr], shape: tuple[int, ...], seed: int, stream: int
) -> NDArray[np.float32]:
    count, (fan_in, fan_out) = prod(shape), fans(shape)
    fan = fan_in if rule.startswith("he_") else (fan_in + fan_out) / 2
    if rule.endswith("_uniform"):
        limit = np.float32(sqrt(3 * _gain(rule) / fan))
        drawn = philox.uniform(seed, stream, 0, count)
        drawn *= np.float32(2)
        drawn -= np.float32(1)
        drawn *= limit
        return drawn
    draw = philox.normal if rule == "normal" else philox.truncated_normal
    mean = np.float32(number(attrs.get("mean", 0.0)))
    if "stddev" in attrs:
        stddev = number(attrs["stddev"])
    else:
        stddev = sqrt(_gain(rule) / fan) / _TRUNCATED
    drawn = draw(seed, stream, 0, count)
    return drawn * np.float32(stddev) + mean


def _gain(rule: str) -> float:
    """The fan times the variance: 2 for He's rule, 1 over the mean fan for Glorot's."""
    return 2.0 if rule.startswith("he_") else 1.0


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs an output element has, and outputs an input element.

    ``shape`` is [*window, in, out]; a vector counts as both.
    """
    if len(shape) < 2:
        return prod(shape), prod(shape)
    window = prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def _nested(value: Any) -> Attr:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_nested(v) for v in value)
    return value  # type: ignore[no-any-return]  # checked when a parameter takes it


def _check(rule: str, attrs: Mapping[str, Attr], kind: TensorType) -> None:
    known = {*INITIALIZERS, "constant", "seed"}
    if rule not in known:
        raise TypeRuleError(
            f"unknown initializer {rule!r}, known: {', '.join(sorted(known))}"
        )
    allowed = _ATTRS.get(rule, ())
    for key in attrs:
        if key not in allowed:
            raise TypeRuleError(f"{rule}: has no argument {key!r}")
    if rule == "constant":
        _check_constant(attrs.get("value"), kind)
    elif rule == "seed":
        if kind.shape or kind.dtype.is_float:
            raise TypeRuleError(f"seed: fills an integer scalar only, not {kind}")
    elif rule not in ("zeros", "ones") and not kind.dtype.is_float:
        raise TypeRuleError(f"{rule}: draws real numbers, not {kind}; use zeros")
    if "stddev" in allowed:
        _check_number(rule, "stddev", attrs.get("stddev"))
        _check_number(rule, "mean", attrs.get("mean", 0.0))


def _check_number(rule: str, key: str, value: object) -> None:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not isfinite(value) or (key == "stddev" and value < 0):  # type: ignore[arg-type, operator]
        least = " from 0" if key == "stddev" else ""
        raise TypeRuleError(f"{rule}: {key} must be a number{least}, got {value!r}")


def _check_constant(value: object, kind: TensorType) -> None:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.asarray(np.nan)
    if not np.isfinite(array).all():
        raise TypeRuleError(f"constant: needs finite numbers, got {short_repr(value)}")
    if array.ndim and array.shape != kind.shape:
        raise TypeRuleError(
            f"constant: the list has the shape {list(array.shape)}, "
            f"the parameter is {kind}; give one number or a list of that shape"
        )
