"""Pooling of images, sequences and volumes: one number per window and channel."""

from math import prod

from convc.ir.graph import Attr
from convc.ir.ops.pool import pool_axes
from convc.layers import arguments as args
from convc.layers.conv import Numbers, Padding
from convc.layers.conv_ranks import as_image, as_sequence
from convc.layers.images import as_given, channels_last
from convc.tracing import Tensor, layer_scope


def max_pool2d(
    inputs: Tensor,
    pool_size: Numbers = 2,
    strides: Numbers | None = None,
    padding: Padding = "valid",
    name: str | None = None,
    data_format: str = "NHWC",
) -> Tensor:
    """The largest element of each window; ``strides`` default to the window.

    ModelError when the window is larger than the padded input.
    """
    return _pool("max_pool2d", inputs, pool_size, strides, padding, name, data_format)


def avg_pool2d(
    inputs: Tensor,
    pool_size: Numbers = 2,
    strides: Numbers | None = None,
    padding: Padding = "valid",
    name: str | None = None,
    data_format: str = "NHWC",
) -> Tensor:
    """The mean of each window over the elements inside the image (no padding).

    ``strides`` default to the window; ModelError when it is larger than the input.
    """
    return _pool("avg_pool2d", inputs, pool_size, strides, padding, name, data_format)


def _pool(
    op: str,
    inputs: Tensor,
    pool_size: Numbers,
    strides: Numbers | None,
    padding: Padding,
    name: str | None,
    data_format: str,
) -> Tensor:
    with layer_scope(op, name, absorb=True) as t:
        x, form = channels_last(op, inputs, data_format)
        rule = _geometry(op, x, pool_size, strides, padding, form)
        return as_given(t.emit(op, x, **_image_rule(rule, 0, 1)), form)


def max_pool1d(
    inputs: Tensor,
    pool_size: Numbers = 2,
    strides: Numbers | None = None,
    padding: Padding = "valid",
    name: str | None = None,
) -> Tensor:
    """The largest element of each window: f32[N,L,C] -> f32[N,P,C]."""
    return _pool1d("max", inputs, pool_size, strides, padding, name)


def avg_pool1d(
    inputs: Tensor,
    pool_size: Numbers = 2,
    strides: Numbers | None = None,
    padding: Padding = "valid",
    name: str | None = None,
) -> Tensor:
    """The mean of each window over its elements: f32[N,L,C] -> f32[N,P,C]."""
    return _pool1d("avg", inputs, pool_size, strides, padding, name)


def _pool1d(
    kind: str,
    inputs: Tensor,
    pool_size: Numbers,
    strides: Numbers | None,
    padding: Padding,
    name: str | None,
) -> Tensor:
    layer = f"{kind}_pool1d"
    with layer_scope(layer, name, absorb=True) as t:
        x = args.tensor(layer, "inputs", inputs, rank=3)
        rule = _geometry(layer, x, pool_size, strides, padding)
        y = t.emit(f"{kind}_pool2d", as_image(t, x), **_image_rule(rule, None, 0))
        return as_sequence(t, y)


def max_pool3d(
    inputs: Tensor,
    pool_size: Numbers = 2,
    strides: Numbers | None = None,
    padding: Padding = "valid",
    name: str | None = None,
) -> Tensor:
    """The largest element of each window: f32[N,D,H,W,C] -> f32[N,O,P,Q,C]."""
    return _pool3d("max", inputs, pool_size, strides, padding, name)


def avg_pool3d(
    inputs: Tensor,
    pool_size: Numbers = 2,
    strides: Numbers | None = None,
    padding: Padding = "valid",
    name: str | None = None,
) -> Tensor:
    """The mean of each window over its elements: f32[N,D,H,W,C] -> f32[N,O,P,Q,C]."""
    return _pool3d("avg", inputs, pool_size, strides, padding, name)


def _pool3d(
    kind: str,
    inputs: Tensor,
    pool_size: Numbers,
    strides: Numbers | None,
    padding: Padding,
    name: str | None,
) -> Tensor:
    """Rows first, then depth and height, as images of D·H and of H by W·C elements.

    A window is a product of intervals, and so is its part inside the volume: a maximum
    or mean over it is one over intervals in turn.
    """
    layer, op = f"{kind}_pool3d", f"{kind}_pool2d"
    with layer_scope(layer, name, absorb=True) as t:
        x = args.tensor(layer, "inputs", inputs, rank=5)
        batch, depth, height, width, channels = x.shape
        rule = _geometry(layer, x, pool_size, strides, padding)
        lines = prod(x.type.inner[-4:-2])
        y = t.emit("reshape", x, shape=(batch, lines, width, channels))
        y = t.emit(op, y, **_image_rule(rule, None, 2))
        row = prod(y.type.inner[-2:])
        shape = (batch, depth, height, row)
        z = t.emit("reshape", y, shape=shape)
        z = t.emit(op, z, **_image_rule(rule, 0, 1))
        return t.emit("reshape", z, shape=(*z.shape[:3], *y.shape[2:]))


Rule = tuple[tuple[int, ...], tuple[int, ...], Attr]
"""Window, strides and padding of a pool."""


def _geometry(
    layer: str,
    x: Tensor,
    pool_size: Numbers,
    strides: Numbers | None,
    padding: Padding,
    form: str = "NHWC",
) -> Rule:
    rank = x.rank - 2
    window = args.sizes(layer, "pool_size", pool_size, rank, form)
    steps = (
        window if strides is None else args.sizes(layer, "strides", strides, rank, form)
    )
    rule = args.padding(layer, padding, rank, form)
    asked: dict[str, Attr] = {"window": window, "strides": steps, "padding": rule}
    pool_axes(layer, x.type.bind(1)[1:-1], asked)  # refuses what does not fit
    return window, steps, rule


def _image_rule(rule: Rule, row: int | None, column: int) -> dict[str, Attr]:
    """Two axes of a rule as those of an image; None is an axis that is not pooled."""
    window, steps, padding = rule
    size, step = (1, 1) if row is None else (window[row], steps[row])
    sides: Attr = padding
    if isinstance(padding, tuple):
        sides = ((0, 0) if row is None else padding[row], padding[column])
    return {
        "window": (size, window[column]),
        "strides": (step, steps[column]),
        "padding": sides,
    }


def global_avg_pool2d(
    inputs: Tensor, name: str | None = None, data_format: str = "NHWC"
) -> Tensor:
    """The mean of each channel: f32[N,H,W,C] -> f32[N,C]."""
    layer = "global_avg_pool2d"
    with layer_scope(layer, name, absorb=True) as t:
        x, _ = channels_last(layer, inputs, data_format)
        return t.emit("reduce_mean", x, axes=(1, 2))


def global_max_pool2d(
    inputs: Tensor, name: str | None = None, data_format: str = "NHWC"
) -> Tensor:
    """The largest element of each channel: f32[N,H,W,C] -> f32[N,C]."""
    layer = "global_max_pool2d"
    with layer_scope(layer, name, absorb=True) as t:
        x, _ = channels_last(layer, inputs, data_format)
        window = x.type.bind(1)[1:3]
        y = t.emit("max_pool2d", x, window=window, strides=window)
        return t.emit("reshape", y, shape=(x.shape[0], x.shape[-1]))
