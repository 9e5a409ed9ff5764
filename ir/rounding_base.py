"""What running error analysis carries: a reference, its error, sums still open.

Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 to 3.3
and 3.5. A value of a float32 program is known as a float64 reference and an array of
absolute errors that no evaluation order can exceed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from convc.ir.graph import Attrs, Node
from convc.ir.ops import OPS
from convc.ir.ops.base import Array, Op
from convc.ir.types import DType

DOUBLE = 2.0**-53
"""Unit roundoff of the float64 reference, which is no exact result either."""

LIBRARY = 9
"""Roundings granted to exp, log, tanh, sigmoid and cos: 4 units in the last place,
which NumPy's vector loops and CUDA's library keep, are 8 roundings, and one spare."""

WIDEN = 1 + 2.0**-30
"""What the float64 arithmetic on the errors themselves may lose, per op."""


@dataclass(frozen=True)
class Arithmetic:
    """A floating-point arithmetic: what one operation may do to a result.

    ``unit`` is the largest relative error of one rounding, ``tiny`` the largest
    absolute error of an underflow (flushing to zero included), ``huge`` the overflow.
    """

    unit: float
    tiny: float = 2.0**-126
    huge: float = 2.0**128

    def gamma(self, count: int) -> float:
        """The relative error of ``count`` roundings, the reference's own included."""
        small = count * (self.unit + DOUBLE)
        return small / (1 - small) if small < 1 else np.inf


@dataclass(frozen=True)
class Sum:
    """A sum whose terms may still be added in another order with later terms.

    Its error is ``inherited`` from the terms' own errors plus ``roundings`` of at most
    ``mass``, the sum of the terms' magnitudes; ``roundings`` is how many a term may
    pass through. All terms are multiples of ``grid`` (0: of nothing in particular).
    """

    inherited: Array
    mass: Array
    roundings: int
    grid: float = 0.0

    def error(self, arithmetic: Arithmetic) -> Array:
        """The error in any order; 0 where every partial sum is representable."""
        local = arithmetic.gamma(self.roundings) * self.mass
        local = local + max(self.roundings, 1) * arithmetic.tiny
        exact = (self.inherited == 0) & (self.mass * arithmetic.unit <= self.grid)
        error = np.where(exact, self.inherited, self.inherited + local)
        return np.where(self.mass < arithmetic.huge, error, np.inf)


@dataclass(frozen=True)
class Rounded:
    """A reference, and how far from it any float32 evaluation may be.

    ``error`` is absolute, float64 and of the shape of ``value``; for integers and
    booleans it is 0 where the value is decided, else the largest possible change.
    """

    value: Array
    error: Array
    sum: Sum | None = None

    @cached_property
    def low(self) -> Array:
        """The least it may be, as float64."""
        return np.where(np.isinf(self.error), -np.inf, self._wide - self.error)

    @cached_property
    def high(self) -> Array:
        """The most it may be, as float64."""
        return np.where(np.isinf(self.error), np.inf, self._wide + self.error)

    @cached_property
    def size(self) -> Array:
        """The largest magnitude it may have."""
        return np.abs(self._wide) + self.error

    @cached_property
    def grid(self) -> float:
        """The largest power of two that divides every element, 0 if there is none."""
        return grid_of(self.value)

    @property
    def _wide(self) -> Array:
        return np.asarray(self.value, np.float64)

    def as_sum(self) -> Sum:
        """Itself as a sum: the one it is, or one of a single finished term."""
        return self.sum or Sum(self.error, self.size, 0, self.grid)


def storage_of(kind: DType, unit: float) -> "np.dtype[np.generic]":
    """The dtype in memory of values of ``kind`` in arithmetic of this unit."""
    wide = kind.is_float and unit <= DOUBLE
    return DType.F64.numpy if wide else kind.numpy


def grid_of(array: Array) -> float:
    """The largest power of two that divides every element (1 for zeros, else 0)."""
    wide = np.asarray(array, np.float64).ravel()
    if not np.isfinite(wide).all():
        return 0.0
    mantissa, exponent = np.frexp(np.abs(wide[wide != 0]))
    if not mantissa.size:
        return 1.0
    bits = np.ldexp(mantissa, 53).astype(np.int64)
    grid = float(np.ldexp((bits & -bits).astype(np.float64), exponent - 53).min())
    return grid if grid > 2.0**-60 else 0.0  # products of grids must not underflow


@dataclass(frozen=True)
class Site:
    """A node under analysis: its operands with errors and its float64 results."""

    node: Node
    args: tuple[Rounded, ...]
    values: tuple[Array, ...]
    batch: int
    unit: float

    @property
    def op(self) -> Op:
        """The op's rules."""
        return OPS[self.node.op]

    @property
    def attrs(self) -> Attrs:
        """The node's attributes."""
        return self.node.attrs

    @property
    def value(self) -> Array:
        """The only result."""
        (value,) = self.values
        return value

    @property
    def terms(self) -> int:
        """How many terms are summed for one result element."""
        types = [v.type.plain for v in self.node.operands]
        return self.op.reduction(types, self.attrs, self.batch)

    @cached_property
    def arithmetic(self) -> Arithmetic:
        """What the node computes in."""
        if self.computed == np.float64:
            return Arithmetic(DOUBLE, 2.0**-1022, np.inf)
        return Arithmetic(self.unit)

    @property
    def computed(self) -> "np.dtype[np.generic]":
        """What the node's first result is computed in, float64 in float64 runs."""
        return storage_of(self.node.results[0].type.dtype.computed, self.unit)

    def gamma(self, count: int) -> float:
        """The relative error of ``count`` roundings in the node's arithmetic."""
        return self.arithmetic.gamma(count)

    def apply(self, *arrays: Array) -> Array:
        """The op's reference on other numbers for the same operands."""
        return np.asarray(self.op.evaluate(arrays, self.attrs, self.batch))

    def settle(self, outcome: "Outcome") -> tuple[Rounded, ...]:
        """The results with errors, from what the op's rule gave."""
        outcomes = outcome if isinstance(outcome, tuple) else (outcome,)
        return tuple(
            self._settle_one(value, item, self.node.results[i].type.dtype)
            for i, (value, item) in enumerate(zip(self.values, outcomes, strict=True))
        )

    def _settle_one(self, value: Array, item: "Array | Sum", kind: DType) -> Rounded:
        if isinstance(item, Sum):
            error = item.error(self.arithmetic) if kind.is_float else item.inherited
        else:
            error = np.asarray(item, np.float64)
        error = np.broadcast_to(error, value.shape)
        if kind.is_float:
            error = error * WIDEN
            unknown = ~(np.abs(value) + error < self.arithmetic.huge)
            infinite = np.isinf(value) & (error == 0)
            error = np.where(unknown & ~infinite, np.inf, error)
        error = np.where(np.isnan(error), np.inf, error)
        return Rounded(value, error, item if isinstance(item, Sum) else None)


Outcome = Array | Sum | tuple[Array | Sum, ...]
"""What a rule gives: for each result its errors, or a sum that is still open."""


def lipschitz(values: Sequence[Rounded]) -> Array:
    """The error of the elementwise maximum: the largest of those that may win."""
    floor = values[0].low
    for other in values[1:]:
        floor = np.maximum(floor, other.low)
    error = np.zeros(floor.shape)
    for each in values:
        error = np.maximum(error, np.where(each.high >= floor, each.error, 0))
    return error


def contenders(low: Array, high: Array) -> Array:
    """Which entries along axis 0 may be the first of the largest, as booleans."""
    before = np.full_like(low, -np.inf)
    before[1:] = np.maximum.accumulate(low, axis=0)[:-1]
    after = np.full_like(low, -np.inf)
    after[:-1] = np.maximum.accumulate(low[::-1], axis=0)[::-1][1:]
    first = np.isneginf(before) | (high > before)
    first |= np.isposinf(high)  # nothing at all is known of it
    return np.asarray(first & (high >= after))


def winner_error(low: Array, high: Array, winner: Array) -> Array:
    """How far from ``winner`` the index of the largest along axis 0 may be."""
    index = np.arange(len(low)).reshape(-1, *[1] * winner.ndim)
    distance = np.abs(index - winner.astype(np.int64))
    farthest = np.where(contenders(low, high), distance, 0).max(axis=0)
    return np.asarray(farthest, np.float64)
