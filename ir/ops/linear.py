"""Matrix product and bias."""

from collections.abc import Sequence

import numpy as np

from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import (
    OUT,
    PRECISION,
    Array,
    AttrSpec,
    Emit,
    Op,
    Types,
    narrowed,
)
from convc.ir.types import BATCH, Dim, TensorType


class Matmul(Op):
    """The product of two matrices, each optionally transposed.

    A dense layer is ``matmul(x: f32[N,in], w: f32[in,out])``. With ``out=f32`` the sum
    over 16-bit operands is not rounded to 16 bits.
    """

    name = "matmul"
    operands = ("a", "b")
    attrs = {
        "transpose_a": AttrSpec("bool", False),
        "transpose_b": AttrSpec("bool", False),
        "precision": PRECISION,
        "out": OUT,
    }

    def _dims(self, types: Types, attrs: Attrs) -> tuple[Dim, Dim, Dim]:
        a, b = (
            t.shape[::-1] if attrs[f"transpose_{side}"] else t.shape
            for side, t in zip("ab", types, strict=True)
        )
        if a[1] != b[0]:
            rule = f"the inner dimensions must agree, a has {a[1]}, b has {b[0]}"
            raise self.fail(rule, types)
        return a[0], a[1], b[1]

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        self.want_product(types, attrs)
        self.want_rank(types, 0, 2)
        self.want_rank(types, 1, 2)
        rows, _, columns = self._dims(types, attrs)
        if columns == BATCH:
            raise self.fail("the batch cannot become the second axis", types)
        product = types[0].with_shape((rows, columns))
        return (self.summed(product, types, attrs),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        a, b = arrays
        product = (a.T if attrs["transpose_a"] else a) @ (
            b.T if attrs["transpose_b"] else b
        )
        return np.asarray(product)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        x, w = node.operands
        ta, tb = bool(node.attrs["transpose_a"]), bool(node.attrs["transpose_b"])
        dy, exact = narrowed(b, dy, x.type), node.attrs["precision"]

        def product(left: Value, right: Value, *turned: bool) -> Value:
            sides = dict(zip(("transpose_a", "transpose_b"), turned, strict=True))
            return b("matmul", left, right, **sides, precision=exact)

        dx = product(w, dy, tb, True) if ta else product(dy, w, False, not tb)
        dw = product(dy, x, True, ta) if tb else product(x, dy, not ta, False)
        return [dx, dw]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        (y,) = self.infer(types, attrs)
        return 2 * y.elements(batch) * self.reduction(types, attrs, batch)

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        inner = self._dims(types, attrs)[1]
        return batch if isinstance(inner, str) else inner


class BiasAdd(Op):
    """x plus one number per channel: x: f32[…,C], b: f32[C]."""

    name = "bias_add"
    operands = ("x", "b")
    elementwise = True

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, b = types
        self.want_float(types)
        self.want_rank(types, 1, 1)
        if x.rank < 2 or b.shape != x.shape[-1:]:
            rule = (
                f"x has {x.shape[-1] if x.rank else 'no'} channels, b has {b.shape[0]}"
            )
            raise self.fail(rule, types)
        return (x,)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        x, b = arrays
        return np.asarray(x + b)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [dy, b("reduce_sum", dy, axes=tuple(range(dy.type.rank - 1)))]
