"""Elementwise arithmetic with NumPy's broadcasting rule.

Activations that are compositions (SiLU, GELU, ELU, …) are built from these by the
front end; only those with a kernel of their own stand here.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import Array, AttrSpec, Emit, Op, Types, dtype_named, number
from convc.ir.types import DType, Shape, TensorType


def broadcast_shapes(op: Op, types: Types) -> Shape:
    """The common shape by NumPy's rule; N matches N and 1 only."""
    rank = max(t.rank for t in types)
    padded = [(1,) * (rank - t.rank) + t.shape for t in types]
    shape = []
    for dims in zip(*padded, strict=True):
        wide = {d for d in dims if d != 1}
        if len(wide) > 1:
            sides = " and ".join(str(d) for d in dims)
            raise op.fail(f"shapes do not broadcast, an axis has {sides}", types)
        shape.append(wide.pop() if wide else 1)
    return tuple(shape)


def unbroadcast(b: Emit, gradient: Value, target: TensorType) -> Value:
    """``gradient`` summed over the axes along which ``target`` was repeated."""
    if gradient.type.shape == target.shape:
        return gradient
    lead = gradient.type.rank - target.rank
    wide = (1,) * lead + target.shape
    axes = tuple(
        i
        for i, (d, t) in enumerate(zip(gradient.type.shape, wide, strict=True))
        if d != t
    )
    axes = tuple(sorted({*axes, *range(lead)}))
    total = b("reduce_sum", gradient, axes=axes)
    if total.type.shape == target.shape:
        return total
    return b("reshape", total, shape=target.shape)


class _Elementwise(Op):
    """One result element from the operand elements at the same place."""

    function: ClassVar[Callable[..., Array]]
    elementwise = True

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        self.want_float(types)
        return (types[0].with_shape(broadcast_shapes(self, types)),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return np.asarray(type(self).function(*arrays))


class _Arithmetic(_Elementwise):
    """An elementwise op that counters in integers may use too."""

    operands = ("x", "y")

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if any(t.dtype != types[0].dtype or t.dtype is DType.BOOL for t in types):
            raise self.fail("operands must have one numeric dtype", types)
        return (types[0].with_shape(broadcast_shapes(self, types)),)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        x, y = node.operands
        dx, d_y = self.partials(b, node, dy)
        return [unbroadcast(b, dx, x.type), unbroadcast(b, d_y, y.type)]

    def partials(self, b: Emit, node: Node, dy: Value) -> tuple[Value, Value]:
        """The two gradients before they are summed to the operands' shapes."""
        raise self.fail("no gradient rule", [v.type for v in node.operands])


class Add(_Arithmetic):
    """x + y."""

    name = "add"
    function = np.add

    def partials(self, b: Emit, node: Node, dy: Value) -> tuple[Value, Value]:
        return dy, dy


class Subtract(_Arithmetic):
    """x - y."""

    name = "subtract"
    function = np.subtract

    def partials(self, b: Emit, node: Node, dy: Value) -> tuple[Value, Value]:
        return dy, b("negate", dy)


class Multiply(_Arithmetic):
    """x · y."""

    name = "multiply"
    function = np.multiply

    def partials(self, b: Emit, node: Node, dy: Value) -> tuple[Value, Value]:
        x, y = node.operands
        return b("multiply", dy, y), b("multiply", dy, x)


class Divide(_Arithmetic):
    """x / y (floats only)."""

    name = "divide"
    function = np.divide
    exact = False

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        self.want_float(types)
        return super().infer(types, attrs)

    def partials(self, b: Emit, node: Node, dy: Value) -> tuple[Value, Value]:
        _, y = node.operands
        dx = b("divide", dy, y)
        return dx, b("negate", b("multiply", dx, node.result))


class _Extremum(_Arithmetic):
    """max or min; where x and y are equal the gradient goes to x."""

    def partials(self, b: Emit, node: Node, dy: Value) -> tuple[Value, Value]:
        x, y = node.operands
        pair = (x, y) if self.name == "maximum" else (y, x)
        won = b("cast", b("greater_equal", *pair), dtype=dy.type.dtype.value)
        dx = b("multiply", dy, won)
        return dx, b("subtract", dy, dx)


class Maximum(_Extremum):
    """The larger of x and y."""

    name = "maximum"
    function = np.maximum


class Minimum(_Extremum):
    """The smaller of x and y."""

    name = "minimum"
    function = np.minimum


class _Unary(_Elementwise):
    operands = ("x",)


class Negate(_Unary):
    """-x."""

    name = "negate"
    function = np.negative

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [b("negate", dy)]


class Exp(_Unary):
    """e to the x."""

    name = "exp"
    function = np.exp
    exact = False

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [b("multiply", dy, node.result)]


class Log(_Unary):
    """The natural logarithm."""

    name = "log"
    function = np.log
    exact = False

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [b("divide", dy, node.operands[0])]


class Sqrt(_Unary):
    """The square root."""

    name = "sqrt"
    function = np.sqrt
    exact = False

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        half = b("multiply", dy, b.constant(0.5, dy.type))
        return [b("divide", half, node.result)]


class Cos(_Unary):
    """The cosine of x in radians, for learning-rate schedules (no gradient)."""

    name = "cos"
    function = np.cos
    exact = False


class Tanh(_Unary):
    """The hyperbolic tangent."""

    name = "tanh"
    function = np.tanh
    exact = False

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        square = b("multiply", node.result, node.result)
        return [b("multiply", dy, b("subtract", b.constant(1.0, dy.type), square))]


class Sigmoid(_Unary):
    """1 / (1 + exp(-x)), by tanh so that no x overflows."""

    name = "sigmoid"
    exact = False

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        (x,) = arrays
        half = x.dtype.type(0.5)
        return np.asarray(np.tanh(x * half) * half + half)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        y = node.result
        slope = b("multiply", y, b("subtract", b.constant(1.0, dy.type), y))
        return [b("multiply", dy, slope)]


class Relu(_Unary):
    """max(x, 0)."""

    name = "relu"

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return np.asarray(np.maximum(arrays[0], 0))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [b("relu_grad", node.result, dy)]


class ReluGrad(_Elementwise):
    """dy where y = relu(x) is positive, else 0; the slope at 0 is 0."""

    name = "relu_grad"
    operands = ("y", "dy")

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        y, dy = types
        self.want_float(types)
        if y.shape != dy.shape:
            raise self.fail("y and dy must have one shape", types)
        return (dy,)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        y, dy = arrays
        return np.asarray(np.where(y > 0, dy, dy.dtype.type(0)))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [None, b("relu_grad", node.operands[0], dy)]


class _Compare(_Elementwise):
    operands = ("x", "y")

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if types[0].dtype != types[1].dtype:
            raise self.fail("compared operands must have one dtype", types)
        shape = broadcast_shapes(self, types)
        return (TensorType(DType.BOOL, shape),)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [None, None]


class GreaterEqual(_Compare):
    """x >= y."""

    name = "greater_equal"
    function = np.greater_equal


class Equal(_Compare):
    """x == y."""

    name = "equal"
    function = np.equal


class Cast(Op):
    """x in another dtype; towards integers the fraction is dropped."""

    name = "cast"
    operands = ("x",)
    elementwise = True
    attrs = {"dtype": AttrSpec("str", choices=tuple(d.value for d in DType))}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        return (types[0].with_dtype(dtype_named(attrs["dtype"], self.name)),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        dtype = dtype_named(attrs["dtype"], self.name)
        keep = dtype.is_float and arrays[0].dtype == np.float64
        return arrays[0] if keep else arrays[0].astype(dtype.numpy)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        (x,) = node.operands
        if not (x.type.dtype.is_float and dy.type.dtype.is_float):
            return [None]
        return [b("cast", dy, dtype=x.type.dtype.value)]


def _fits(value: float, dtype: DType) -> bool:
    """Whether a constant of this dtype can hold ``value``, floats rounded."""
    if dtype.is_float:
        with np.errstate(over="ignore"):
            return bool(np.isfinite(np.asarray(value).astype(dtype.numpy)))
    if dtype is DType.BOOL:
        return value in (0, 1)
    span = 2 ** (8 * dtype.itemsize)
    low = 0 if dtype is DType.U8 else -span // 2
    return value.is_integer() and low <= int(value) < low + span


class Constant(Op):
    """A scalar with the value written in the program."""

    name = "constant"
    operands = ()
    attrs = {
        "value": AttrSpec("float"),
        "dtype": AttrSpec("str", "f32", choices=tuple(d.value for d in DType)),
    }

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        dtype, value = dtype_named(attrs["dtype"], self.name), number(attrs["value"])
        if not _fits(value, dtype):
            raise self.fail(f"{value!r} is no {dtype.value}", types)
        return (TensorType(dtype, ()),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        # Floats stay float64 here; the interpreter rounds them when it runs in f32.
        dtype = dtype_named(attrs["dtype"], self.name)
        return np.asarray(
            number(attrs["value"]), np.float64 if dtype.is_float else dtype.numpy
        )

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return []
