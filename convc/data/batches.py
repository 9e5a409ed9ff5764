"""A data set in memory, and its batches in a reproducible order.

Images are held as float32, not as the bytes they came in. The program wants float32:
held so, an unshuffled batch is a view (no copy at all) and a shuffled one is a single
gather into a buffer. Held as bytes, every batch of every epoch would be gathered and
then converted, two passes over the data, to save 141 MB on MNIST.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from convc.data.idx import DataError
from convc.ir import philox

Images = NDArray[np.float32]
Labels = NDArray[np.int32]
Batch = tuple[Images, Labels]

SHUFFLE_STREAM = philox.stream_of("shuffle")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their labels; both are kept as read-only views of what was given.

    images: f32[n, ...] with n >= 1 (MNIST: [n,28,28,1] in [0,1]), C-contiguous;
    labels: i32[n], not negative. ``source`` says where the data came from; ``notice``
    is what a person must be told about it ("" when there is nothing to tell).
    Raises DataError if an array is not of this form.
    """

    images: Images
    labels: Labels
    name: str
    source: str = ""
    notice: str = ""

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        for role, array, dtype in (
            ("images", images, np.float32),
            ("labels", labels, np.int32),
        ):
            if array.dtype != dtype:
                raise DataError(
                    f"{self.name}: {role} must be {np.dtype(dtype)}, "
                    f"and are {array.dtype}; convert them first"
                )
        if images.ndim < 2 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(
                f"{self.name}: images [n, ...] need labels [n], and the shapes are "
                f"{list(images.shape)} and {list(labels.shape)}"
            )
        if not len(images):
            raise DataError(f"{self.name}: holds no images; at least one is needed")
        if labels.min() < 0:
            raise DataError(
                f"{self.name}: labels count from 0, and the lowest is {labels.min()}"
            )
        for role, array in ("images", images), ("labels", labels):
            held = np.ascontiguousarray(array).view()
            held.flags.writeable = False
            object.__setattr__(self, role, held)

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Dataset:
        """The first ``count`` images as a data set of views, or all if there are fewer.

        DataError if ``count`` is below 1.
        """
        if count < 1:
            raise DataError(f"{self.name}: the first {count} images are no data set")
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def shaped(self, shape: Sequence[int]) -> Dataset:
        """The same images as views of another shape, say [784] for [28,28,1].

        DataError if the shape has more or fewer elements than an image.
        """
        have = self.images.shape[1:]
        if prod(shape) != prod(have):
            raise DataError(
                f"{self.name}: images {list(have)} have {prod(have)} numbers, "
                f"and {list(shape)} has {prod(shape)}"
            )
        return replace(self, images=self.images.reshape(len(self), *shape))


@dataclass(frozen=True, eq=False)
class Splits:
    """The two halves of a benchmark: what is learned from, and what is asked."""

    train: Dataset
    test: Dataset

    @property
    def notice(self) -> str:
        """What a person must be told about this data, "" if nothing."""
        return self.train.notice

    def shaped(self, shape: Sequence[int]) -> Splits:
        """Both halves with images of that shape; see ``Dataset.shaped``."""
        return Splits(self.train.shaped(shape), self.test.shaped(shape))


def unit_images(grey: NDArray[np.uint8]) -> Images:
    """Bytes as numbers in [0,1], with a channel: u8[n,h,w] -> f32[n,h,w,1]."""
    images = np.divide(grey, np.float32(255), dtype=np.float32)
    return images.reshape(*grey.shape, 1)


def batch_count(images: int, batch_size: int) -> int:
    """How many batches hold that many images, a partial last one included."""
    if batch_size < 1:
        raise DataError(f"batches: the size must be at least 1, and is {batch_size}")
    return -(-images // batch_size)


def batches(
    dataset: Dataset,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    start: int = 0,
) -> Iterator[Batch]:
    """The batches ``start``, ``start + 1``, ... of an epoch, as (images, labels).

    The order is a pure function of (seed, epoch), so a run resumed at ``start`` sees
    what the whole epoch would have shown it. The last batch may be smaller.

    Unshuffled batches are read-only views of the data set. Shuffled ones are views of
    one buffer that the next batch overwrites: copy what must outlive it.

    Raises DataError, before anything is drawn, if ``batch_size`` is below 1 or
    ``start`` lies beyond the end; ``start`` at the end gives no batches.
    """
    count = batch_count(len(dataset), batch_size)
    if not 0 <= start <= count:
        raise DataError(
            f"batches: start must be 0 .. {count} for {len(dataset)} images in "
            f"batches of {batch_size}, and is {start}"
        )
    if not shuffle:
        return _in_order(dataset, batch_size, range(start, count))
    order = philox.permutation(seed, SHUFFLE_STREAM, epoch, len(dataset))
    return _gathered(dataset, batch_size, order, range(start, count))


def _in_order(dataset: Dataset, size: int, numbers: range) -> Iterator[Batch]:
    """The numbered batches as views."""
    for number in numbers:
        part = slice(number * size, (number + 1) * size)
        yield dataset.images[part], dataset.labels[part]


def _gathered(
    dataset: Dataset, size: int, order: NDArray[np.int64], numbers: range
) -> Iterator[Batch]:
    """The numbered batches of a permuted data set, in one reused buffer."""
    size = min(size, len(dataset))
    images = np.empty((size, *dataset.images.shape[1:]), dtype=np.float32)
    labels = np.empty(size, dtype=np.int32)
    for number in numbers:
        rows = order[number * size : (number + 1) * size]
        # mode="raise" would gather into a temporary and copy; the rows are in range.
        np.take(dataset.images, rows, 0, out=images[: len(rows)], mode="clip")
        np.take(dataset.labels, rows, 0, out=labels[: len(rows)], mode="clip")
        yield images[: len(rows)], labels[: len(rows)]
