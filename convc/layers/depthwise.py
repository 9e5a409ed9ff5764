"""Convolution of each channel by itself, and with a mix of the channels after it."""

from typing import Any

from convc.ir.errors import TypeRuleError
from convc.layers import arguments as args
from convc.layers.activation import Activation, activate
from convc.layers.conv import Numbers, Padding, biased, counts, geometry
from convc.layers.images import as_given, channels_last
from convc.layers.kernels import Kernel, depthwise_kernel_of
from convc.tracing import Tensor, Trace, layer_scope


def depthwise_conv2d(
    inputs: Tensor,
    kernel_size: Numbers,
    strides: Numbers = 1,
    padding: Padding = "valid",
    depth_multiplier: int = 1,
    dilation_rate: Numbers = 1,
    activation: Activation = None,
    use_bias: bool = True,
    kernel_initializer: Any = "glorot_uniform",
    bias_initializer: Any = "zeros",
    name: str | None = None,
    reuse: bool = False,
    data_format: str = "NHWC",
) -> Tensor:
    """``depth_multiplier`` filters on each channel: f32[N,H,W,C] -> f32[N,P,Q,C·M].

    Makes ``name/kernel`` [KH,KW,C,M] and ``name/biases`` [C·M]. Filter m of channel c
    gives channel c·M + m. ModelError for arguments that do not fit.
    """
    layer = "depthwise_conv2d"
    with layer_scope(layer, name, reuse) as t:
        x, form = channels_last(layer, inputs, data_format)
        window = args.sizes(layer, "kernel_size", kernel_size, form=form)
        many = args.whole(layer, "depth_multiplier", depth_multiplier)
        shape = (*window, x.type.inner[-1], many)
        kernel = t.variable("kernel", shape, kernel_initializer)
        rule = geometry(layer, strides, padding, dilation_rate, form)
        y = biased(t, _by_channel(t, x, kernel, rule), use_bias, bias_initializer)
        return as_given(activate(layer, y, activation), form)


def depthwise_convolve(
    inputs: Tensor,
    kernel: Kernel,
    strides: Numbers = 1,
    padding: Padding = "valid",
    dilation_rate: Numbers = 1,
    name: str | None = None,
    data_format: str = "NHWC",
) -> Tensor:
    """Each channel convolved with a kernel of one's own, [KH,KW] or [KH,KW,C,M].

    The kernel is a tensor [KH,KW,C,M], or numbers as nested lists or an array: then
    ``name/kernel`` holds them and is not trained. Numbers [KH,KW] are one filter for
    all channels: with [[1/9] * 3] * 3 an image of any number of them is blurred.
    """
    layer, own = "depthwise_convolve", not isinstance(kernel, Tensor)
    with layer_scope(layer, name, absorb=not own) as t:
        x, form = channels_last(layer, inputs, data_format)
        w = depthwise_kernel_of(t, layer, kernel, x)
        channels = x.type.inner[-1]
        if w.rank != 4 or w.shape[2] != channels:
            raise TypeRuleError(
                f"{layer}: kernel must be [height, width, {channels}, filters], as "
                f"inputs have {channels} channels (inputs: {x.type}, kernel: {w.type})"
            )
        rule = geometry(layer, strides, padding, dilation_rate, form)
        return as_given(_by_channel(t, x, w, rule), form)


def separable_conv2d(
    inputs: Tensor,
    filters: int,
    kernel_size: Numbers,
    strides: Numbers = 1,
    padding: Padding = "valid",
    depth_multiplier: int = 1,
    dilation_rate: Numbers = 1,
    activation: Activation = None,
    use_bias: bool = True,
    depthwise_initializer: Any = "glorot_uniform",
    pointwise_initializer: Any = "glorot_uniform",
    bias_initializer: Any = "zeros",
    name: str | None = None,
    reuse: bool = False,
    data_format: str = "NHWC",
) -> Tensor:
    """M filters on each channel, then a mix of all: -> f32[N,P,Q,filters].

    Makes ``name/depthwise_kernel`` [KH,KW,C,M], ``name/pointwise_kernel``
    [1,1,C·M,filters] and ``name/biases`` [filters]; M is ``depth_multiplier``. Only the
    first step has strides, padding and dilation (Chollet, 2017).
    """
    layer = "separable_conv2d"
    with layer_scope(layer, name, reuse) as t:
        x, form = channels_last(layer, inputs, data_format)
        count, _ = counts(layer, x, filters, 1)
        window = args.sizes(layer, "kernel_size", kernel_size, form=form)
        many = args.whole(layer, "depth_multiplier", depth_multiplier)
        channels = x.type.inner[-1]
        shape = (*window, channels, many)
        deep = t.variable("depthwise_kernel", shape, depthwise_initializer)
        shape = (1, 1, channels * many, count)
        wide = t.variable("pointwise_kernel", shape, pointwise_initializer)
        rule = geometry(layer, strides, padding, dilation_rate, form)
        y = t.emit("conv2d", _by_channel(t, x, deep, rule), wide)
        y = biased(t, y, use_bias, bias_initializer)
        return as_given(activate(layer, y, activation), form)


def _by_channel(t: Trace, x: Tensor, kernel: Tensor, rule: dict[str, Any]) -> Tensor:
    """A convolution in as many groups as channels; filters of a channel stay together.

    [KH,KW,C,M] and [KH,KW,1,C·M] hold the same numbers in the same order.
    """
    height, width, channels, many = kernel.type.inner
    shape = (height, width, 1, channels * many)
    w = t.emit("reshape", kernel, shape=shape)
    return t.emit("conv2d", x, w, groups=channels, **rule)
