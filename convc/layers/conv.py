"""Convolution of images [N, H, W, C] with filters [KH, KW, C, K]."""

from collections.abc import Sequence
from typing import Any

from convc.ir.errors import TypeRuleError
from convc.layers import arguments as args
from convc.layers.activation import Activation, activate
from convc.layers.images import as_given, channels_last
from convc.layers.kernels import Kernel, kernel_of
from convc.tracing import Tensor, Trace, layer_scope

Numbers = int | Sequence[int]
"""One number for all axes, [height, width], or as TensorFlow has it [1, h, w, 1]."""

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
    data_format: str = "NHWC",
) -> Tensor:
    """A layer of ``filters`` convolutions: x: f32[N,H,W,C] -> f32[N,P,Q,filters].

    Makes ``name/kernel`` [KH,KW,C/groups,filters] and ``name/biases`` [filters], or
    shares them with ``reuse=True``. SAME gives P = ceil(H / stride), the odd zero at
    the bottom and right. With data_format="NCHW" images are [N,C,H,W], kernels as
    ever. ModelError for arguments that do not fit.
    """
    with layer_scope("conv2d", name, reuse) as t:
        x, form = channels_last("conv2d", inputs, data_format)
        count, parts = counts("conv2d", x, filters, groups)
        window = args.sizes("conv2d", "kernel_size", kernel_size, form=form)
        shape = (*window, x.type.inner[-1] // parts, count)
        kernel = t.variable("kernel", shape, kernel_initializer)
        rule = geometry("conv2d", strides, padding, dilation_rate, form)
        y = t.emit("conv2d", x, kernel, groups=parts, **rule)
        y = biased(t, y, use_bias, bias_initializer)
        return as_given(activate("conv2d", y, activation), form)


def convolve(
    inputs: Tensor,
    kernel: Kernel,
    strides: Numbers = 1,
    padding: Padding = "valid",
    dilation_rate: Numbers = 1,
    groups: int = 1,
    name: str | None = None,
    data_format: str = "NHWC",
) -> Tensor:
    """``inputs`` convolved with a kernel of one's own, [KH,KW,C/groups,K].

    The kernel is a tensor, as get_variable gives, or numbers as nested lists or an
    array: then ``name/kernel`` holds them and is not trained. For images of one
    channel they may be a single filter, [KH,KW].
    """
    own = not isinstance(kernel, Tensor)
    with layer_scope("convolve", name, absorb=not own) as t:
        x, form = channels_last("convolve", inputs, data_format)
        parts = args.whole("convolve", "groups", groups)
        w = kernel_of(t, "convolve", kernel, x)
        rule = geometry("convolve", strides, padding, dilation_rate, form)
        return as_given(t.emit("conv2d", x, w, groups=parts, **rule), form)


def counts(layer: str, x: Tensor, filters: object, groups: object) -> tuple[int, int]:
    """How many filters and groups a layer on images x has; the groups divide both."""
    if isinstance(filters, Tensor):
        remedy = "; convolve(x, kernel) takes a kernel of your own"
        raise TypeRuleError(
            f"{layer}: filters is the number of filters, got a tensor"
            f"{remedy if layer == 'conv2d' else ''}"
        )
    count = args.whole(layer, "filters", filters)
    parts = args.whole(layer, "groups", groups)
    channels = x.type.inner[-1]
    if channels % parts or count % parts:
        raise TypeRuleError(
            f"{layer}: groups must divide the channels and the filters, "
            f"{channels} and {count} are not both multiples of {parts}"
        )
    return count, parts


def geometry(
    layer: str, strides: Numbers, padding: Padding, dilation_rate: Numbers, form: str
) -> dict[str, Any]:
    """The attributes of a convolution of images, as a layer is told them."""
    return {
        "strides": args.sizes(layer, "strides", strides, form=form),
        "padding": args.padding(layer, padding, form=form),
        "dilations": args.sizes(layer, "dilation_rate", dilation_rate, form=form),
    }


def biased(t: Trace, y: Tensor, use_bias: bool, initializer: Any) -> Tensor:
    """``y`` plus the layer's ``biases``, one for each channel, if it has them."""
    if not use_bias:
        return y
    return t.emit("bias_add", y, t.variable("biases", y.type.inner[-1:], initializer))
