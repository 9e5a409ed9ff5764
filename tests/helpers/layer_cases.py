"""A convolution with what may follow it in one kernel, at many a geometry."""

from typing import Any

from op_bench import tensor

from convc.ir.builder import GraphBuilder
from convc.ir.graph import Graph
from convc.ir.ops.conv import conv_axes

POOLED: dict[str, tuple[Any, ...]] = {
    "as_in_two_conv": ((8, 8), 1, (5, 5), 3, {"padding": "same"}),
    "valid": ((8, 10), 2, (3, 3), 2, {}),
    "three_channels": ((6, 8), 3, (3, 2), 2, {"padding": "same"}),
    "strided": ((8, 8), 1, (3, 3), 2, {"strides": (2, 1), "padding": ((1, 1), (2, 1))}),
    "dilated": ((6, 8), 2, (3, 2), 2, {"padding": "same", "dilations": (1, 2)}),
    "dilated_rows": ((6, 8), 2, (3, 2), 2, {"padding": "same", "dilations": (2, 1)}),
    "groups": ((4, 4), 4, (3, 3), 4, {"padding": "same", "groups": 2}),
    "one_by_one": ((4, 8), 3, (1, 1), 4, {}),
    "rows_of_padding": ((2, 2), 1, (3, 3), 2, {"padding": ((2, 2), (2, 2))}),
}
WIDE: dict[str, tuple[Any, ...]] = {
    "same": ((4, 6), 30, (3, 3), 40, {"padding": "same"}),
    "odd": ((7, 5), 32, (3, 3), 36, {"padding": "same"}),
    "valid": ((5, 8), 34, (3, 3), 40, {}),
    "asymmetric": ((4, 5), 30, (3, 3), 40, {"padding": ((0, 2), (2, 1))}),
    "one_pixel": ((1, 1), 32, (3, 3), 32, {"padding": "same"}),
    "more_padding_than_image": ((1, 2), 32, (3, 3), 32, {"padding": ((3, 3), (0, 4))}),
    "five": ((6, 7), 24, (5, 5), 24, {"padding": "same"}),
}
"""Enough channels for Winograd's tiles to save arithmetic."""
ENDINGS = {
    "bare": "",
    "bias": "bias",
    "relu": "relu",
    "bias_relu": "bias relu",
    "pool": "pool",
    "bias_pool": "bias pool",
    "pool_argmax_relu": "pool argmax relu",
    "bias_pool_argmax_relu": "bias pool argmax relu",
}

PARTS = ("dw dx", "relu dw dx", "relu pool bias dw dx", "pool dw", "bias dx")
"""Gradients of a convolution, and of what comes before them in a kernel."""


def layer(case: tuple[Any, ...], ending: str = "", window: Any = (2, 2)) -> Graph:
    """A convolution with ``ending``: bias, pool, argmax, sum, an activation, or less.

    ``sum_before`` has the other operand of the sum first.
    """
    image, c, kernel, k, geometry = case[:5]
    b, sizes = GraphBuilder("layer"), ",".join(map(str, image))
    x = b.input("x", tensor(f"f32[N,{sizes},{c}]"))
    taps = f"{kernel[0]},{kernel[1]},{c // geometry.get('groups', 1)}"
    value = b("conv2d", x, b.parameter("w", tensor(f"f32[{taps},{k}]")), **geometry)
    if "bias" in ending:
        value = b("bias_add", value, b.parameter("b", tensor(f"f32[{k}]")))
    if "argmax" in ending:
        index = b("max_pool2d_argmax", value, window=window, strides=window)
        b.output("index", index)
    if "pool" in ending:
        value = b("max_pool2d", value, window=window, strides=window)
    if "sum" in ending:
        other = b.input("other", value.type)
        pair = (other, value) if "sum_before" in ending else (value, other)
        value = b("add", *pair)
    for activation in ("relu", "tanh", "sigmoid"):
        if activation in ending:
            value = b(activation, value)
    b.output("y", value)
    return b.finish()


def gradients(case: tuple[Any, ...], parts: str) -> Graph:
    """The gradients of a convolution with those of what follows it, as one kernel."""
    image, c, kernel, k, geometry = case
    b = GraphBuilder("gradients")
    attrs = {"strides": (1, 1), "dilations": (1, 1), "padding": "valid", **geometry}
    out = tuple(axis.out for axis in conv_axes("conv2d", image, kernel, attrs))
    small = tuple(size // 2 for size in out) if "pool" in parts else out

    def image_of(name: str, sizes: tuple[int, ...], channels: int, kind: str) -> Any:
        return b.input(name, tensor(f"{kind}[N,{sizes[0]},{sizes[1]},{channels}]"))

    dz = image_of("dy", small, k, "f32")
    if "relu" in parts:
        dz = b("relu_grad", image_of("y", small, k, "f32"), dz)
    if "pool" in parts:
        window = {"window": (2, 2), "strides": (2, 2)}
        index = image_of("index", small, k, "u8")
        dz = b("max_pool2d_grad", index, dz, size=out, **window)
    if "bias" in parts:
        b.output("db", b("reduce_sum", dz, axes=(0, 1, 2)))
    if "dw" in parts:
        x = image_of("x", image, c, "f32")
        b.output("dw", b("conv2d_filter_grad", x, dz, kernel=kernel, **geometry))
    if "dx" in parts:
        taps = f"{kernel[0]},{kernel[1]},{c // geometry.get('groups', 1)}"
        w = b.parameter("w", tensor(f"f32[{taps},{k}]"))
        b.output("dx", b("conv2d_input_grad", dz, w, size=image, **geometry))
    return b.finish()
