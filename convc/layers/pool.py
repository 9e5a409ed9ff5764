"""Pooling of images [N, H, W, C]: one number per window and channel."""

from convc.layers import arguments as args
from convc.layers.conv import Numbers, Padding
from convc.tracing import Tensor, layer_scope


def max_pool2d(
    inputs: Tensor,
    pool_size: Numbers = 2,
    strides: Numbers | None = None,
    padding: Padding = "valid",
    name: str | None = None,
) -> Tensor:
    """The largest element of each window; ``strides`` default to the window.

    ModelError when the window is larger than the padded input.
    """
    return _pool("max_pool2d", inputs, pool_size, strides, padding, name)


def avg_pool2d(
    inputs: Tensor,
    pool_size: Numbers = 2,
    strides: Numbers | None = None,
    padding: Padding = "valid",
    name: str | None = None,
) -> Tensor:
    """The mean of each window over the elements inside the image (no padding).

    ``strides`` default to the window; ModelError when it is larger than the input.
    """
    return _pool("avg_pool2d", inputs, pool_size, strides, padding, name)


def _pool(
    op: str,
    inputs: Tensor,
    pool_size: Numbers,
    strides: Numbers | None,
    padding: Padding,
    name: str | None,
) -> Tensor:
    with layer_scope(op, name, absorb=True) as t:
        x = args.tensor(op, "inputs", inputs, rank=4)
        window = args.pair(op, "pool_size", pool_size)
        steps = window if strides is None else args.pair(op, "strides", strides)
        rule = args.padding(op, padding)
        return t.emit(op, x, window=window, strides=steps, padding=rule)


def global_avg_pool2d(inputs: Tensor, name: str | None = None) -> Tensor:
    """The mean of each channel: f32[N,H,W,C] -> f32[N,C]."""
    with layer_scope("global_avg_pool2d", name, absorb=True) as t:
        x = args.tensor("global_avg_pool2d", "inputs", inputs, rank=4)
        return t.emit("reduce_mean", x, axes=(1, 2))


def global_max_pool2d(inputs: Tensor, name: str | None = None) -> Tensor:
    """The largest element of each channel: f32[N,H,W,C] -> f32[N,C]."""
    with layer_scope("global_max_pool2d", name, absorb=True) as t:
        x = args.tensor("global_max_pool2d", "inputs", inputs, rank=4)
        batch, height, width, channels = x.shape
        window = args.pair("global_max_pool2d", "inputs", (height, width))
        y = t.emit("max_pool2d", x, window=window, strides=window)
        return t.emit("reshape", y, shape=(batch, channels))
