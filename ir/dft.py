"""Convolution by dense discrete Fourier transforms, and how that rounds.

A convolution is a product of frequencies (the convolution theorem; for networks
Mathieu, Henaff and LeCun, "Fast training of convolutional networks through FFTs",
2014). Images are small enough here for a transform in both dimensions to be one real
matrix, so that everything is matrix products:

    y = I [(E w) · (D x)]

A frequency and its conjugate hold the same numbers, so that one of them is kept: as a
row for its real and one for its imaginary part, or as one row where both are the same
frequency. The product of two complex numbers is then one of a 2x2 block with a pair,
and E has a row for each element of a block.

Transforms are circular: the size in a dimension is the least at which what wraps around
meets zeros only.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from convc.ir.winograd import LOOSER, UNIT, direct_bound

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One dimension: ``size`` pixels, ``taps`` of a filter, ``outputs`` to be made.

    Output o has tap t at the pixel stride·o + dilation·t - before.
    """

    size: int
    taps: int
    outputs: int
    stride: int = 1
    dilation: int = 1
    before: int = 0

    @property
    def points(self) -> int:
        """The size of the circular transform."""
        last = self.stride * (self.outputs - 1) + self.dilation * (self.taps - 1)
        reached = last - self.before + 1
        return max(self.size + self.before, reached)


@dataclass(frozen=True)
class Dft:
    """The transforms of a convolution with rows and columns such.

    Of the ``count`` frequencies the first ``alone`` are real, the others are ``pairs``
    of a real and an imaginary part.
    """

    rows: Line
    cols: Line

    @property
    def count(self) -> int:
        """Rows of a transformed image."""
        return self.rows.points * self.cols.points

    @property
    def alone(self) -> int:
        """Frequencies that are their own conjugates."""
        even = [2 - line.points % 2 for line in (self.rows, self.cols)]
        return even[0] * even[1]

    @property
    def pairs(self) -> int:
        """Frequencies that stand for themselves and their conjugates."""
        return (self.count - self.alone) // 2

    @property
    def products(self) -> int:
        """Rows of a transformed filter: one for a lone frequency, four for a pair."""
        return self.alone + 4 * self.pairs


def matrices(dft: Dft) -> tuple[Array, Array, Array]:
    """D [count, pixels], E [products, taps] and I [outputs, count], if there are pairs.

    The rows of E for a pair are [part of the result, part of the image].
    """
    alone, pairs = _frequencies(dft)

    def angles(frequencies: Array, *places: Array) -> Array:
        """Those of each frequency at each place of rows and columns."""
        sizes = dft.rows.points, dft.cols.points
        down, across = (
            2 * np.pi / size * np.multiply.outer(frequencies[:, axis], place)
            for axis, (size, place) in enumerate(zip(sizes, places, strict=True))
        )
        return (down[:, :, None] + across[:, None]).reshape(len(frequencies), -1)

    lines = dft.rows, dft.cols
    pixels = [np.arange(float(line.size)) for line in lines]
    taps = [line.dilation * np.arange(float(line.taps)) for line in lines]
    outputs = [
        line.stride * np.arange(float(line.outputs)) - line.before for line in lines
    ]
    x, w, y = (angles(pairs, *places) for places in (pixels, taps, outputs))
    forward = [np.cos(angles(alone, *pixels)), _in_turn(np.cos(x), -np.sin(x))]
    blocks = _in_turn(np.cos(w), -np.sin(w), np.sin(w), np.cos(w))
    filters = [np.cos(angles(alone, *taps)), blocks]
    back = [np.cos(angles(alone, *outputs)), _in_turn(2 * np.cos(y), -2 * np.sin(y))]
    return (
        np.concatenate(forward),
        np.concatenate(filters),
        np.concatenate(back).T / dft.count,
    )


def _frequencies(dft: Dft) -> tuple[Array, Array]:
    """Those that are their own conjugates, and one of each two others."""
    sizes = dft.rows.points, dft.cols.points
    alone: list[tuple[int, ...]] = []
    pairs: list[tuple[int, ...]] = []
    for one in product(*map(range, sizes)):
        other = tuple(-k % size for k, size in zip(one, sizes, strict=True))
        if one <= other:
            (alone if one == other else pairs).append(one)
    some, others = (np.array(f, np.float64).reshape(-1, 2) for f in (alone, pairs))
    return some, others


def _in_turn(*parts: Array) -> Array:
    """Rows of each part in turn: the first of all, then the second of all."""
    return np.stack(parts, axis=1).reshape(-1, parts[0].shape[1])


def products_of(dft: Dft, w: Array, x: Array) -> Array:
    """The frequencies of a convolution: w [products, c, k] and x [count, c, n].

    The result is [count, k, n].
    """
    alone = np.einsum("fck,fcn->fkn", w[: dft.alone], x[: dft.alone])
    blocks = w[dft.alone :].reshape(-1, 2, 2, *w.shape[1:])
    pairs = x[dft.alone :].reshape(-1, 2, *x.shape[1:])
    found = np.einsum("foick,ficn->fokn", blocks, pairs, optimize=True)
    return np.concatenate([alone, found.reshape(-1, *found.shape[2:])])


def roundings(dft: Dft, channels: int) -> int:
    """How many a product may pass through: in three transforms, over the channels.

    Each number of a transform is rounded itself.
    """
    taps = dft.rows.taps * dft.cols.taps
    pixels = dft.rows.size * dft.cols.size
    return pixels + taps + 2 * channels + dft.count + 3


@cache
def error_bound(dft: Dft, channels: int) -> float:
    """How far a result may be off in float32, for |x|, |w| <= 1.

    As for Winograd's transforms (``winograd.error_bound``): Higham's bound for sums of
    products, through the magnitudes of all transforms.
    """
    forward, filters, back = (np.abs(m) for m in matrices(dft))
    w = np.sum(filters, axis=1)[:, None, None]
    x = np.sum(forward, axis=1)[:, None, None]
    mass = channels * back @ products_of(dft, w, x)[:, 0, 0]
    count = roundings(dft, channels)
    return float(mass.max()) * count * UNIT / (1 - count * UNIT)


def admissible(dft: Dft, channels: int) -> bool:
    """Whether the bound is at most LOOSER times that of the direct sum."""
    direct = direct_bound(dft.rows.taps * dft.cols.taps * channels)
    return error_bound(dft, channels) <= LOOSER * direct
