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

MASKS = ("dropout_mask", "keep_mask")
"""Ops that draw a mask."""
DROPOUTS = ("apply_mask", "apply_keep")
"""Ops that apply one."""
SHARES = (TensorType(DType.F32, ()), TensorType(DType.F64, ()))
"""The types of a share that is known when the program runs."""


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


class KeepMask(Op):
    """``dropout_mask`` for a share that is known when the program runs: ``keep``.

    The bits are those of ``dropout_mask``. A share up to 0 keeps nothing, one from 1 on
    everything.
    """

    name = "keep_mask"
    operands = ("seed", "step", "keep")
    attrs = {"shape": AttrSpec("shape"), "stream": AttrSpec("int", low=0)}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if types[2] not in SHARES:
            raise self.fail("keep must be an f32 scalar", types)
        drawn = {**attrs, "keep": 1.0}
        return DropoutMask().infer(types[:2], drawn)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        seed, step = (int(a) for a in arrays[:2])
        shape = bind_shape(shape_of(attrs["shape"]), batch)
        threshold = philox.fed_threshold(float(arrays[2]))
        stream = ints(attrs["stream"])[0]
        kept = philox.words_below(seed, stream, step, prod(shape), threshold)
        return kept.reshape(shape)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [None, None, None]

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


class ApplyKeep(Op):
    """x / keep where mask, else 0: ``apply_mask`` for a share that is fed.

    The gradient takes ``keep`` for a constant, as it takes the mask.
    """

    name = "apply_keep"
    operands = ("x", "mask", "keep")
    exact = False
    elementwise = True

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if types[2] not in SHARES:
            raise self.fail("keep must be an f32 scalar", types)
        x, mask = types[:2]
        self.want_float(types, 0)
        if mask.dtype is not DType.BOOL or mask.shape != x.shape:
            raise self.fail("mask must be boolean with the shape of x", types)
        return (x,)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        x, mask, keep = arrays
        return np.asarray(np.where(mask, x, x.dtype.type(0)) / x.dtype.type(keep))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [b("apply_keep", dy, *node.operands[1:]), None, None]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 2 * types[0].elements(batch)
