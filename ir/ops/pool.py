"""Max and average pooling over [N, H, W, C] with their gradients."""

from collections.abc import Sequence

import numpy as np

from convc.ir.errors import TypeRuleError
from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import Array, AttrSpec, Emit, Op, Types, ints
from convc.ir.ops.window import Axis, crop, pad_input, padded_sizes, resolve, taps
from convc.ir.ops.window import window_count as count_taps
from convc.ir.types import DType, TensorType

_GEOMETRY = {
    "window": AttrSpec("ints", low=1),
    "strides": AttrSpec("ints", low=1),
    "padding": AttrSpec("padding", "valid"),
}


def pool_axes(op: str, sizes: Sequence[int], attrs: Attrs) -> tuple[Axis, ...]:
    """The spatial axes of a pooling op; every window holds some of the input."""
    window, strides = ints(attrs["window"]), ints(attrs["strides"])
    axes = resolve(op, sizes, window, strides, [1] * len(sizes), attrs["padding"])
    for axis in axes:
        if max(axis.before, axis.after) >= axis.kernel:
            raise TypeRuleError(
                f"{op}: padding must be smaller than the window of {axis.kernel}, "
                f"is [{axis.before}, {axis.after}]"
            )
    return axes


class _Pool(Op):
    """What the pooling ops share: one output per window and channel."""

    operands = ("x",)
    attrs = _GEOMETRY

    def _axes(self, types: Types, attrs: Attrs) -> tuple[Axis, ...]:
        self.want_rank(types, 0, 4)
        return pool_axes(self.name, types[0].bind(1)[1:3], attrs)

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        self.want_float(types)
        axes = self._axes(types, attrs)
        return (x.with_shape((x.shape[0], *(a.out for a in axes), x.inner[-1])),)

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        taps_per_window = count_taps(self._axes(types, attrs))
        return taps_per_window * self.infer(types, attrs)[0].elements(batch)


class MaxPool2d(_Pool):
    """The largest element of each window; padding never wins."""

    name = "max_pool2d"

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        (x,) = arrays
        axes = pool_axes(self.name, x.shape[1:3], attrs)
        padded = pad_input(x, axes, -np.inf)
        return np.asarray(np.max([padded[where] for _, where in taps(axes)], axis=0))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        (x,) = node.operands
        index = b("max_pool2d_argmax", x, **node.attrs)
        size = x.type.bind(1)[1:3]
        return [b("max_pool2d_grad", index, dy, size=size, **node.attrs)]


class MaxPool2dArgmax(_Pool):
    """Which tap of each window is the largest, row by row; the first of equals."""

    name = "max_pool2d_argmax"

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (y,) = super().infer(types, attrs)
        if count_taps(self._axes(types, attrs)) > 255:
            raise self.fail("a window must have at most 255 taps for its index", types)
        return (y.with_dtype(DType.U8),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        (x,) = arrays
        axes = pool_axes(self.name, x.shape[1:3], attrs)
        padded = pad_input(x, axes, -np.inf)
        stack = np.stack([padded[where] for _, where in taps(axes)])
        return np.asarray(stack.argmax(axis=0).astype(np.uint8))


class MaxPool2dGrad(Op):
    """Sends each dy to the input element that won; ``size`` is the input's H and W."""

    name = "max_pool2d_grad"
    operands = ("index", "dy")
    attrs = {**_GEOMETRY, "size": AttrSpec("ints", low=1)}

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        index, dy = types
        self.want_rank(types, 1, 4)
        self.want_float(types, 1)
        axes = pool_axes(self.name, ints(attrs["size"]), attrs)
        expected = (dy.shape[0], *(a.out for a in axes), dy.inner[-1])
        if index.dtype is not DType.U8 or not index.shape == dy.shape == expected:
            raise self.fail(
                f"index and dy must be u8 and {dy.with_shape(expected)}", types
            )
        return (dy.with_shape((dy.shape[0], *ints(attrs["size"]), dy.inner[-1])),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        index, dy = arrays
        axes = pool_axes(self.name, ints(attrs["size"]), attrs)
        padded = np.zeros((dy.shape[0], *padded_sizes(axes), dy.shape[-1]), dy.dtype)
        for number, (_, where) in enumerate(taps(axes)):
            padded[where] += np.where(index == number, dy, 0)
        return crop(padded, axes)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        raise self.fail(
            "second derivatives of max pooling are not defined here",
            [v.type for v in node.operands],
        )

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        window = ints(attrs["window"])
        return window[0] * window[1] * types[1].elements(batch)

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        window, strides = ints(attrs["window"]), ints(attrs["strides"])
        return -(-window[0] // strides[0]) * -(-window[1] // strides[1])


def window_sizes(axes: Sequence[Axis]) -> Array:
    """How many taps of each window lie inside the input, [P, Q] float64."""
    inside = pad_input(np.ones((1, *(a.size for a in axes), 1)), axes)
    counts = np.sum([inside[where] for _, where in taps(axes)], axis=0)
    return np.asarray(counts[0, ..., 0])


class AvgPool2d(_Pool):
    """The mean of each window over the taps inside the input (padding not counted)."""

    name = "avg_pool2d"
    exact = False

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        (x,) = arrays
        axes = pool_axes(self.name, x.shape[1:3], attrs)
        padded = pad_input(x, axes)
        total = np.sum([padded[where] for _, where in taps(axes)], axis=0)
        sizes = window_sizes(axes)[None, ..., None].astype(x.dtype)
        return np.asarray(total / sizes)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        size = node.operands[0].type.bind(1)[1:3]
        return [b("avg_pool2d_grad", dy, size=size, **node.attrs)]

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        window = ints(attrs["window"])
        return window[0] * window[1]


class AvgPool2dGrad(Op):
    """Spreads each dy evenly over its window; ``size`` is the input's H and W."""

    name = "avg_pool2d_grad"
    operands = ("dy",)
    attrs = {**_GEOMETRY, "size": AttrSpec("ints", low=1)}
    exact = False

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        (dy,) = types
        self.want_rank(types, 0, 4)
        self.want_float(types)
        axes = pool_axes(self.name, ints(attrs["size"]), attrs)
        expected = (dy.shape[0], *(a.out for a in axes), dy.inner[-1])
        if dy.shape != expected:
            raise self.fail(f"dy must be {dy.with_shape(expected)}, is {dy}", types)
        return (dy.with_shape((dy.shape[0], *ints(attrs["size"]), dy.inner[-1])),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        (dy,) = arrays
        axes = pool_axes(self.name, ints(attrs["size"]), attrs)
        padded = np.zeros((dy.shape[0], *padded_sizes(axes), dy.shape[-1]), dy.dtype)
        share = dy / window_sizes(axes)[None, ..., None].astype(dy.dtype)
        for _, where in taps(axes):
            padded[where] += share
        return crop(padded, axes)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        attrs = {k: v for k, v in node.attrs.items() if k != "size"}
        return [b("avg_pool2d", dy, **attrs)]

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        window = ints(attrs["window"])
        return window[0] * window[1]
