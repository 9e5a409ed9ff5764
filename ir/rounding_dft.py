"""How convolutions round where a kernel's schedule computes them by Fourier transforms.

Every result then depends on all pixels of an image, and on all its filters' taps, most
of which cancel but for rounding: the mass of a sum is that of the transforms. The
gradients go through their transposes.
"""

from dataclasses import replace

import numpy as np

from convc.ir.dft import (
    Array,
    Dft,
    Line,
    back_of,
    filters_of,
    forward_of,
    products_of,
    roundings,
)
from convc.ir.ops.conv import conv_axes
from convc.ir.rounding_base import Outcome, Site, Sum
from convc.ir.winograd import OPS


def by_frequencies(site: Site, outcome: Outcome) -> Outcome:
    """``outcome`` of one of OPS, but with the mass and the roundings of transforms.

    What errors of the operands do to the result is the same, as the algebra is.
    """
    assert isinstance(outcome, Sum)
    mass, count = _MASSES[site.node.op](site)
    return replace(outcome, mass=mass, roundings=count, grid=0.0)


def _dft(site: Site, x: tuple[int, ...], w: tuple[int, ...]) -> Dft:
    """The transforms of a convolution of images [n,h,w,c] with filters [kh,kw,c,k]."""
    axes = conv_axes(site.node.op, x[1:3], w[:2], site.attrs)
    rows, cols = (
        Line(a.size, a.kernel, a.out, a.stride, a.dilation, a.before) for a in axes
    )
    return Dft(rows, cols)


def _magnitudes(dft: Dft) -> tuple[Array, Array, Array]:
    forward, back = forward_of(dft).magnitudes(), back_of(dft).magnitudes()
    return forward, np.abs(filters_of(dft)), back.T


def _sizes(dft: Dft) -> tuple[tuple[int, int], ...]:
    """Rows and columns of pixels, outputs, and frequencies."""
    rows, cols = dft.rows, dft.cols
    return (
        (rows.size, cols.size),
        (rows.outputs, cols.outputs),
        (rows.points, cols.points),
    )


def _image(array: Array) -> Array:
    """[n,h,w,c] as [pixels, c, n]."""
    n, h, w, c = array.shape
    return array.reshape(n, h * w, c).transpose(1, 2, 0)


def _through(matrix: Array, array: Array) -> Array:
    """A transform of the first axis."""
    return np.tensordot(matrix, array, axes=1)


def _forward(site: Site) -> tuple[Array, int]:
    x, w = (a.size for a in site.args)
    dft = _dft(site, x.shape, w.shape)
    forward, filters, back = _magnitudes(dft)
    taps = w.reshape(-1, *w.shape[2:])
    made = products_of(dft, _through(filters, taps), _through(forward, _image(x)))
    mass = _through(back, made).transpose(2, 0, 1).reshape(site.value.shape)
    pixels, _, frequencies = _sizes(dft)
    return mass, roundings(pixels, frequencies) + len(taps) + 1 + 2 * x.shape[-1]


def _input_gradient(site: Site) -> tuple[Array, int]:
    """Through the transposed blocks, whose magnitudes are those of the blocks."""
    dz, w = (a.size for a in site.args)
    dft = _dft(site, site.value.shape, w.shape)
    forward, filters, back = _magnitudes(dft)
    taps = w.reshape(-1, *w.shape[2:]).transpose(0, 2, 1)
    made = products_of(dft, _through(filters, taps), _through(back.T, _image(dz)))
    mass = _through(forward.T, made).transpose(2, 0, 1).reshape(site.value.shape)
    _, outputs, frequencies = _sizes(dft)
    return mass, roundings(outputs, frequencies) + taps.shape[0] + 1 + 2 * dz.shape[-1]


def _filter_gradient(site: Site) -> tuple[Array, int]:
    x, dz = (a.size for a in site.args)
    dft = _dft(site, x.shape, site.value.shape)
    forward, filters, back = _magnitudes(dft)
    images, gradient = _through(forward, _image(x)), _through(back.T, _image(dz))
    alone = np.einsum("fcn,fkn->fck", images[: dft.alone], gradient[: dft.alone])
    pairs = [a[dft.alone :].reshape(-1, 2, *a.shape[1:]) for a in (images, gradient)]
    blocks = np.einsum("ficn,fokn->foick", *pairs, optimize=True)
    sums = np.concatenate([alone, blocks.reshape(-1, *alone.shape[1:])])
    mass = _through(filters.T, sums).reshape(site.value.shape)
    pixels, outputs, _ = _sizes(dft)
    return mass, roundings(pixels, outputs) + len(x) + dft.products + 1


_MASSES = dict(zip(OPS, (_forward, _input_gradient, _filter_gradient), strict=True))
