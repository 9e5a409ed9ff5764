"""Batches: what they hold, in which order, and what they do not copy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from convc.data.batches import Dataset, batch_count, batches, unit_images
from convc.data.idx import DataError


def numbered(n: int) -> Dataset:
    """N images, each filled with its own number, which is its label too."""
    images = np.empty((n, 2, 2, 1), dtype=np.float32)
    images[...] = np.arange(n).reshape(n, 1, 1, 1)
    return Dataset(images, np.arange(n, dtype=np.int32), "numbered")


def drawn(*arguments: int, **options: int) -> list[list[int]]:
    """The labels of each shuffled batch, after a look that the images fit them."""
    found = []
    for images, labels in batches(numbered(arguments[0]), *arguments[1:], **options):
        expected = np.broadcast_to(labels.reshape(-1, 1, 1, 1), images.shape)
        np.testing.assert_array_equal(images, expected)
        found.append(labels.tolist())
    return found


@pytest.mark.parametrize(("n", "size"), [(10, 4), (8, 4), (3, 8), (1, 1), (5, 1)])
def test_an_epoch_shows_every_image_once_and_keeps_the_partial_batch(
    n: int, size: int
) -> None:
    found = drawn(n, size, 7, 0)
    assert len(found) == batch_count(n, size)
    assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
    assert sorted(itertools.chain(*found)) == list(range(n))


def test_unshuffled_batches_are_views_in_order() -> None:
    data = numbered(10)
    parts = list(batches(data, 4, seed=0, epoch=0, shuffle=False))
    assert [labels.tolist() for _, labels in parts] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]
    for images, labels in parts:
        assert np.shares_memory(images, data.images)
        assert np.shares_memory(labels, data.labels)


def test_shuffled_batches_reuse_one_buffer() -> None:
    parts = batches(numbered(10), 4, seed=0, epoch=0)
    first, _ = next(parts)
    second, _ = next(parts)
    last = next(parts)[0]
    assert np.shares_memory(first, second)
    assert np.shares_memory(first, last)
    assert first.flags.c_contiguous
    assert first.dtype == np.float32


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    base = drawn(100, 8, 1, 0)
    assert base == drawn(100, 8, 1, 0)
    assert base != drawn(100, 8, 1, 1)
    assert base != drawn(100, 8, 2, 0)
    assert list(itertools.chain(*base)) != list(range(100))


@pytest.mark.parametrize("start", [0, 1, 12, 13])
def test_a_resumed_epoch_shows_what_the_whole_would_have(start: int) -> None:
    assert drawn(100, 8, 1, 3, start=start) == drawn(100, 8, 1, 3)[start:]


def test_a_resumed_unshuffled_epoch_skips_batches_too() -> None:
    parts = batches(numbered(10), 4, seed=0, epoch=0, shuffle=False, start=2)
    assert [labels.tolist() for _, labels in parts] == [[8, 9]]


@pytest.mark.parametrize(
    ("size", "start", "rule"),
    [
        (0, 0, "size must be at least 1, and is 0"),
        (4, 4, r"start must be 0 \.\. 3 for 10 images in batches of 4, and is 4"),
        (4, -1, r"start must be 0 \.\. 3 .* and is -1"),
    ],
)
def test_impossible_batches_are_refused_at_the_call(
    size: int, start: int, rule: str
) -> None:
    """The error comes from the call itself, not from the first batch."""
    with pytest.raises(DataError, match=rule):
        batches(numbered(10), size, seed=0, epoch=0, start=start)


def test_a_data_set_cannot_be_written_through_its_batches() -> None:
    images, labels = next(batches(numbered(4), 2, seed=0, epoch=0, shuffle=False))
    assert not images.flags.writeable
    assert not labels.flags.writeable


def test_the_given_arrays_stay_writable_and_are_not_copied() -> None:
    images = np.zeros((3, 2, 2, 1), dtype=np.float32)
    data = Dataset(images, np.zeros(3, dtype=np.int32), "x")
    assert images.flags.writeable
    assert np.shares_memory(images, data.images)


ZEROS = np.zeros((3, 2, 2, 1), dtype=np.float32)
LABELS = np.zeros(3, dtype=np.int32)


@pytest.mark.parametrize(
    ("images", "labels", "rule"),
    [
        (ZEROS.astype(np.float64), LABELS, "images must be float32, and are float64"),
        (ZEROS, LABELS.astype(np.int64), "labels must be int32, and are int64"),
        (ZEROS[:2], LABELS, r"shapes are \[2, 2, 2, 1\] and \[3\]"),
        (ZEROS, LABELS.reshape(3, 1), r"shapes are \[3, 2, 2, 1\] and \[3, 1\]"),
        (ZEROS[:0], LABELS[:0], "holds no images"),
        (ZEROS, LABELS - 2, "labels count from 0, and the lowest is -2"),
    ],
)
def test_a_malformed_data_set_is_refused(
    images: np.ndarray, labels: np.ndarray, rule: str
) -> None:
    with pytest.raises(DataError, match=f"^x: .*{rule}"):
        Dataset(images, labels, "x")


def test_the_first_images_are_views_and_keep_the_name() -> None:
    data = numbered(10)
    few = data.first(3)
    assert few.labels.tolist() == [0, 1, 2]
    assert few.name == data.name
    assert np.shares_memory(few.images, data.images)
    assert len(data.first(99)) == 10
    with pytest.raises(DataError, match="the first 0 images"):
        data.first(0)


def test_bytes_become_numbers_from_zero_to_one() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    images = unit_images(grey)
    assert images.shape == (1, 16, 16, 1)
    assert images.dtype == np.float32
    expected = (np.arange(256) / 255).astype(np.float32)
    np.testing.assert_array_equal(images.ravel(), expected)
    assert images.strides[-1] == 4
