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

OPS = ("conv2d", "conv2d_input_grad", "conv2d_filter_grad")
"""What the transforms compute: the convolution, and its gradients by transposes."""

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


@dataclass(frozen=True)
class Stages:
    """How a convolution or a gradient of it goes through the frequencies of a tile.

    Rows of the ``first`` matrices take what is given to them, where it is multiplied
    and summed; rows of ``last`` make results, those that lie ``apart`` of neighbouring
    tiles the same one.
    """

    first: tuple[Matrix, Matrix]
    last: Matrix
    apart: int

    @property
    def meeting(self) -> int:
        """How many tiles a result has parts from, at most."""
        return (-(-len(self.last) // self.apart)) ** 2


@cache
def stages(m: int, r: int, op: str) -> Stages:
    """The stages of one of OPS, by F(m, r) in each dimension.

    Y is linear in X and in W, so the gradients go through the transposes:

        dX = B' [(G W G') * (A' dY A)] B,   dW = G' [sum of (B X B') * (A' dY A)] G.
    """
    t = transform(m, r)
    if op == OPS[0]:
        return Stages((t.filter, t.input), t.output, m)
    gradient = _transposed(t.output)
    if op == OPS[1]:
        return Stages((t.filter, gradient), _transposed(t.input), m)
    return Stages((t.input, gradient), _transposed(t.filter), r)


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


@cache
def error_bound(m: int, r: int, terms: int, op: str = OPS[0]) -> float:
    """How far ``op`` by F(m x m, r x r) may be off in float32, |operands| <= 1.

    ``terms`` are summed for every frequency: channels; filters; or tiles, for the
    filters' gradient. To each transform of an operand, the sum of their products, and
    the last transform applies Higham's bound for sums of products (Accuracy and
    Stability, 2nd ed., section 3.1): computed from p terms in any order, a sum is off
    by at most gamma_p times the sum of the terms' magnitudes, gamma_p = p·u /
    (1 - p·u); and roundings of successive steps add up in p (Lemma 3.3). So for a
    convolution, with |.| by element and f over the a x a frequencies of a tile (cf.
    Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution
    for deep neural networks", 2020),

        |Y^ - Y|_i <= sum over f of gamma_(C + g_f + b_f + a_i) |A|_if C |U|_f |V|_f

    with |U|_f at most the f-th row sum of |G|, |V|_f that of |B|, each taken for both
    dimensions; g, b and a count the roundings of a row of the transforms. The largest
    over the results of a tile is given, each with the parts that it has from others.
    """
    s = stages(m, r, op)
    one, other = ([_Row.of(row) for row in matrix] for matrix in s.first)
    masses = [w.mass * x.mass for w, x in zip(one, other, strict=True)]
    before = {
        f: terms + _roundings(one, f) + _roundings(other, f)
        for f in product(range(len(masses)), repeat=2)
    }
    rows = [_Row.of(row) for row in s.last]
    scales = [[abs(float(factor)) for factor in row] for row in s.last]
    sums: dict[tuple[int, ...], float] = {}
    for i in product(range(len(rows)), repeat=2):
        last, total = _roundings(rows, i) + s.meeting - 1, 0.0
        for f, count in before.items():
            weight = prod(scales[o][k] * masses[k] for o, k in zip(i, f, strict=True))
            total += weight * _gamma(count + last)
        place = tuple(o % s.apart for o in i)
        sums[place] = sums.get(place, 0.0) + total
    return terms * max(sums.values())


def most_roundings(m: int, r: int, op: str = OPS[0]) -> int:
    """The most that a result meets, but for those of the sums at the frequencies."""
    s = stages(m, r, op)
    found = s.meeting - 1
    for matrix in (*s.first, s.last):
        rows = [_Row.of(row) for row in matrix]
        pairs = product(range(len(rows)), repeat=2)
        found += max(_roundings(rows, pair) for pair in pairs)
    return found


def direct_bound(terms: int) -> float:
    """The same for the sum of so many products in any order: p · gamma_p."""
    return terms * _gamma(terms)


def admissible(m: int, r: int, terms: int, op: str = OPS[0]) -> bool:
    """Whether F(m x m, r x r) is known, its bound at most LOOSER times the sum's."""
    if (m, r) not in POINTS:
        return False
    each = m * m if op == OPS[2] else r * r
    return error_bound(m, r, terms, op) <= LOOSER * direct_bound(each * terms)


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
