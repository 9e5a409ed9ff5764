"""What an op is: signature, attribute schema, type rule, reference, gradient, cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from convc.ir.errors import TypeRuleError
from convc.ir.graph import Attr, Attrs, Node, Value
from convc.ir.types import BATCH, DType, Shape, TensorType

Array = NDArray[Any]
Types = Sequence[TensorType]

_REQUIRED = object()


class Emit(Protocol):
    """How a gradient rule adds nodes: ``b("relu_grad", y, dy)`` returns the result."""

    def __call__(self, op: str, *operands: Value, **attrs: Attr) -> Value:
        """Append a node and return its only result."""
        ...

    def constant(self, value: float, like: TensorType) -> Value:
        """A scalar constant of the dtype of ``like``."""
        ...


@dataclass(frozen=True)
class AttrSpec:
    """One attribute: its kind, its default (none: required) and its choices.

    Kinds: int, float, bool, str, ints, shape (ints, N first), padding.
    """

    kind: str
    default: Any = _REQUIRED
    choices: tuple[str, ...] = ()
    low: float | None = None

    @property
    def required(self) -> bool:
        """Whether the attribute must be given."""
        return self.default is _REQUIRED

    def check(self, op: str, name: str, value: Attr) -> Attr:
        """``value`` in canonical form; TypeRuleError when it is of another kind."""
        if not _KINDS[self.kind](value):
            raise TypeRuleError(
                f"{op}: {name} must be {_SAYS[self.kind]}, got {value!r}"
            )
        if self.choices and value not in self.choices:
            allowed = ", ".join(self.choices)
            raise TypeRuleError(f"{op}: {name} is one of {allowed}, got {value!r}")
        if self.low is not None:
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float) or number < self.low:
                    raise TypeRuleError(
                        f"{op}: {name} must be at least {self.low}, got {value!r}"
                    )
        return float(value) if self.kind == "float" else value  # type: ignore[arg-type]


def _is_int(value: Attr) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_ints(value: Attr) -> bool:
    return isinstance(value, tuple) and all(_is_int(v) for v in value)


def _is_shape(value: Attr) -> bool:
    return isinstance(value, tuple) and all(v == BATCH or _is_int(v) for v in value)


def _is_padding(value: Attr) -> bool:
    if isinstance(value, str):
        return value in ("same", "valid")
    return isinstance(value, tuple) and all(
        isinstance(p, tuple) and len(p) == 2 and _is_ints(p) and min(ints(p)) >= 0
        for p in value
    )


_KINDS = {
    "int": _is_int,
    "float": lambda v: _is_int(v) or (isinstance(v, float) and isfinite(v)),
    "bool": lambda v: isinstance(v, bool),
    "str": lambda v: isinstance(v, str),
    "ints": _is_ints,
    "shape": _is_shape,
    "padding": _is_padding,
}
_SAYS = {
    "int": "an integer",
    "float": "a finite number",
    "bool": "true or false",
    "str": "a name",
    "ints": "a list of integers",
    "shape": "a list of dimensions",
    "padding": "same, valid or [[before, after], …] with numbers from 0",
}


PRECISION = AttrSpec("str", "ieee", choices=("ieee", "tf32"))
"""How exact products are: tf32 cuts f32 operands to 10 mantissa bits before them."""
OUT = AttrSpec("str", "same", choices=("same", "f32"))
"""What a sum over 16-bit operands is rounded to: their type, or not at all."""


class Op:
    """One operation, everything about it in one place.

    Subclasses set ``name``, ``operands`` and ``attrs`` and define the rules below.
    ``exact`` says that on integer-valued inputs of moderate size the float result has
    no rounding, so two programs must agree bit for bit. ``elementwise`` says that an
    element of the result needs, of operands of its type, the one at its place only.
    """

    name: ClassVar[str]
    operands: ClassVar[tuple[str, ...]]
    results: ClassVar[int] = 1
    variadic: ClassVar[bool] = False
    attrs: ClassVar[Mapping[str, AttrSpec]] = {}
    exact: ClassVar[bool] = True
    elementwise: ClassVar[bool] = False

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        """Result types; TypeRuleError when operands and attributes do not fit."""
        raise TypeRuleError(f"{self.name}: has no type rule")

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Any:
        """The reference: an array, or a tuple of arrays for several results."""
        raise TypeRuleError(f"{self.name}: has no reference")

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        """Gradients of the operands given that of the result; None where none flows."""
        raise TypeRuleError(f"{self.name}: is not differentiable")

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        """Arithmetic operations, a multiply-add counted as two."""
        return sum(t.elements(batch) for t in self.infer(types, attrs))

    def nbytes(self, types: Types, attrs: Attrs, batch: int) -> int:
        """Bytes of all operands and results: the least that must be moved."""
        moved = (*types, *self.infer(types, attrs))
        return sum(t.nbytes(batch) for t in moved)

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        """How many terms are summed for one result element (1: no sum)."""
        return 1

    def check(self, types: Types, attrs: Mapping[str, Attr]) -> dict[str, Attr]:
        """All attributes, defaults filled; TypeRuleError where one does not fit."""
        if len(types) != len(self.operands) and not (self.variadic and types):
            raise TypeRuleError(
                f"{self.name}: takes {len(self.operands)} operands "
                f"({', '.join(self.operands)}), got {len(types)}"
            )
        for key in attrs:
            if key not in self.attrs:
                allowed = ", ".join(self.attrs) or "none"
                raise TypeRuleError(
                    f"{self.name}: has no attribute {key!r} (it has: {allowed})"
                )
        full: dict[str, Attr] = {}
        for key, spec in self.attrs.items():
            if key in attrs:
                full[key] = spec.check(self.name, key, attrs[key])
            elif spec.required:
                raise TypeRuleError(f"{self.name}: needs the attribute {key!r}")
            else:
                full[key] = spec.default
        return full

    def result_types(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        """Result types by ``infer`` on the plain layouts of the operands."""
        return self.infer([t.plain for t in types], attrs)

    def fail(self, rule: str, types: Types) -> TypeRuleError:
        """A TypeRuleError that names the rule and every operand's type."""
        listed = ", ".join(
            f"{name}: {t}"
            for name, t in zip(self._names(len(types)), types, strict=True)
        )
        return TypeRuleError(f"{self.name}: {rule} ({listed})")

    def _names(self, count: int) -> Sequence[str]:
        if self.variadic:
            return [f"{self.operands[0]}{i}" for i in range(count)]
        return self.operands

    def want_float(self, types: Types, *which: int) -> None:
        """Every operand (or those numbered ``which``) must have one float dtype."""
        chosen = which or range(len(types))
        first = types[chosen[0]].dtype
        if not first.is_float or any(types[i].dtype != first for i in chosen):
            named = self._names(len(types))
            who = " and ".join(named[i] for i in which) or "operands"
            raise self.fail(f"{who} must have one float dtype", types)

    def want_product(self, types: Types, attrs: Attrs) -> None:
        """The operands must have one float dtype, f32 for products in tf32."""
        self.want_float(types)
        if attrs["precision"] == "tf32" and types[0].dtype is not DType.F32:
            raise self.fail("precision=tf32 is for f32 operands", types)

    def summed(self, result: TensorType, types: Types, attrs: Attrs) -> TensorType:
        """``result``, or the f32 that it is accumulated in where ``out`` says so."""
        if attrs["out"] == "same":
            return result
        if not result.dtype.is_half:
            raise self.fail("out=f32 is for operands of 16 bits", types)
        return result.with_dtype(DType.F32)

    def want_rank(self, types: Types, index: int, rank: int) -> None:
        """Operand ``index`` must have ``rank`` axes."""
        if types[index].rank != rank:
            has = f"must have {rank} axes, has {types[index].rank}"
            raise self.fail(f"{self.operands[index]} {has}", types)


def narrowed(b: Emit, dy: Value, like: TensorType) -> Value:
    """``dy`` in the dtype of ``like``: where ``out`` kept a sum in f32, a cast."""
    if dy.type.dtype is like.dtype:
        return dy
    return b("cast", dy, dtype=like.dtype.value)


def evaluated(
    op: Op, arrays: Sequence[Array], attrs: Attrs, batch: int
) -> tuple[Array, ...]:
    """The results of the op's reference, computed in float32 where operands have less.

    So an op on 16-bit floats accumulates in float32, and who asks rounds once.
    """
    half = {d.numpy for d in DType if d.is_half}
    wide = [a.astype(np.float32) if a.dtype in half else a for a in arrays]
    out = op.evaluate(wide, attrs, batch)
    return tuple(map(np.asarray, out if isinstance(out, tuple) else (out,)))


def ints(attr: Attr) -> tuple[int, ...]:
    """An ``ints`` attribute as a tuple of int."""
    return tuple(v for v in _tuple(attr) if isinstance(v, int))


def shape_of(attr: Attr) -> Shape:
    """A ``shape`` attribute as a shape."""
    return tuple(v for v in _tuple(attr) if isinstance(v, int | str))


def number(attr: Attr) -> float:
    """A ``float`` attribute."""
    return float(attr)  # type: ignore[arg-type]


def bind_shape(shape: Shape, batch: int) -> tuple[int, ...]:
    """``shape`` with ``batch`` in place of N."""
    return tuple(batch if isinstance(d, str) else d for d in shape)


def _tuple(attr: Attr) -> tuple[Attr, ...]:
    return attr if isinstance(attr, tuple) else (attr,)


def dtype_named(name: Attr, op: str) -> DType:
    """The DType called ``name``; TypeRuleError for an unknown one."""
    try:
        return DType(name)
    except ValueError:
        known = ", ".join(d.value for d in DType)
        raise TypeRuleError(f"{op}: unknown dtype {name!r}, known: {known}") from None
