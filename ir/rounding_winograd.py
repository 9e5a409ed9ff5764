"""How a convolution rounds where a kernel's schedule computes it by Winograd's tiles.

An output then depends on all pixels of its tile, also on those that its sum does not
have and that cancel but for rounding: the mass of the sum is that of the transforms.
"""

from dataclasses import replace
from itertools import product

import numpy as np

from convc.ir.ops.base import Array
from convc.ir.ops.conv import conv_axes
from convc.ir.rounding_base import Outcome, Site, Sum, grid_of
from convc.ir.winograd import Matrix, most_roundings, transform


def by_tiles(site: Site, outcome: Outcome, m: int) -> Outcome:
    """``outcome`` of a conv2d, but with the mass and the roundings of tiles of m x m.

    What errors of the operands do to the result is the same, as the algebra is.
    """
    assert isinstance(outcome, Sum)
    w = site.args[1].size
    t, channels = transform(m, w.shape[0]), w.shape[2]
    grids = [
        grid_of(magnitudes(matrix)) ** 2 for matrix in (t.output, t.filter, t.input)
    ]
    return replace(
        outcome,
        mass=_mass(site, m),
        roundings=channels + most_roundings(m, t.r),
        grid=outcome.grid * float(np.prod(grids)),
    )


def magnitudes(matrix: Matrix) -> Array:
    """The absolute values of a transform."""
    return np.array([[abs(float(x)) for x in row] for row in matrix])


def _mass(site: Site, m: int) -> Array:
    """|A| [sum over c of (|G| |w| |G'|) (|B| |x| |B'|)] |A'| for every tile."""
    x, w = (a.size for a in site.args)
    t = transform(m, w.shape[0])
    a, g, b = (magnitudes(matrix) for matrix in (t.output, t.filter, t.input))
    axes = conv_axes("conv2d", x.shape[1:3], w.shape[:2], site.attrs)
    rows, cols = (-(-axis.out // m) for axis in axes)
    full = np.zeros((len(x), rows * m + t.r - 1, cols * m + t.r - 1, x.shape[-1]))
    (top, left), (h, width) = (axis.before for axis in axes), x.shape[1:3]
    inside = full[:, top : top + h, left : left + width]
    inside[...] = x[:, : inside.shape[1], : inside.shape[2]]
    u = np.einsum("fi,gj,ijck->fgck", g, g, w, optimize=True)
    mass = np.zeros((len(x), rows * m, cols * m, w.shape[-1]))
    for i, j in product(range(rows), range(cols)):
        tile = full[:, i * m : i * m + t.a, j * m : j * m + t.a]
        v = np.einsum("fu,gv,nuvc->nfgc", b, b, tile, optimize=True)
        p = np.einsum("nfgc,fgck->nfgk", v, u, optimize=True)
        done = np.einsum("uf,vg,nfgk->nuvk", a, a, p, optimize=True)
        mass[:, i * m : i * m + m, j * m : j * m + m] = done
    return np.asarray(mass[:, : axes[0].out, : axes[1].out])
