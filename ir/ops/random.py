"""Dropout from counter-based random bits (Philox 4x32-10)."""

from collections.abc import Sequence
from math import prod

import numpy as np

from convc.ir import philox
from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import (
    Array,
    AttrSpec,
    Emit,
    Op,
    Types,
    bind_shape,
    ints,
    number,
    shape_of,
)
from convc.ir.types import DType, TensorType


class DropoutMask(Op):
    """True with probability ``keep``, drawn for (seed, stream, step, element).

    Elements are counted in the row-major order of ``shape``, so every backend and
    every storage order draws the same mask.
    """

    name = "dropout_mask"
    operands = ("seed", "step")
    attrs = {
        "shape": AttrSpec("shape"),
        "keep": AttrSpec("float"),
        "stream": AttrSpec("int", low=0),
    }

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        scalar = TensorType(DType.I64, ())
        if any(t != scalar for t in types):
            raise self.fail("seed and step must be i64 scalars", types)
        if not 0 < number(attrs["keep"]) <= 1:
            raise self.fail(f"keep must be in (0, 1], is {attrs['keep']}", types)
        if ints(attrs["stream"])[0] >= 2**32:
            raise self.fail("stream must be below 2**32", types)
        return (TensorType(DType.BOOL, shape_of(attrs["shape"])),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        seed, step = (int(a) for a in arrays)
        shape = bind_shape(shape_of(attrs["shape"]), batch)
        stream, keep = ints(attrs["stream"])[0], number(attrs["keep"])
        return philox.keep_mask(seed, stream, step, prod(shape), keep).reshape(shape)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [None, None]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 0


class ApplyMask(Op):
    """x · scale where mask, else 0: inverted dropout (Srivastava et al., 2014)."""

    name = "apply_mask"
    operands = ("x", "mask")
    elementwise = True
    attrs = {"scale": AttrSpec("float", 1.0)}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, mask = types
        self.want_float(types, 0)
        if mask.dtype is not DType.BOOL or mask.shape != x.shape:
            raise self.fail("mask must be boolean with the shape of x", types)
        return (x,)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        x, mask = arrays
        scaled = x * x.dtype.type(number(attrs["scale"]))
        return np.asarray(np.where(mask, scaled, x.dtype.type(0)))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [b("apply_mask", dy, node.operands[1], **node.attrs), None]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 2 * types[0].elements(batch)
