"""Philox draws are the published bits, pure functions of where they stand."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.ir import philox
from convc.ir.errors import ConvcError

SEED, STREAM, STEP = 0x1234_5678_9ABC_DEF0, 77, (5 << 32) + 9
ONES = 0xFFFFFFFF
N = 200_000


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ),
        (
            (ONES, ONES, ONES, ONES),
            (ONES, ONES),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """The published vectors come out, and so for a whole array of counters."""
    one = np.array(counter, dtype=np.uint32)
    assert philox.philox4x32(one, key).tolist() == list(expected)
    many = np.tile(one, (2, 3, 1))
    assert philox.philox4x32(many, key).tolist() == [[list(expected)] * 3] * 2


def test_elements_are_laid_out_as_documented() -> None:
    """Element e is word e % 4 of counter (e // 4, stream, step low, step high)."""
    drawn = philox.bits(SEED, STREAM, STEP, 11)
    key = (SEED & ONES, SEED >> 32)
    for e, word in enumerate(drawn.tolist()):
        counter = np.array([e // 4, STREAM, STEP & ONES, STEP >> 32], dtype=np.uint32)
        assert word == philox.philox4x32(counter, key)[e % 4]


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 20_000), count=st.integers(0, 5_000))
def test_a_slice_agrees_with_the_whole_draw(start: int, count: int) -> None:
    """Drawing elements alone gives the elements of the whole, chunks included."""
    whole = philox.bits(SEED, STREAM, STEP, 25_000)
    part = philox.bits(SEED, STREAM, STEP, count, start)
    np.testing.assert_array_equal(part, whole[start : start + count])


@pytest.mark.parametrize(
    "draw", [philox.uniform, philox.normal, philox.truncated_normal]
)
def test_slices_of_distributions_agree_with_the_whole(draw: object) -> None:
    """Odd and even starts, across many redrawn elements."""
    assert callable(draw)
    whole = draw(SEED, STREAM, 3, 5_000)
    assert whole.dtype == np.float32
    for start, count in [(0, 1), (1, 7), (999, 1_000), (4_999, 1), (5_000, 0)]:
        part = draw(SEED, STREAM, 3, count, start)
        np.testing.assert_array_equal(part, whole[start : start + count])


def test_the_last_block_can_be_drawn() -> None:
    """The end of the element range is usable, and one more is refused."""
    assert philox.bits(1, 2, 3, 4, philox.ELEMENTS - 4).shape == (4,)
    with pytest.raises(ConvcError, match=r"start must be a whole number of 0 .. "):
        philox.bits(1, 2, 3, 4, philox.ELEMENTS - 3)


def test_seed_stream_and_step_each_change_the_bits() -> None:
    """All 64 bits of the seed and of the step count, and the stream."""
    base = philox.bits(1, 2, 3, 64)
    for other in [(2, 2, 3), (1 + (1 << 32), 2, 3), (1, 3, 3), (1, 2, 3 + (1 << 32))]:
        same = np.count_nonzero(philox.bits(*other, 64) == base)
        assert same == 0, other


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ((-1, 0, 0, 1), "seed must be a whole number of 0 .. 18446744073709551615"),
        ((1 << 64, 0, 0, 1), "and is 18446744073709551616"),
        ((0, 1 << 32, 0, 1), "stream must be a whole number of 0 .. 4294967295"),
        ((0, 0, -2, 1), "step must be .* and is -2"),
        ((0, 0, 0, -1), "count must be .* and is -1"),
        ((0.5, 0, 0, 1), "seed must be .* and is 0.5"),
    ],
)
def test_numbers_out_of_range_are_refused(
    arguments: tuple[int, int, int, int], rule: str
) -> None:
    """Each argument is named with its range and its value."""
    with pytest.raises(ConvcError, match=rule):
        philox.bits(*arguments)


def test_a_stream_is_the_crc32_of_the_name() -> None:
    """Names of any script have one; the value is fixed by crc32."""
    assert philox.stream_of("shuffle") == zlib.crc32(b"shuffle")
    assert philox.stream_of("conv1/kernel") != philox.stream_of("conv2/kernel")
    assert philox.stream_of("größe") == zlib.crc32("größe".encode())


# The bounds below are five standard errors of the statistic over N independent
# draws: sqrt(variance of the summand / N). A right generator fails one such test in
# 1.7 million; the seeds are fixed, so a run repeats exactly.
def near(sample: np.ndarray, mean: float, variance: float) -> bool:
    """Whether the sample's mean lies within five standard errors of ``mean``."""
    difference = abs(float(sample.mean(dtype=np.float64)) - mean)
    return difference < 5 * math.sqrt(variance / sample.size)


def test_uniform_moments_and_range() -> None:
    """Mean 1/2, mean square 1/3; multiples of 2**-24 in [0, 1)."""
    u = philox.uniform(SEED, 1, 0, N).astype(np.float64)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    np.testing.assert_array_equal(u * 2**24, np.floor(u * 2**24))
    assert near(u, 1 / 2, 1 / 12)
    assert near(u**2, 1 / 3, 1 / 5 - 1 / 9)


def test_uniform_neighbours_are_uncorrelated() -> None:
    """Adjacent elements, blocks and steps: products have mean 1/4, variance 7/144."""
    u = philox.uniform(SEED, 1, 0, N).astype(np.float64)
    later = philox.uniform(SEED, 1, 1, N).astype(np.float64)
    # u[::2] * u[1::2] are independent products; so are the other pairings.
    for product in (u[0::2] * u[1::2], u[::8] * u[4::8], u * later):
        assert near(product, 1 / 4, 7 / 144)


def test_normal_moments() -> None:
    """Moments 1 to 4 of N(0, 1): 0, 1, 0, 3 (variances 1, 2, 15, 96)."""
    z = philox.normal(SEED, 2, 0, N).astype(np.float64)
    for power, (mean, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], 1):
        assert near(z**power, mean, variance), power


def test_truncated_normal_moments_and_range() -> None:
    """|z| <= 2, and the moments of the truncated density."""
    z = philox.truncated_normal(SEED, 2, 0, N).astype(np.float64)
    assert np.abs(z).max() <= 2.0
    # phi(2) and the mass inside; E z^2 = 1 - 2a phi(a) / mass, and by parts
    # E z^4 = 3 E z^2 - 2 a^3 phi(a) / mass with a = 2.
    phi = math.exp(-2.0) / math.sqrt(2 * math.pi)
    mass = math.erf(math.sqrt(2.0))
    second = 1 - 4 * phi / mass
    fourth = 3 * second - 16 * phi / mass
    assert near(z, 0.0, second)
    assert near(z**2, second, fourth - second**2)


def test_truncated_normal_keeps_the_normal_draws_inside() -> None:
    """Only elements outside two deviations are redrawn."""
    z = philox.normal(SEED, 2, 4, 10_000)
    inside = np.abs(z) <= 2.0
    t = philox.truncated_normal(SEED, 2, 4, 10_000)
    np.testing.assert_array_equal(t[inside], z[inside])
    assert 0 < np.count_nonzero(~inside) < 1_000


def test_truncated_normal_refuses_steps_that_attempts_would_reach() -> None:
    """Step 2**48 is where the second attempts are drawn."""
    with pytest.raises(ConvcError, match=r"step must be .* 281474976710655"):
        philox.truncated_normal(1, 2, 1 << 48, 4)


@pytest.mark.parametrize("n", [0, 1, 2, 10, 1_000, 9_999])
def test_a_permutation_holds_every_number_once(n: int) -> None:
    """Sorting it gives 0 .. n-1."""
    order = philox.permutation(SEED, philox.stream_of("shuffle"), 0, n)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_permutations_differ_per_epoch_and_repeat_per_seed() -> None:
    """Few fixed places between epochs (their number is Poisson with mean 1)."""
    stream = philox.stream_of("shuffle")
    first = philox.permutation(7, stream, 0, 10_000)
    np.testing.assert_array_equal(first, philox.permutation(7, stream, 0, 10_000))
    for other in ((7, 1), (8, 0)):
        order = philox.permutation(other[0], stream, other[1], 10_000)
        assert np.count_nonzero(order == first) < 12


def test_all_orders_of_three_are_equally_likely() -> None:
    """Each of the six orders comes up in one sixth of the epochs."""
    epochs = 6_000
    seen: dict[tuple[int, ...], int] = {}
    for epoch in range(epochs):
        order = tuple(philox.permutation(3, 1, epoch, 3).tolist())
        seen[order] = seen.get(order, 0) + 1
    spread = 5 * math.sqrt(epochs * (1 / 6) * (5 / 6))
    assert len(seen) == 6
    assert all(abs(times - epochs / 6) < spread for times in seen.values()), seen


def test_keep_threshold_is_the_floor_of_keep_times_two_to_the_32() -> None:
    """One keeps all: its threshold lies above every word."""
    assert philox.keep_threshold(0.75) == 3 << 30
    assert philox.keep_threshold(1.0) == 1 << 32
    assert philox.keep_threshold(0.1) == math.floor(0.1 * 2**32)


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.0000001, float("nan")])
def test_keep_outside_its_range_is_refused(keep: float) -> None:
    """The message names the range and the value."""
    with pytest.raises(ConvcError, match=r"in \(0, 1\], and keep is"):
        philox.keep_threshold(keep)


@pytest.mark.parametrize("keep", [0.25, 0.75])
def test_a_mask_keeps_the_stated_share(keep: float) -> None:
    """The mask compares the words with the threshold; its mean is keep."""
    mask = philox.keep_mask(SEED, 9, 4, N, keep)
    words = philox.bits(SEED, 9, 4, N)
    np.testing.assert_array_equal(mask, words < philox.keep_threshold(keep))
    assert near(mask.astype(np.float64), keep, keep * (1 - keep))


def test_keep_one_keeps_everything() -> None:
    """No element is dropped, whatever its word."""
    assert philox.keep_mask(SEED, 9, 4, 10_000, 1.0).all()


def test_a_share_that_is_fed_has_a_bound_whatever_it_is() -> None:
    """Keep * 2**32 for a share, exactly; none and all outside, all for NaN."""
    shares = (0.25, 0.75, 2.0**-32, 1.0, -1.0, 0.0, 7.0, float("nan"), float("inf"))
    wanted = [1 << 30, 3 << 30, 1, 1 << 32, 0, 0, 1 << 32, 1 << 32, 1 << 32]
    assert [philox.fed_threshold(share) for share in shares] == wanted
    for share in np.float32([0.1, 0.9, 1 - 2.0**-24]):
        bound = philox.fed_threshold(float(share))
        assert bound == philox.keep_threshold(float(share)) == share * np.float32(2**32)
