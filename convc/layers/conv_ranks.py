"""Convolution of sequences and of volumes, as one convolution of images.

**Sequences** [N, L, C] are images of height 1.

**Volumes** [N, D, H, W, C]: with s for strides and d for dilations,

    y[n,o,p,q,k] = sum over a, i, j, c of
                   x[n, o·s₀+a·d₀, p·s₁+i·d₁, q·s₂+j·d₂, c] · w[a,i,j,c,k]

The sum over the depth a of the kernel becomes a sum over channels: for each a, the
planes x[n, o·s₀+a·d₀] of all o are the channels a·C … a·C+C-1 of an image,

    z[n,o,h,w,a·C+c] = x[n, o·s₀+a·d₀, h, w, c],   v[i,j,a·C+c,k] = w[a,i,j,c,k]

so that y[n,o] is the convolution of the image z[n,o] with v. To make it one convolution
the planes of z lie one below the other, in an image of O·G rows: a plane's H rows, then
zeros up to G rows, at least as many as there is padding above or below, so that no
window holds rows of two planes. G is a multiple of s₁: then output rows are those of
the planes, one plane after the other, G/s₁ a plane, the first P of which are wanted.
"""

from math import prod
from typing import Any

from convc.ir.ops.window import Axis, resolve
from convc.layers import arguments as args
from convc.layers.activation import ACTIVATIONS, Activation, activate
from convc.layers.conv import Numbers, Padding, biased, counts
from convc.tracing import Tensor, Trace, layer_scope


def conv1d(
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
    """A layer of ``filters`` convolutions: x: f32[N,L,C] -> f32[N,P,filters].

    Makes ``name/kernel`` [K,C/groups,filters] and ``name/biases`` [filters]; padding
    may be [before, after]. ModelError for arguments that do not fit.
    """
    with layer_scope("conv1d", name, reuse) as t:
        x = args.tensor("conv1d", "inputs", inputs, rank=3)
        count, parts = counts("conv1d", x, filters, groups)
        window = args.sizes("conv1d", "kernel_size", kernel_size, rank=1)
        shape = (*window, x.type.inner[-1] // parts, count)
        steps = args.sizes("conv1d", "strides", strides, rank=1)
        spread = args.sizes("conv1d", "dilation_rate", dilation_rate, rank=1)
        rule = args.padding("conv1d", padding, rank=1)
        # This refuses a window that does not fit, by the layer's own name.
        resolve("conv1d", x.type.bind(1)[1:2], window, steps, spread, rule)
        kernel = t.variable("kernel", shape, kernel_initializer)
        y = t.emit(
            "conv2d",
            as_image(t, x),
            t.emit("reshape", kernel, shape=(1, *shape)),
            strides=(1, *steps),
            padding=((0, 0), *rule) if isinstance(rule, tuple) else rule,
            dilations=(1, *spread),
            groups=parts,
        )
        y = activate("conv1d", biased(t, y, use_bias, bias_initializer), activation)
        return as_sequence(t, y)


def as_image(t: Trace, x: Tensor) -> Tensor:
    """A sequence [N,L,C] as an image of height 1."""
    return t.emit("reshape", x, shape=(x.shape[0], 1, *x.shape[1:]))


def as_sequence(t: Trace, y: Tensor) -> Tensor:
    """An image of height 1 as a sequence [N,L,C]."""
    return t.emit("reshape", y, shape=(y.shape[0], *y.shape[2:]))


def conv3d(
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
) -> Tensor:
    """A layer of ``filters`` convolutions: f32[N,D,H,W,C] -> f32[N,O,P,Q,filters].

    Makes ``name/kernel`` [KD,KH,KW,C,filters] and ``name/biases`` [filters]. The
    algebra is above: one convolution of images, whose input holds x once for each
    plane of the kernel. ModelError for arguments that do not fit.
    """
    with layer_scope("conv3d", name, reuse) as t:
        x = args.tensor("conv3d", "inputs", inputs, rank=5)
        count, _ = counts("conv3d", x, filters, 1)
        window = args.sizes("conv3d", "kernel_size", kernel_size, rank=3)
        axes = resolve(
            "conv3d",
            x.type.bind(1)[1:4],
            window,
            args.sizes("conv3d", "strides", strides, rank=3),
            args.sizes("conv3d", "dilation_rate", dilation_rate, rank=3),
            args.padding("conv3d", padding, rank=3),
        )
        shape = (*window, x.type.inner[-1], count)
        kernel = t.variable("kernel", shape, kernel_initializer)
        y = _stacked(t, x, kernel, axes)
        y = biased(t, y, use_bias, bias_initializer)
        # One that is known acts on elements or channels: it may join the kernel.
        known = activation in (None, *ACTIVATIONS, *ACTIVATIONS.values())
        if known:
            y = activate("conv3d", y, activation)
        y = _unstacked(t, y, axes)
        return y if known else activate("conv3d", y, activation)


def _rows(axis: Axis) -> int:
    """G: the rows of a plane with the zeros below it."""
    below = (axis.out - 1) * axis.stride + axis.reach - axis.before - axis.size
    rows = max(axis.size + max(axis.before, below, 0), axis.out * axis.stride)
    return -(-rows // axis.stride) * axis.stride


def _stacked(t: Trace, x: Tensor, kernel: Tensor, axes: tuple[Axis, ...]) -> Tensor:
    """The convolution of all planes, one below the other: [N, O·G/s₁ or more, Q, K]."""
    deep, high, wide = axes
    _, kh, kw, channels, filters = kernel.type.inner
    turned = t.emit("transpose", kernel, perm=(1, 2, 0, 3, 4))
    flat = (kh, kw, deep.kernel * channels, filters)
    below = max(0, high.reach - high.stride - high.before)
    return t.emit(
        "conv2d",
        _planes(t, x, deep, high),
        t.emit("reshape", turned, shape=flat),
        strides=(high.stride, wide.stride),
        padding=((high.before, below), (wide.before, wide.after)),
        dilations=(high.dilation, wide.dilation),
    )


def _planes(t: Trace, x: Tensor, deep: Axis, high: Axis) -> Tensor:
    """The z of the algebra above: f32[N, O·G, W, KD·C].

    Depth is cut into groups of s₀ planes: plane o·s₀+a·d₀ is number a·d₀ mod s₀ of
    group o + a·d₀ div s₀.
    """
    batch, _, height, width, channels = x.shape
    rows, row = _rows(high), prod(x.type.inner[-2:])
    starts = [divmod(a * deep.dilation, deep.stride) for a in range(deep.kernel)]
    groups = starts[-1][0] + deep.out
    after = max(0, groups * deep.stride - deep.before - deep.size)
    y = t.emit("reshape", x, shape=(batch, deep.size, height, row))
    pads = (0, 0, deep.before, after, 0, rows - high.size, 0, 0)
    if any(pads):
        y = t.emit("pad", y, pads=pads)
    y = _first(t, y, 1, groups * deep.stride)
    plane = rows * row
    y = t.emit("reshape", y, shape=(batch, groups, deep.stride * plane))
    taps = []
    for group, number in starts:
        tap = _part(t, y, 1, group, deep.out)
        tap = _part(t, tap, 2, number * plane, plane)
        shape = (batch, deep.out * rows, width, channels)
        taps.append(t.emit("reshape", tap, shape=shape))
    return t.emit("concat", *taps, axis=3) if len(taps) > 1 else taps[0]


def _unstacked(t: Trace, y: Tensor, axes: tuple[Axis, ...]) -> Tensor:
    """The wanted rows of each plane: f32[N,O,P,Q,K]."""
    deep, high, wide = axes
    batch, filters, rows = y.shape[0], y.type.inner[-1], _rows(high) // high.stride
    y = _first(t, y, 1, deep.out * rows)
    row = wide.out * filters
    y = t.emit("reshape", y, shape=(batch, deep.out, rows, row))
    y = _first(t, y, 2, high.out)
    return t.emit("reshape", y, shape=(batch, *(a.out for a in axes), filters))


def _first(t: Trace, x: Tensor, axis: int, size: int) -> Tensor:
    return _part(t, x, axis, 0, size)


def _part(t: Trace, x: Tensor, axis: int, start: int, size: int) -> Tensor:
    """``size`` elements of an axis; all of them are no op."""
    if x.shape[axis] == size:
        return x
    return t.emit("slice", x, axis=axis, start=start, size=size)
