"""Convolution (cross-correlation) and its two gradients.

Images are [N, H, W, C], filters [KH, KW, C/groups, K]. Output sizes follow Dumoulin
and Visin, "A guide to convolution arithmetic for deep learning" (2016).
"""

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
    ints,
    narrowed,
)
from convc.ir.ops.window import Axis, crop, pad_input, padded_sizes, resolve, taps
from convc.ir.types import TensorType

_GEOMETRY = {
    "strides": AttrSpec("ints", (1, 1), low=1),
    "padding": AttrSpec("padding", "valid"),
    "dilations": AttrSpec("ints", (1, 1), low=1),
    "groups": AttrSpec("int", 1, low=1),
    "precision": PRECISION,
}


def conv_axes(
    op: str, sizes: Sequence[int], kernel: Sequence[int], attrs: Attrs
) -> tuple[Axis, ...]:
    """The spatial axes of a convolution with these attributes."""
    strides, dilations = ints(attrs["strides"]), ints(attrs["dilations"])
    return resolve(op, sizes, kernel, strides, dilations, attrs["padding"])


def _by_group(attrs: Attrs, channels: int, filters: int) -> list[tuple[slice, slice]]:
    groups = ints(attrs["groups"])[0]
    c, k = channels // groups, filters // groups
    return [
        (slice(g * c, (g + 1) * c), slice(g * k, (g + 1) * k)) for g in range(groups)
    ]


def _want_groups(
    op: Op, types: Types, attrs: Attrs, channels: int, filters: int
) -> None:
    groups = ints(attrs["groups"])[0]
    if channels % groups or filters % groups:
        raise op.fail(
            f"groups must divide the channels, {channels} and {filters} "
            f"are not both multiples of {groups}",
            types,
        )


class Conv2d(Op):
    """y[n,p,q,k] = sum over i, j, c of x[n, p·s+i·d, q·s+j·d, c] · w[i,j,c,k]."""

    name = "conv2d"
    operands = ("x", "w")
    attrs = _GEOMETRY

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, w = types
        self.want_product(types, attrs)
        self.want_rank(types, 0, 4)
        self.want_rank(types, 1, 4)
        groups = ints(attrs["groups"])[0]
        channels, filters = x.inner[-1], w.inner[-1]
        if w.batched:
            raise self.fail("a filter has no batch axis", types)
        _want_groups(self, types, attrs, channels, filters)
        if w.inner[2] * groups != channels:
            rule = (
                f"input has {channels} channels, filter expects {w.inner[2] * groups}"
            )
            raise self.fail(rule, types)
        axes = conv_axes(self.name, x.bind(1)[1:3], w.inner[:2], attrs)
        return (x.with_shape((x.shape[0], *(a.out for a in axes), filters)),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        x, w = arrays
        axes = conv_axes(self.name, x.shape[1:3], w.shape[:2], attrs)
        padded = pad_input(x, axes)
        y = np.zeros((x.shape[0], *(a.out for a in axes), w.shape[-1]), x.dtype)
        for channels, filters in _by_group(attrs, x.shape[-1], w.shape[-1]):
            for tap, where in taps(axes):
                y[..., filters] += padded[where][..., channels] @ w[tap][:, filters]
        return y

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        x, w = node.operands
        dx = b("conv2d_input_grad", dy, w, size=x.type.bind(1)[1:3], **node.attrs)
        dw = b("conv2d_filter_grad", x, dy, kernel=w.type.inner[:2], **node.attrs)
        return [dx, dw]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        (y,) = self.infer(types, attrs)
        return 2 * y.elements(batch) * self.reduction(types, attrs, batch)

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        kh, kw, c, _ = types[1].inner
        return kh * kw * c


class Conv2dInputGrad(Op):
    """The adjoint of conv2d in its input; ``size`` is the input's height and width."""

    name = "conv2d_input_grad"
    operands = ("dy", "w")
    attrs = {**_GEOMETRY, "size": AttrSpec("ints", low=1)}

    def _axes(self, types: Types, attrs: Attrs) -> tuple[Axis, ...]:
        return conv_axes(self.name, ints(attrs["size"]), types[1].inner[:2], attrs)

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        dy, w = types
        self.want_product(types, attrs)
        self.want_rank(types, 0, 4)
        self.want_rank(types, 1, 4)
        axes = self._axes(types, attrs)
        expected = (dy.shape[0], *(a.out for a in axes), w.inner[-1])
        if w.batched or dy.shape != expected:
            raise self.fail(f"dy must be {dy.with_shape(expected)}, is {dy}", types)
        channels = w.inner[2] * ints(attrs["groups"])[0]
        _want_groups(self, types, attrs, channels, w.inner[-1])
        return (dy.with_shape((dy.shape[0], *ints(attrs["size"]), channels)),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        dy, w = arrays
        axes = conv_axes(self.name, ints(attrs["size"]), w.shape[:2], attrs)
        total = w.shape[2] * ints(attrs["groups"])[0]
        padded = np.zeros((dy.shape[0], *padded_sizes(axes), total), dy.dtype)
        for channels, filters in _by_group(attrs, total, w.shape[-1]):
            for tap, where in taps(axes):
                padded[where][..., channels] += dy[..., filters] @ w[tap][:, filters].T
        return crop(padded, axes)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        g, w = node.operands
        attrs = {k: v for k, v in node.attrs.items() if k != "size"}
        d_g = b("conv2d", dy, w, **attrs)
        return [d_g, b("conv2d_filter_grad", dy, g, kernel=w.type.inner[:2], **attrs)]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        kh, kw, c, _ = types[1].inner
        return 2 * types[0].elements(batch) * kh * kw * c

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        kh, kw, _, k = types[1].inner
        return kh * kw * k // ints(attrs["groups"])[0]


class Conv2dFilterGrad(Op):
    """The adjoint of conv2d in its filter; ``kernel`` is its height and width.

    With ``out=f32`` the sum over 16-bit operands is not rounded to 16 bits.
    """

    name = "conv2d_filter_grad"
    operands = ("x", "dy")
    attrs = {**_GEOMETRY, "kernel": AttrSpec("ints", low=1), "out": OUT}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, dy = types
        self.want_product(types, attrs)
        self.want_rank(types, 0, 4)
        self.want_rank(types, 1, 4)
        kernel = ints(attrs["kernel"])
        axes = conv_axes(self.name, x.bind(1)[1:3], kernel, attrs)
        expected = (x.shape[0], *(a.out for a in axes), dy.inner[-1])
        if dy.shape != expected:
            raise self.fail(f"dy must be {dy.with_shape(expected)}, is {dy}", types)
        _want_groups(self, types, attrs, x.inner[-1], dy.inner[-1])
        per_group = x.inner[-1] // ints(attrs["groups"])[0]
        dw = x.with_shape((*kernel, per_group, dy.inner[-1]))
        return (self.summed(dw, types, attrs),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        x, dy = arrays
        kernel = ints(attrs["kernel"])
        axes = conv_axes(self.name, x.shape[1:3], kernel, attrs)
        groups = ints(attrs["groups"])[0]
        padded = pad_input(x, axes)
        dw = np.zeros((*kernel, x.shape[-1] // groups, dy.shape[-1]), x.dtype)
        for channels, filters in _by_group(attrs, x.shape[-1], dy.shape[-1]):
            for tap, where in taps(axes):
                x_tap, dy_group = padded[where][..., channels], dy[..., filters]
                dw[tap][:, filters] = np.tensordot(x_tap, dy_group, ((0, 1, 2),) * 2)
        return dw

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        x, g = node.operands
        attrs = {k: v for k, v in node.attrs.items() if k not in ("kernel", "out")}
        dy = narrowed(b, dy, g.type)
        dx = b("conv2d_input_grad", g, dy, size=x.type.bind(1)[1:3], **attrs)
        return [dx, b("conv2d", x, dy, **attrs)]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        (dw,) = self.infer(types, attrs)
        return 2 * dw.elements(batch) * self.reduction(types, attrs, batch)

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        n, p, q, _ = types[1].bind(batch)
        return n * p * q
