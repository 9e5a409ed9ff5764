"""Convolution by discrete Fourier transforms as matrix products, and how that rounds.

A convolution is a product of frequencies (the convolution theorem; for networks
Mathieu, Henaff and LeCun, "Fast training of convolutional networks through FFTs",
2014). Images are small enough here for the transform of a dimension to be one real
matrix, so that everything is matrix products:

    y = I [(E w) · (D x)]

D transforms columns and then rows, I rows and then columns, each in two products; E is
one matrix, for filters have few taps. A frequency and its conjugate hold the same
numbers, so that one of them is kept: as a row for its real and one for its imaginary
part, or as one row where both are the same frequency. The product of two complex
numbers is then one of a 2x2 block with a pair, and E has a row for each element of a
block.

Transforms are circular: the size in a dimension is the least at which what wraps around
meets zeros only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

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

    @property
    def alone(self) -> list[int]:
        """The frequencies that are their own conjugates."""
        return [0, self.points // 2][: 2 - self.points % 2]

    @property
    def pairs(self) -> list[int]:
        """One of each two other frequencies."""
        return list(range(1, (self.points + 1) // 2))


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
        return len(self.rows.alone) * len(self.cols.alone)

    @property
    def pairs(self) -> int:
        """Frequencies that stand for themselves and their conjugates."""
        return (self.count - self.alone) // 2

    @property
    def products(self) -> int:
        """Rows of a transformed filter: one for a lone frequency, four for a pair."""
        return self.alone + 4 * self.pairs


@dataclass(frozen=True)
class Factors:
    """A transform of images [h, w]: of each column, then of what each row has become.

    ``down`` [points, h] has a row for each lone frequency of columns, then two for each
    pair. Rows of real numbers go through ``across`` [points, w], which is such; pairs
    of rows through ``both`` [2·points, 2·w], which has two for every frequency.
    """

    down: Array
    across: Array
    both: Array
    dft: Dft

    def composed(self) -> Array:
        """The transform as one matrix [count, h·w]."""
        lone, w = len(self.dft.rows.alone), self.across.shape[1]
        real = np.einsum("ia,jb->ijab", self.down[:lone], self.across)
        alone = len(self.dft.cols.alone)
        parts = self.down[lone:].reshape(-1, 2, self.down.shape[1])
        both = self.both.reshape(-1, 2, w)
        pairs = np.einsum("kpa,gpb->kgab", parts, both)
        pixels = self.down.shape[1] * w
        found = (real[:, :alone], real[:, alone:], pairs)
        return np.concatenate([part.reshape(-1, pixels) for part in found])

    def magnitudes(self) -> Array:
        """The same of absolute values: what products in two steps round."""
        down, across, both = map(np.abs, (self.down, self.across, self.both))
        return Factors(down, across, both, self.dft).composed()


def forward_of(dft: Dft) -> Factors:
    """D, for the pixels of an image."""
    rows, cols = (np.arange(float(line.size)) for line in (dft.rows, dft.cols))
    down, across = _real(dft.rows, rows), _real(dft.cols, cols)
    return Factors(down, across, _complex(dft.cols, cols), dft)


def back_of(dft: Dft) -> Factors:
    """I transposed, for the outputs: each pair stands for two frequencies."""
    (down, _), (across, both) = (
        (_real(line, at, pair=2.0) / line.points, _complex(line, at) / line.points)
        for line, at in (
            (line, line.stride * np.arange(float(line.outputs)) - line.before)
            for line in (dft.rows, dft.cols)
        )
    )
    return Factors(down, across, both, dft)


def filters_of(dft: Dft) -> Array:
    """E [products, taps]; the rows for a pair are [part of result, part of image]."""
    rows, cols = dft.rows, dft.cols
    alone = [*product(rows.alone, cols.alone)]
    pairs = [*product(rows.alone, cols.pairs)]
    pairs += product(rows.pairs, range(cols.points))
    lone, angles = (_angles_of_taps(dft, f) for f in (alone, pairs))
    blocks = _in_turn(np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles))
    return np.concatenate([np.cos(lone), blocks])


def _angles_of_taps(dft: Dft, frequencies: Sequence[tuple[int, int]]) -> Array:
    """Those of each frequency at each tap: [frequencies, taps]."""
    of = np.array(frequencies, np.int64).reshape(-1, 2)
    down, across = (
        _angles(line, of[:, axis], line.dilation * np.arange(float(line.taps)))
        for axis, line in enumerate((dft.rows, dft.cols))
    )
    return (down[:, :, None] + across[:, None]).reshape(len(of), -1)


def _angles(line: Line, frequencies: ArrayLike, places: Array) -> Array:
    """Those of each frequency at each place."""
    turns = np.multiply.outer(np.asarray(frequencies, np.float64), places)
    return np.asarray(2 * np.pi / line.points * turns)


def _real(line: Line, places: Array, pair: float = 1.0) -> Array:
    """A transform of real numbers, in which a pair counts ``pair`` times."""
    lone, pairs = (_angles(line, f, places) for f in (line.alone, line.pairs))
    parts = _in_turn(pair * np.cos(pairs), -pair * np.sin(pairs))
    return np.concatenate([np.cos(lone), parts])


def _complex(line: Line, places: Array) -> Array:
    """A transform of complex numbers, first their real parts, then the imaginary."""
    angles = _angles(line, range(line.points), places)
    cos, sin = np.cos(angles), np.sin(angles)
    return _in_turn(np.hstack([cos, sin]), np.hstack([-sin, cos]))


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


def roundings(*transforms: tuple[int, int]) -> int:
    """How many a product may pass through: transforms over so many rows and columns.

    Rows have terms of both parts; each number of a matrix is rounded itself.
    """
    return sum(rows + 2 * cols + 2 for rows, cols in transforms)


@cache
def error_bound(dft: Dft, channels: int) -> float:
    """How far a result may be off in float32, for |x|, |w| <= 1.

    As for Winograd's transforms (``winograd.error_bound``): Higham's bound for sums of
    products, through the magnitudes of all transforms.
    """
    forward, back = forward_of(dft).magnitudes(), back_of(dft).magnitudes()
    w = np.sum(np.abs(filters_of(dft)), axis=1)[:, None, None]
    x = np.sum(forward, axis=1)[:, None, None]
    mass = channels * back.T @ products_of(dft, w, x)[:, 0, 0]
    rows, cols = dft.rows, dft.cols
    count = roundings((rows.size, cols.size), (rows.points, cols.points))
    count += rows.taps * cols.taps + 1 + 2 * channels
    return float(mass.max()) * count * UNIT / (1 - count * UNIT)


def admissible(dft: Dft, channels: int) -> bool:
    """Whether the bound is at most LOOSER times that of the direct sum."""
    direct = direct_bound(dft.rows.taps * dft.cols.taps * channels)
    return error_bound(dft, channels) <= LOOSER * direct
