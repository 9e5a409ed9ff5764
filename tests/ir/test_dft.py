"""Fourier's transforms make convolutions, and their bound holds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from convc.ir.dft import (
    LOOSER,
    Dft,
    Line,
    admissible,
    back_of,
    error_bound,
    filters_of,
    forward_of,
    products_of,
    roundings,
)
from convc.ir.winograd import UNIT, direct_bound

Array = NDArray[np.float64]

SAME = Line(14, 5, 14, before=2)
CASES = {
    "same": Dft(SAME, SAME),
    "valid": Dft(Line(9, 3, 7), Line(8, 2, 7)),
    "strided": Dft(Line(7, 3, 4, 2, 1, 1), Line(6, 3, 3, 2)),
    "dilated": Dft(Line(9, 3, 9, 1, 2, 2), Line(12, 3, 6, 1, 3)),
    "more_padding_than_image": Dft(Line(3, 3, 9, 1, 1, 4), Line(1, 1, 1)),
    "fewer_outputs_than_fit": Dft(Line(5, 3, 1, 3), Line(6, 5, 2)),
    "odd_sizes": Dft(Line(5, 2, 5, before=0), Line(7, 3, 5)),
}


def direct(x: Array, w: Array, dft: Dft) -> Array:
    rows, cols = dft.rows, dft.cols
    y = np.zeros((rows.outputs, cols.outputs))
    for (i, j), (a, b) in (
        (o, t) for o in np.ndindex(*y.shape) for t in np.ndindex(*w.shape)
    ):
        p = rows.stride * i + rows.dilation * a - rows.before
        q = cols.stride * j + cols.dilation * b - cols.before
        if 0 <= p < rows.size and 0 <= q < cols.size:
            y[i, j] += x[p, q] * w[a, b]
    return y


def matrices(dft: Dft) -> tuple[Array, Array, Array]:
    """Each transform as one."""
    return forward_of(dft).composed(), filters_of(dft), back_of(dft).composed().T


def transformed(x: Array, w: Array, dft: Dft) -> Array:
    forward, filters, back = matrices(dft)
    u = (filters @ w.ravel())[:, None, None]
    v = (forward @ x.ravel())[:, None, None]
    y = back @ products_of(dft, u, v)[:, 0, 0]
    return np.asarray(y.reshape(dft.rows.outputs, dft.cols.outputs))


@pytest.mark.parametrize("dft", CASES.values(), ids=CASES)
def test_a_product_of_frequencies_is_a_convolution(dft: Dft) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(dft.rows.size, dft.cols.size))
    w = rng.normal(size=(dft.rows.taps, dft.cols.taps))
    assert np.allclose(transformed(x, w, dft), direct(x, w, dft), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dft", CASES.values(), ids=CASES)
def test_of_two_conjugates_one_is_kept(dft: Dft) -> None:
    """As many real rows as there are points: nothing is computed twice."""
    forward, filters, back = matrices(dft)
    assert forward.shape == (dft.count, dft.rows.size * dft.cols.size)
    assert filters.shape == (dft.products, dft.rows.taps * dft.cols.taps)
    assert back.shape == (dft.rows.outputs * dft.cols.outputs, dft.count)
    assert dft.alone + 2 * dft.pairs == dft.count


def test_a_transform_is_no_larger_than_what_wraps_around_demands() -> None:
    """With one point less an output of one of these takes up a pixel it must not."""
    assert (SAME.points, Line(14, 5, 10).points) == (16, 14)
    assert Line(14, 5, 14, before=4).points == 18
    assert Line(6, 3, 6, 1, 2, 2).points == 8
    assert Line(5, 3, 1, 3).points == 5


def test_several_channels_and_images_are_products_of_matrices() -> None:
    dft = CASES["strided"]
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(7, 6, 3, 2)), rng.normal(size=(3, 3, 3, 4))
    forward, filters, back = matrices(dft)
    u, v = np.tensordot(filters, w.reshape(9, 3, 4), 1), forward @ x.reshape(42, 6)
    y = np.tensordot(back, products_of(dft, u, v.reshape(-1, 3, 2)), 1)
    for k, n in np.ndindex(4, 2):
        sums = sum(direct(x[..., c, n], w[..., c, k], dft) for c in range(3))
        assert np.allclose(y[:, k, n], np.ravel(sums))


@pytest.mark.parametrize("dft", CASES.values(), ids=CASES)
def test_columns_and_then_rows_are_what_the_definition_says(dft: Dft) -> None:
    """Each row of the transform is the wave of a frequency, or a part of one."""
    down, across = np.mgrid[: dft.rows.size, : dft.cols.size]
    lines = (dft.rows.points, dft.cols.points)
    waves = {
        tuple(np.round([part.real, part.imag][at].ravel(), 9) + 0.0)
        for one in np.ndindex(*lines)
        for part in [
            np.exp(
                -2j * np.pi * (one[0] * down / lines[0] + one[1] * across / lines[1])
            )
        ]
        for at in (0, 1)
    }
    rows = {tuple(row) for row in np.round(forward_of(dft).composed(), 9) + 0.0}
    assert rows <= waves


def test_two_steps_round_more_than_one_would_by_little() -> None:
    """The masses of both parts of a pair meet; in one matrix they would cancel."""
    for transform in (forward_of(CASES["same"]), back_of(CASES["same"])):
        one, both = np.abs(transform.composed()), transform.magnitudes()
        assert (one <= both + 1e-12).all()
        assert one.sum() < both.sum() < 1.5 * one.sum()


@pytest.mark.parametrize("dft", CASES.values(), ids=CASES)
def test_float32_stays_within_the_bound(dft: Dft) -> None:
    """By a wide margin: the bound takes each rounding at its worst."""
    rng = np.random.default_rng(2)
    forward, filters, back = (m.astype(np.float32) for m in matrices(dft))
    x, w = (
        rng.uniform(-1, 1, size).astype(np.float32)
        for size in ((dft.rows.size, dft.cols.size), (dft.rows.taps, dft.cols.taps))
    )
    u, v = (filters @ w.ravel()), (forward @ x.ravel())
    made = products_of(dft, u[:, None, None], v[:, None, None])[:, 0, 0]
    y = (back @ made.astype(np.float32)).reshape(dft.rows.outputs, -1)
    exact = direct(x.astype(np.float64), w.astype(np.float64), dft)
    assert np.abs(y - exact).max() <= error_bound(dft, 1)


def test_the_bound_is_that_of_its_masses_and_roundings() -> None:
    dft = CASES["valid"]
    forward, back = forward_of(dft).magnitudes(), back_of(dft).magnitudes().T
    filters = np.abs(filters_of(dft))
    ones = np.ones((9 * 8, 1, 1)), np.ones((6, 1, 1))
    u, v = np.tensordot(filters, ones[1], 1), np.tensordot(forward, ones[0], 1)
    mass = 5 * (back @ products_of(dft, u, v)[:, 0, 0]).max()
    count = (9 + 2 * 8 + 2) + (6 + 1) + 2 * 5 + (9 + 2 * 8 + 2)
    assert roundings((9, 8)) == 9 + 2 * 8 + 2
    assert error_bound(dft, 5) == pytest.approx(mass * count * UNIT, rel=1e-4)


def test_large_images_of_few_channels_are_not_admitted() -> None:
    large = Line(28, 5, 28, before=2)
    assert admissible(Dft(SAME, SAME), 32)
    assert not admissible(Dft(large, large), 1)
    loosest = LOOSER * direct_bound(25)
    assert error_bound(Dft(large, large), 1) > loosest
