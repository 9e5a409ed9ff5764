"""Reductions over chosen axes, and the mean's adjoint."""

from collections.abc import Sequence
from math import prod

import numpy as np

from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import (
    OUT,
    Array,
    AttrSpec,
    Emit,
    Op,
    Types,
    bind_shape,
    ints,
    narrowed,
    shape_of,
)
from convc.ir.types import DType, TensorType


class _Reduction(Op):
    """Reduces ``axes``; they vanish from the shape."""

    operands = ("x",)
    attrs = {"axes": AttrSpec("ints", low=0)}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        axes = ints(attrs["axes"])
        if not axes or len(set(axes)) != len(axes) or max(axes) >= x.rank:
            raise self.fail(f"axes {list(axes)} must be distinct axes of x", types)
        if x.dtype is DType.BOOL:
            raise self.fail("cast booleans to a number first", types)
        kept = tuple(d for i, d in enumerate(x.shape) if i not in axes)
        return (x.with_shape(kept),)

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        bound = types[0].bind(batch)
        return prod(bound[axis] for axis in ints(attrs["axes"]))

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return types[0].elements(batch)


def spread(b: Emit, dy: Value, like: TensorType, axes: tuple[int, ...]) -> Value:
    """``dy`` repeated along the reduced ``axes`` to the shape of ``like``."""
    return b("broadcast_to", dy, shape=like.shape, axes=axes)


class ReduceSum(_Reduction):
    """The sum over ``axes``, with ``out=f32`` of 16-bit operands not rounded to 16."""

    name = "reduce_sum"
    attrs = {**_Reduction.attrs, "out": OUT}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (total,) = super().infer(types, attrs)
        return (self.summed(total, types, attrs),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return np.asarray(
            arrays[0].sum(axis=ints(attrs["axes"]), dtype=arrays[0].dtype)
        )

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        x = node.operands[0].type
        return [spread(b, narrowed(b, dy, x), x, ints(node.attrs["axes"]))]


class ReduceMean(_Reduction):
    """The mean over ``axes``."""

    name = "reduce_mean"
    exact = False

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        self.want_float(types)
        return super().infer(types, attrs)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return np.asarray(arrays[0].mean(axis=ints(attrs["axes"])))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        x, axes = node.operands[0].type, ints(node.attrs["axes"])
        return [b("reduce_mean_grad", dy, shape=x.shape, axes=axes)]


class ReduceVariance(_Reduction):
    """The population variance over ``axes``: the mean of (x - mean)²."""

    name = "reduce_variance"
    exact = False

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        self.want_float(types)
        return super().infer(types, attrs)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return np.asarray(arrays[0].var(axis=ints(attrs["axes"])))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        (x,), axes = node.operands, ints(node.attrs["axes"])
        mean = b("reduce_mean", x, axes=axes)
        centred = b("subtract", x, spread(b, mean, x.type, axes))
        share = b("reduce_mean_grad", dy, shape=x.type.shape, axes=axes)
        twice = b("multiply", share, b.constant(2.0, dy.type))
        return [b("multiply", centred, twice)]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 4 * types[0].elements(batch)


class _Spread(Op):
    """Repeats x along ``axes`` so that the result has ``shape``."""

    operands = ("x",)
    attrs = {"shape": AttrSpec("shape"), "axes": AttrSpec("ints", low=0)}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (x,), shape, axes = types, shape_of(attrs["shape"]), ints(attrs["axes"])
        kept = tuple(d for i, d in enumerate(shape) if i not in axes)
        if len(set(axes)) != len(axes) or any(axis >= len(shape) for axis in axes):
            raise self.fail(
                f"axes {list(axes)} must be distinct axes of shape {list(shape)}", types
            )
        if kept != x.shape:
            raise self.fail(
                f"shape {list(shape)} without axes {list(axes)} must be the shape of x",
                types,
            )
        return (x.with_shape(shape),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        shape = bind_shape(shape_of(attrs["shape"]), batch)
        wide = np.expand_dims(arrays[0], ints(attrs["axes"]))
        return np.broadcast_to(wide, shape).copy()


class BroadcastTo(_Spread):
    """x repeated along ``axes``: the adjoint of reduce_sum."""

    name = "broadcast_to"

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [b("reduce_sum", dy, axes=node.attrs["axes"])]


class ReduceMeanGrad(_Spread):
    """x repeated along ``axes`` and divided by their extent: reduce_mean's adjoint."""

    name = "reduce_mean_grad"
    exact = False

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        self.want_float(types)
        return super().infer(types, attrs)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        wide: Array = super().evaluate(arrays, attrs, batch)
        shape = bind_shape(shape_of(attrs["shape"]), batch)
        count = prod(shape[axis] for axis in ints(attrs["axes"]))
        return np.asarray(wide / wide.dtype.type(count))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [b("reduce_mean", dy, axes=node.attrs["axes"])]


class Argmax(Op):
    """The index of the largest element along the last axis; the first of equals."""

    name = "argmax"
    operands = ("x",)

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        if x.rank < 2:
            raise self.fail("x must have a batch and a class axis", types)
        return (TensorType(DType.I32, x.shape[:-1]),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return np.asarray(arrays[0].argmax(axis=-1).astype(np.int32))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [None]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return types[0].elements(batch)
