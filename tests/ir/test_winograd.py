"""Short convolutions are exact in rationals, and round as little as they promise."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from convc.ir import winograd
from convc.ir.winograd import (
    OPS,
    POINTS,
    Matrix,
    admissible,
    direct_bound,
    error_bound,
    most_roundings,
    stages,
    transform,
)

Floats = NDArray[np.float64]
LAYERS = {"two_conv/conv2": (5, 32), "four_conv/conv2": (3, 64), "conv3": (3, 64)}
LAYERS |= {"conv4": (3, 128), "resnet": (3, 256), "few": (3, 16), "wide_5x5": (5, 512)}


@pytest.mark.parametrize(("m", "r"), POINTS)
def test_a_transform_is_the_correlation_exactly(m: int, r: int) -> None:
    """Sum over f of A[i,f] G[f,j] B[f,d] is 1 where d = i + j, else 0."""
    t = transform(m, r)
    for i, j, d in product(range(m), range(r), range(t.a)):
        terms = (t.output[i][f] * t.filter[f][j] * t.input[f][d] for f in range(t.a))
        assert sum(terms, Fraction(0)) == (d == i + j)


def test_f_2_3_is_that_of_the_paper() -> None:
    """Up to the signs of the first and the last product."""
    t, half = transform(2, 3), Fraction(1, 2)
    assert t.output == ((1, 1, 1, 0), (0, 1, -1, 1))
    assert t.filter == ((-1, 0, 0), (half, half, half), (half, -half, half), (0, 0, 1))
    rows = ((-1, 0, 1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1))
    assert t.input == rows


def test_the_bound_of_f_2_3_is_what_a_pencil_says() -> None:
    """|A| |G||B|: 8 a dimension; roundings: C, 3 for B, 8 for A, and 0, 2 or 8 for G.

    The product of the weights 2, 3, 3 says how often G has 1, 3 or 9 terms.
    """
    channels = 64
    mean = channels + 3 + 8 + ((2 * 1 + 3 * 3 + 3 * 3) / 8) ** 2 - 1
    expected = 8**2 * channels * mean * 2.0**-24
    assert error_bound(2, 3, channels) == pytest.approx(expected, rel=1e-4)
    terms = 9 * channels
    assert direct_bound(9 * channels) == pytest.approx(terms**2 * 2.0**-24, rel=1e-4)


def test_the_bounds_of_its_gradients_are_what_a_pencil_says() -> None:
    """A pixel has parts of up to 2x2 tiles; a tap has one of every tile.

    Row sums: |G| 1, 1.5, 1.5, 1; |A'| 1, 2, 2, 1; |B| 2 each. A pixel has |B'| of 1, 3,
    3, 1 from a tile and its neighbour: 8 a dimension; a tap |G'| of 2, 4, 4, 2: 6.
    """
    assert (stages(2, 3, OPS[1]).meeting, stages(2, 3, OPS[2]).meeting) == (4, 1)
    assert most_roundings(2, 3, OPS[1]) == (9 - 1) + (4 - 1) + (9 - 1) + (4 - 1)
    assert most_roundings(2, 3, OPS[2]) == (4 - 1) + (4 - 1) + (9 - 1)
    many = 10**6  # where the sum at the frequencies is what rounds
    for op, mass in ((OPS[1], 8), (OPS[2], 6)):
        found = error_bound(2, 3, many, op) / direct_bound(many)
        assert found == pytest.approx(mass**2, rel=1e-3), op


def test_which_transforms_may_serve_real_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that are known; F(2x2, 3x3) is as tight as the sum, from 62 channels on."""

    def allowed() -> dict[str, list[int]]:
        return {
            name: [m for m in (2, 4) if admissible(m, r, c)]
            for name, (r, c) in LAYERS.items()
        }

    assert allowed() == {name: [2, 4] for name in LAYERS}
    assert not admissible(3, 3, 512)
    monkeypatch.setattr(winograd, "LOOSER", 1.0)
    wide = ("four_conv/conv2", "conv3", "conv4", "resnet")
    assert allowed() == {name: [2] if name in wide else [] for name in LAYERS}
    assert not admissible(2, 3, 61)
    assert admissible(2, 3, 62)


@pytest.mark.parametrize(
    ("m", "r", "loosest", "tightest"),
    [(2, 3, 1.0, 0.7), (4, 3, 11, 6), (2, 5, 3, 1.4), (4, 5, 30, 11)],
)
def test_how_much_looser_the_others_are(
    m: int, r: int, loosest: float, tightest: float
) -> None:
    """From 64 channels on, in units of the direct sum's bound."""
    ratios = [error_bound(m, r, c) / direct_bound(r * r * c) for c in (64, 256, 4096)]
    assert tightest < ratios[2] < ratios[1] < ratios[0] < loosest


def square(matrix: Matrix) -> NDArray[np.float32]:
    """The Kronecker square in float32, each entry rounded once."""
    pairs = product(matrix, repeat=2)
    rows = [[float(p * q) for p in one for q in other] for one, other in pairs]
    return np.array(rows, np.float64).astype(np.float32)


def tile(m: int, r: int, x: Floats, w: Floats) -> tuple[Floats, Floats]:
    """One tile of outputs [m·m, k] in float32 by the transform, and in float64.

    x [a·a, c] and w [r·r, c, k] are the pixels and the filters.
    """
    t, c, k = transform(m, r), w.shape[1], w.shape[2]
    u = square(t.filter) @ w.reshape(r * r, c * k).astype(np.float32)
    v = square(t.input) @ x.astype(np.float32)
    p = (v[:, None] @ u.reshape(-1, c, k))[:, 0]
    images, filters = x.reshape(t.a, t.a, c), w.reshape(r, r, c, k)
    direct = [
        np.einsum("ijc,ijck->k", images[i : i + r, j : j + r], filters)
        for i, j in product(range(m), repeat=2)
    ]
    return (square(t.output) @ p).astype(np.float64), np.array(direct)


@pytest.mark.parametrize("data", ["uniform", "signs"])
@pytest.mark.parametrize("channels", [1, 8, 64])
@pytest.mark.parametrize(("m", "r"), POINTS)
def test_measured_errors_lie_within_the_bound(
    m: int, r: int, channels: int, data: str
) -> None:
    """And not so far below it that it would say nothing: errors add up at random."""
    rng = np.random.default_rng(7)
    shapes = ((m + r - 1) ** 2, channels), (r * r, channels, 64)
    x, w = (rng.uniform(-1, 1, s).astype(np.float32).astype(float) for s in shapes)
    if data == "signs":
        x, w = np.sign(x) * (1 - 2.0**-10), np.sign(w) * (1 - 2.0**-11)
    ours, exact = tile(m, r, x, w)
    error, bound = np.abs(ours - exact).max(), error_bound(m, r, channels)
    assert error <= bound
    assert bound < 1e6 * max(error, 2.0**-24)


@pytest.mark.parametrize(("m", "r"), POINTS)
def test_two_outputs_see_their_own_windows_only(m: int, r: int) -> None:
    """So that a window of zeros gives 0; of four outputs, all see all pixels."""
    t = transform(m, r)
    seen = [
        {
            d
            for f, d in product(range(t.a), repeat=2)
            if t.output[i][f] and t.input[f][d]
        }
        for i in range(m)
    ]
    own = [set(range(i, i + r)) for i in range(m)]
    assert (seen == own) == (m == 2)


def test_f_2_3_is_exact_on_whole_numbers() -> None:
    """Its factors are powers of two, so that nothing is rounded."""
    rng = np.random.default_rng(3)
    x, w = rng.integers(-4, 5, (16, 64)), rng.integers(-4, 5, (9, 64, 8))
    ours, exact = tile(2, 3, x.astype(float), w.astype(float))
    assert np.array_equal(ours, exact)
