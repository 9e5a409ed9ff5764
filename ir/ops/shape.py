"""Ops that move elements without arithmetic."""

from collections.abc import Sequence
from math import prod

import numpy as np

from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import (
    Array,
    AttrSpec,
    Emit,
    Op,
    Types,
    bind_shape,
    ints,
    shape_of,
)
from convc.ir.types import BATCH, TensorType


class Reshape(Op):
    """The same elements in the same order under another shape; N stays in front."""

    name = "reshape"
    operands = ("x",)
    attrs = {"shape": AttrSpec("shape")}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        y = x.with_shape(shape_of(attrs["shape"]))
        if y.batched != x.batched or prod(x.inner) != prod(y.inner):
            raise self.fail(
                f"{prod(x.inner)} elements{' per image' * x.batched} do not fill {y}",
                types,
            )
        return (y,)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return arrays[0].reshape(bind_shape(shape_of(attrs["shape"]), batch))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [b("reshape", dy, shape=node.operands[0].type.shape)]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 0


class Copy(Op):
    """The same tensor in other memory, as a rule in another storage order."""

    name = "copy"
    operands = ("x",)
    elementwise = True

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        return (types[0],)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return arrays[0].copy()

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [dy]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 0


class Transpose(Op):
    """Axes in the order ``perm``; the batch stays in front."""

    name = "transpose"
    operands = ("x",)
    attrs = {"perm": AttrSpec("ints", low=0)}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (x,), perm = types, ints(attrs["perm"])
        if sorted(perm) != list(range(x.rank)):
            raise self.fail(f"perm {list(perm)} must order the axes of x", types)
        if x.batched and perm[0] != 0:
            raise self.fail(f"perm {list(perm)} must leave the batch in front", types)
        return (x.with_shape(tuple(x.shape[axis] for axis in perm)),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return arrays[0].transpose(ints(attrs["perm"])).copy()

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        perm = ints(node.attrs["perm"])
        return [b("transpose", dy, perm=tuple(perm.index(i) for i in range(len(perm))))]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 0


class Concat(Op):
    """Tensors one after the other along ``axis`` (not the batch)."""

    name = "concat"
    operands = ("x",)
    variadic = True
    attrs = {"axis": AttrSpec("int", low=0)}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        first, axis = types[0], ints(attrs["axis"])[0]
        if axis >= first.rank or first.shape[axis] == BATCH:
            raise self.fail(f"axis {axis} must be a static axis of every x", types)
        rest = first.shape[:axis] + first.shape[axis + 1 :]
        for x in types[1:]:
            if x.dtype != first.dtype or x.rank != first.rank:
                raise self.fail("operands must have one dtype and rank", types)
            if (
                x.shape[:axis] + x.shape[axis + 1 :] != rest
                or x.batched != first.batched
            ):
                raise self.fail(f"operands may differ along axis {axis} only", types)
        total = sum(x.bind(1)[axis] for x in types)
        return (
            first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :])),
        )

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return np.concatenate(arrays, axis=ints(attrs["axis"])[0])

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        axis, start = ints(node.attrs["axis"])[0], 0
        gradients: list[Value | None] = []
        for x in node.operands:
            size = x.type.bind(1)[axis]
            gradients.append(b("slice", dy, axis=axis, start=start, size=size))
            start += size
        return gradients

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 0


class Slice(Op):
    """``size`` elements along ``axis`` from ``start`` on."""

    name = "slice"
    operands = ("x",)
    attrs = {
        "axis": AttrSpec("int", low=0),
        "start": AttrSpec("int", low=0),
        "size": AttrSpec("int", low=1),
    }

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        axis, start, size = (ints(attrs[k])[0] for k in ("axis", "start", "size"))
        if axis >= x.rank or x.shape[axis] == BATCH or start + size > x.bind(1)[axis]:
            raise self.fail(
                f"elements {start} to {start + size} of axis {axis} must exist", types
            )
        return (x.with_shape((*x.shape[:axis], size, *x.shape[axis + 1 :])),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        axis, start, size = (ints(attrs[k])[0] for k in ("axis", "start", "size"))
        where = (slice(None),) * axis + (slice(start, start + size),)
        return np.ascontiguousarray(arrays[0][where])

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        x = node.operands[0].type
        axis, start, size = (ints(node.attrs[k])[0] for k in ("axis", "start", "size"))
        pads = [0] * (2 * x.rank)
        pads[2 * axis : 2 * axis + 2] = [start, x.bind(1)[axis] - start - size]
        return [b("pad", dy, pads=tuple(pads))]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 0


class Pad(Op):
    """Zeros around x: ``pads`` has before and after for every axis in turn."""

    name = "pad"
    operands = ("x",)
    attrs = {"pads": AttrSpec("ints", low=0)}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (x,), pads = types, ints(attrs["pads"])
        if len(pads) != 2 * x.rank or (x.batched and any(pads[:2])):
            raise self.fail(
                f"pads {list(pads)} must be a pair for every axis, 0 for the batch",
                types,
            )
        shape = tuple(
            d if isinstance(d, str) else d + pads[2 * i] + pads[2 * i + 1]
            for i, d in enumerate(x.shape)
        )
        return (x.with_shape(shape),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        pads = ints(attrs["pads"])
        pairs = list(zip(pads[::2], pads[1::2], strict=True))
        return np.pad(arrays[0], pairs) if pairs else arrays[0]

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        x, pads, inner = node.operands[0].type, ints(node.attrs["pads"]), dy
        for axis in range(x.rank):
            if any(pads[2 * axis : 2 * axis + 2]):
                start, size = pads[2 * axis], x.bind(1)[axis]
                inner = b("slice", inner, axis=axis, start=start, size=size)
        return [inner]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 0
