"""A convolution with what may follow it in one kernel, at many a geometry."""

from typing import Any

from op_bench import tensor

from convc.ir.builder import GraphBuilder
from convc.ir.graph import Graph

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
