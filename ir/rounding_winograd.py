"""How convolutions round where a kernel's schedule computes them by Winograd's tiles.

A result then depends on all pixels of its tile, also on those that its sum does not
have and that cancel but for rounding: the mass of the sum is that of the transforms.
The gradients go through their transposes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from convc.ir.ops.base import Array
from convc.ir.ops.conv import conv_axes
from convc.ir.rounding_base import Outcome, Site, Sum, grid_of
from convc.ir.winograd import OPS, Matrix, most_roundings, stages, transform


def by_tiles(site: Site, outcome: Outcome, m: int) -> Outcome:
    """``outcome`` of one of OPS, but with the mass and the roundings of tiles of m x m.

    What errors of the operands do to the result is the same, as the algebra is.
    """
    assert isinstance(outcome, Sum)
    op = site.node.op
    mass, terms, r = _MASSES[op](site, m)
    s = stages(m, r, op)
    grids = [grid_of(magnitudes(matrix)) ** 2 for matrix in (*s.first, s.last)]
    return replace(
        outcome,
        mass=mass,
        roundings=terms + most_roundings(m, r, op),
        grid=outcome.grid * float(np.prod(grids)),
    )


def magnitudes(matrix: Matrix) -> Array:
    """The absolute values of a transform."""
    return np.array([[abs(float(x)) for x in row] for row in matrix])


@dataclass(frozen=True)
class _Tiles:
    """Where the tiles of a convolution lie; all but ``a`` and ``m`` by dimension.

    An image is seen with as much padding as its tiles reach, outputs with those that
    fill the last tiles.
    """

    a: int
    m: int
    before: tuple[int, int]
    image: tuple[int, int]
    outputs: tuple[int, int]

    @classmethod
    def of(cls, site: Site, m: int, x: tuple[int, ...], r: int) -> "_Tiles":
        rows, cols = conv_axes(site.node.op, x[1:3], (r, r), site.attrs)
        before, out = (rows.before, cols.before), (rows.out, cols.out)
        return cls(m + r - 1, m, before, (x[1], x[2]), out)

    @property
    def places(self) -> list[tuple[int, int]]:
        """The row and column of the first output of each."""
        rows, cols = (range(0, size, self.m) for size in self.outputs)
        return list(product(rows, cols))

    def padded(self, n: int, channels: int) -> tuple[Array, Array]:
        """Zeros for a padded image, and the part of them that is the image."""
        sizes = (-(-size // self.m) * self.m + self.a - self.m for size in self.outputs)
        full = np.zeros((n, *sizes, channels))
        rows, cols = (
            slice(b, b + size) for b, size in zip(self.before, self.image, strict=True)
        )
        return full, full[:, rows, cols]

    def filled(self, n: int, channels: int) -> tuple[Array, Array]:
        """The same for outputs."""
        sizes = (-(-size // self.m) * self.m for size in self.outputs)
        full = np.zeros((n, *sizes, channels))
        return full, full[:, : self.outputs[0], : self.outputs[1]]

    def each(self, image: Array, outputs: Array) -> Iterator[tuple[Array, Array]]:
        """The pixels and the outputs of every tile."""
        for i, j in self.places:
            pixels = image[:, i : i + self.a, j : j + self.a]
            yield pixels, outputs[:, i : i + self.m, j : j + self.m]


def _both(matrix: Array, array: Array) -> Array:
    """A transform of rows and columns, which follow the first axis."""
    result = np.einsum("fu,gv,nuv...->nfg...", matrix, matrix, array, optimize=True)
    return np.asarray(result)


def _given(part: Array, values: Array) -> None:
    """Put an image into its padding, but for what no tile reaches."""
    part[...] = values[:, : part.shape[1], : part.shape[2]]


def _forward(site: Site, m: int) -> tuple[Array, int, int]:
    """|A| [sum over c of (|G| |w| |G'|) (|B| |x| |B'|)] |A'| for every tile."""
    x, w = (a.size for a in site.args)
    r, (n, channels), k = len(w), (len(x), x.shape[-1]), w.shape[-1]
    t, tiles = transform(m, r), _Tiles.of(site, m, x.shape, r)
    (image, inside), (made, results) = tiles.padded(n, channels), tiles.filled(n, k)
    _given(inside, x)
    u = _both(magnitudes(t.filter), w[None])[0]
    for pixels, outputs in tiles.each(image, made):
        v = _both(magnitudes(t.input), pixels)
        p = np.einsum("nfgc,fgck->nfgk", v, u, optimize=True)
        outputs[...] = _both(magnitudes(t.output), p)
    return results, channels, r


def _input_gradient(site: Site, m: int) -> tuple[Array, int, int]:
    """|B'| [sum over k of (|G| |w| |G'|) (|A'| |dz| |A|)] |B|, all tiles added up."""
    dz, w = (a.size for a in site.args)
    r, (n, k), channels = len(w), (len(dz), dz.shape[-1]), w.shape[-2]
    t, tiles = transform(m, r), _Tiles.of(site, m, site.value.shape, r)
    (image, inside), (given, part) = tiles.padded(n, channels), tiles.filled(n, k)
    part[...] = dz
    u = _both(magnitudes(t.filter), w[None])[0]
    for pixels, outputs in tiles.each(image, given):
        p = _both(magnitudes(t.output).T, outputs)
        v = np.einsum("nfgk,fgck->nfgc", p, u, optimize=True)
        pixels += _both(magnitudes(t.input).T, v)
    mass = np.zeros(site.value.shape)
    mass[:, : inside.shape[1], : inside.shape[2]] = inside
    return mass, k, r


def _filter_gradient(site: Site, m: int) -> tuple[Array, int, int]:
    """|G'| [sum over the tiles of (|B| |x| |B'|) (|A'| |dz| |A|)] |G|."""
    x, dz = (a.size for a in site.args)
    r, (n, channels), k = len(site.value), (len(x), x.shape[-1]), dz.shape[-1]
    t, tiles = transform(m, r), _Tiles.of(site, m, x.shape, r)
    (image, inside), (given, part) = tiles.padded(n, channels), tiles.filled(n, k)
    _given(inside, x)
    part[...] = dz
    sums = np.zeros((t.a, t.a, channels, k))
    for pixels, outputs in tiles.each(image, given):
        v = _both(magnitudes(t.input), pixels)
        p = _both(magnitudes(t.output).T, outputs)
        sums += np.einsum("nfgc,nfgk->fgck", v, p, optimize=True)
    mass = _both(magnitudes(t.filter).T, sums[None])[0]
    return mass, n * len(tiles.places), r


_MASSES = dict(zip(OPS, (_forward, _input_gradient, _filter_gradient), strict=True))
