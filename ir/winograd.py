"""Winograd's short convolutions: exact transforms, and how they round.

F(m, r) makes m neighbouring outputs of a filter with r taps from a = m + r - 1 inputs
with a products instead of m·r (Winograd, Arithmetic Complexity of Computations, 1980;
Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016, section 4):

    y = A [(G w) * (B x)],   in two dimensions   Y = A [(G W G') * (B X B')] A'.

The matrices are those of Cook and Toom: with a - 1 points and infinity, G evaluates
the filter as a polynomial at the points, A' the outputs', and B interpolates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product
from math import prod

Matrix = tuple[tuple[Fraction, ...], ...]

UNIT = 2.0**-24
"""The unit roundoff of float32."""
LOOSER = 256.0
"""How much looser than the direct sum's the bound of a transform may be, for it to be
used: 16 of the 24 bits of float32 are then left of it, at the worst."""


def _points(*pairs: Fraction | int) -> tuple[Fraction, ...]:
    """0 and each of ``pairs`` with both signs."""
    signed = (Fraction(sign * p) for p in pairs for sign in (1, -1))
    return (Fraction(0), *signed)


POINTS = {
    (2, 3): _points(1),
    (4, 3): _points(Fraction(1, 2), 2),
    (2, 5): _points(Fraction(1, 2), 2),
    (4, 5): _points(1, Fraction(1, 3), 3),
}
"""For F(m, r) the points with the smallest error bound, found by trying all sets of
quotients of 1 to 4 with both signs."""


@dataclass(frozen=True)
class Transform:
    """The matrices of F(m, r), exactly: A [m, a], G [a, r] and B [a, a]."""

    m: int
    r: int
    output: Matrix
    filter: Matrix
    input: Matrix

    @property
    def a(self) -> int:
        """Inputs, and products, of one tile in one dimension."""
        return self.m + self.r - 1


@cache
def transform(m: int, r: int) -> Transform:
    """The transform of F(m, r), for a pair that ``POINTS`` has."""
    points = POINTS[m, r]
    others = [[q for q in points if q != p] for p in points]
    scales = [
        prod((p - q for q in rest), start=Fraction(1))
        for p, rest in zip(points, others, strict=True)
    ]
    return Transform(
        m,
        r,
        tuple((*(p**i for p in points), Fraction(i == m - 1)) for i in range(m)),
        (
            *(
                tuple(p**j / scale for j in range(r))
                for p, scale in zip(points, scales, strict=True)
            ),
            tuple(Fraction(j == r - 1) for j in range(r)),
        ),
        (*((*_monic(rest), Fraction(0)) for rest in others), _monic(points)),
    )


def _monic(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """The coefficients, lowest first, of the monic polynomial with these roots."""
    found: tuple[Fraction, ...] = (Fraction(1),)
    for root in roots:
        shifted, scaled = (Fraction(0), *found), (*found, Fraction(0))
        found = tuple(s - root * c for s, c in zip(shifted, scaled, strict=True))
    return found


@cache
def error_bound(m: int, r: int, channels: int) -> float:
    """How far F(m x m, r x r) over ``channels`` may be off in float32, |x|, |w| <= 1.

    To each of U = G W G', V = B X B', the sum of U·V over the channels, and the output
    transform applies Higham's bound for sums of products (Accuracy and Stability, 2nd
    ed., section 3.1): computed from p terms in any order, a sum is off by at most
    gamma_p times the sum of the terms' magnitudes, gamma_p = p·u / (1 - p·u); and
    roundings of successive steps add up in p (Lemma 3.3). So, with |.| by element and
    f over the a x a frequencies of a tile (cf. Barabasz et al., "Error analysis and
    improving the accuracy of Winograd convolution for deep neural networks", 2020),

        |Y^ - Y|_i <= sum over f of gamma_(C + g_f + b_f + a_i) |A|_if C |U|_f |V|_f

    with |U|_f at most the f-th row sum of |G|, |V|_f that of |B|, each taken for both
    dimensions; g, b and a count the roundings of a row of the transforms. The largest
    over the outputs i of a tile is given.
    """
    t = transform(m, r)
    filters, inputs, outputs = (
        [_Row.of(row) for row in matrix] for matrix in (t.filter, t.input, t.output)
    )
    scales = [[abs(float(factor)) for factor in row] for row in t.output]
    masses = [w.mass * x.mass for w, x in zip(filters, inputs, strict=True)]
    firsts = {
        f: _roundings(filters, f) + _roundings(inputs, f)
        for f in product(range(t.a), repeat=2)
    }
    worst = 0.0
    for i in product(range(m), repeat=2):
        last = _roundings(outputs, i)
        total = 0.0
        for f, first in firsts.items():
            weight = prod(scales[o][k] * masses[k] for o, k in zip(i, f, strict=True))
            total += weight * _gamma(channels + first + last)
        worst = max(worst, channels * total)
    return worst


def most_roundings(m: int, r: int) -> int:
    """The most that any product of F(m x m, r x r) meets, but for those of its sum."""
    t, found = transform(m, r), 0
    for matrix in (t.filter, t.input, t.output):
        rows = [_Row.of(row) for row in matrix]
        pairs = product(range(len(rows)), repeat=2)
        found += max(_roundings(rows, pair) for pair in pairs)
    return found


def direct_bound(terms: int) -> float:
    """The same for the sum of so many products in any order: p · gamma_p."""
    return terms * _gamma(terms)


def admissible(m: int, r: int, channels: int) -> bool:
    """Whether F(m x m, r x r) is known, its bound at most LOOSER times the sum's."""
    if (m, r) not in POINTS:
        return False
    return error_bound(m, r, channels) <= LOOSER * direct_bound(r * r * channels)


def _gamma(count: int) -> float:
    return count * UNIT / (1 - count * UNIT)


@dataclass(frozen=True)
class _Row:
    """A row of a transform: its sum of magnitudes, its terms, what is lost by each.

    ``lost`` counts 1 if a factor is no power of two and so rounds a product, and 1
    more if a factor is no float32 itself.
    """

    mass: float
    terms: int
    lost: int

    @classmethod
    def of(cls, row: Sequence[Fraction]) -> "_Row":
        factors = [abs(f) for f in row if f]
        whole = all(_power_of_two(f.denominator) for f in factors)
        simple = whole and all(_power_of_two(f.numerator) for f in factors)
        return cls(float(sum(factors)), len(factors), (not simple) + (not whole))


def _roundings(rows: Sequence[_Row], at: tuple[int, ...]) -> int:
    """Those of a row of the Kronecker square: of its additions, factors, products."""
    one, other = (rows[i] for i in at)
    return one.terms * other.terms - 1 + max(one.lost, other.lost)


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
