"""Transposed convolution: images grow by the stride, where a convolution shrinks."""

from typing import Any

from convc.ir.errors import TypeRuleError
from convc.layers import arguments as args
from convc.layers.activation import Activation, activate
from convc.layers.conv import Numbers, Padding, biased, counts, geometry
from convc.layers.images import as_given, channels_last
from convc.tracing import Tensor, layer_scope

LAYER = "conv2d_transpose"


def conv2d_transpose(
    inputs: Tensor,
    filters: int,
    kernel_size: Numbers,
    strides: Numbers = 1,
    padding: Padding = "valid",
    dilation_rate: Numbers = 1,
    activation: Activation = None,
    use_bias: bool = True,
    kernel_initializer: Any = "glorot_uniform",
    bias_initializer: Any = "zeros",
    name: str | None = None,
    reuse: bool = False,
    data_format: str = "NHWC",
) -> Tensor:
    """The adjoint of a convolution: x: f32[N,P,Q,C] -> f32[N,H,W,filters].

    It is what takes gradients back through a conv2d of [N,H,W,filters] to [N,P,Q,C],
    and has the kernel of that, ``name/kernel`` [KH,KW,filters,C], besides
    ``name/biases`` [filters]. With SAME H = P · stride; with VALID H = (P - 1) · stride
    + KH, or P · stride if that is more; explicit padding takes its rows off
    (P - 1) · stride + KH. ModelError for arguments that do not fit.
    """
    with layer_scope(LAYER, name, reuse) as t:
        x, form = channels_last(LAYER, inputs, data_format)
        count, _ = counts(LAYER, x, filters, 1)
        window = args.sizes(LAYER, "kernel_size", kernel_size, form=form)
        rule = geometry(LAYER, strides, padding, dilation_rate, form)
        _, height, width, channels = x.type.bind(1)
        shape = (*window, count, channels)
        kernel = t.variable("kernel", shape, kernel_initializer)
        pads = rule["padding"]
        size = tuple(
            _grown(n, window[i], rule["strides"][i], rule["dilations"][i], pads, i)
            for i, n in enumerate((height, width))
        )
        y = t.emit("conv2d_input_grad", x, kernel, size=size, **rule)
        y = biased(t, y, use_bias, bias_initializer)
        return as_given(activate(LAYER, y, activation), form)


def _grown(
    size: int, kernel: int, stride: int, dilation: int, padding: Any, axis: int
) -> int:
    """The size of an axis whose convolution gives ``size``."""
    reach = dilation * (kernel - 1) + 1
    if padding == "same":
        return size * stride
    if padding == "valid":
        return (size - 1) * stride + max(reach, stride)
    before, after = padding[axis]
    grown = (size - 1) * stride + reach - before - after
    if grown < 1:
        raise TypeRuleError(
            f"{LAYER}: padding [{before}, {after}] takes all of the "
            f"{grown + before + after} elements off an axis; use less padding"
        )
    return int(grown)
