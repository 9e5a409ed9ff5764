"""Convolution of images [N, H, W, C] with filters [KH, KW, C, K]."""

from collections.abc import Sequence
from typing import Any

from convc.ir.errors import TypeRuleError
from convc.layers import arguments as args
from convc.layers.activation import Activation, activate
from convc.tracing import Tensor, layer_scope

Numbers = int | Sequence[int]
"""One number for both axes, [height, width], or as TensorFlow has it [1, h, w, 1]."""

Padding = str | int | Sequence[Sequence[int]]
"""``same``, ``valid``, zeros on every side, or [[top, bottom], [left, right]]."""


def conv2d(
    inputs: Tensor,
    filters: int,
    kernel_size: Numbers,
    strides: Numbers = 1,
    padding: Padding = "valid",
    dilation_rate: Numbers = 1,
    groups: int = 1,
    activation: Activation = None,
    use_bias: bool = True,
    kernel_initializer: Any = "glorot_uniform",
    bias_initializer: Any = "zeros",
    name: str | None = None,
    reuse: bool = False,
) -> Tensor:
    """A layer of ``filters`` convolutions: x: f32[N,H,W,C] -> f32[N,P,Q,filters].

    Makes ``name/kernel`` [KH,KW,C/groups,filters] and ``name/biases`` [filters], or
    shares them with ``reuse=True``. SAME gives P = ceil(H / stride), the odd zero at
    the bottom and right. ModelError for arguments that do not fit.
    """
    with layer_scope("conv2d", name, reuse) as t:
        x = args.tensor("conv2d", "inputs", inputs, rank=4)
        if isinstance(filters, Tensor):
            raise TypeRuleError(
                "conv2d: filters is the number of filters, got a tensor; "
                "convolve(x, kernel) takes a kernel of your own"
            )
        count = args.whole("conv2d", "filters", filters)
        window = args.pair("conv2d", "kernel_size", kernel_size)
        parts = args.whole("conv2d", "groups", groups)
        channels = x.type.inner[-1]
        if channels % parts or count % parts:
            raise TypeRuleError(
                f"conv2d: groups must divide the channels and the filters, "
                f"{channels} and {count} are not both multiples of {parts}"
            )
        shape = (*window, channels // parts, count)
        kernel = t.variable("kernel", shape, kernel_initializer)
        y = _convolve(x, kernel, strides, padding, dilation_rate, parts)
        if use_bias:
            biases = t.variable("biases", (count,), bias_initializer)
            y = t.emit("bias_add", y, biases)
        return activate("conv2d", y, activation)


def convolve(
    inputs: Tensor,
    kernel: Tensor,
    strides: Numbers = 1,
    padding: Padding = "valid",
    dilation_rate: Numbers = 1,
    groups: int = 1,
    name: str | None = None,
) -> Tensor:
    """``inputs`` convolved with a ``kernel`` [KH,KW,C/groups,K] from get_variable."""
    with layer_scope("convolve", name, absorb=True):
        x = args.tensor("convolve", "inputs", inputs, rank=4)
        w = args.tensor("convolve", "kernel", kernel)
        parts = args.whole("convolve", "groups", groups)
        return _convolve(x, w, strides, padding, dilation_rate, parts)


def _convolve(
    x: Tensor,
    w: Tensor,
    strides: Numbers,
    padding: Padding,
    dilation_rate: Numbers,
    groups: int,
) -> Tensor:
    return x.trace.emit(
        "conv2d",
        x,
        w,
        strides=args.pair("conv2d", "strides", strides),
        padding=args.padding("conv2d", padding),
        dilations=args.pair("conv2d", "dilation_rate", dilation_rate),
        groups=groups,
    )
