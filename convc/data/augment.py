"""Images changed a little, anew in each epoch, while they are gathered.

What an image becomes is a function of the run's seed, the epoch and the image's place
in its data set alone: not of the batch it is in, nor of the backend. So a run that is
resumed, or that uses other batches, sees the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from convc.data.batches import Images
from convc.data.idx import DataError
from convc.ir import philox

STREAM = philox.stream_of("augment")
"""The stream of random numbers; its step is the epoch, its element the image."""

Rows = NDArray[np.int64]
Gather = Callable[[Rows, Images], None]
"""Puts the images of these rows into an array f32[len(rows), ...]."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images of a training run; this is nothing.

    Its repr is what a checkpoint records.
    """

    def gathering(self, images: Images, batch: int, seed: int, epoch: int) -> Gather:
        """Gathers at most ``batch`` of the images at a time, as the epoch sees them.

        DataError if they are no images that this can be done to.
        """

        def gather(rows: Rows, out: Images) -> None:
            # The rows are in range; mode="raise" would gather into a temporary first.
            np.take(images, rows, 0, out=out, mode="clip")

        return gather


UNCHANGED = Augmentation()
"""Images as they are."""


@dataclass(frozen=True)
class Shifts(Augmentation):
    """Each image is moved by -pixels .. pixels, downwards and to the right.

    All (2·pixels + 1)² moves are equally likely; zeros come in from the edges. The
    images are f32[n,height,width,channels]. DataError unless pixels >= 0.
    """

    pixels: int

    def __post_init__(self) -> None:
        most = self.pixels
        if isinstance(most, bool) or not isinstance(most, int) or most < 0:
            raise DataError(
                f"shifts: pixels must be a whole number from 0, got {most!r}"
            )

    def gathering(self, images: Images, batch: int, seed: int, epoch: int) -> Gather:
        """See ``Augmentation.gathering``; the images are of rank 4."""
        p = self.pixels
        if images.ndim != 4:
            raise DataError(
                "shifts: move images [height, width, channels], and these are "
                f"{list(images.shape[1:])}; shape them so, or train without shifts"
            )
        if p == 0:
            return super().gathering(images, batch, seed, epoch)
        down, right = self.moves(seed, epoch, len(images))
        _, height, width, channels = images.shape
        bordered = np.zeros(
            (batch, height + 2 * p, width + 2 * p, channels), np.float32
        )
        inner = bordered[:, p : p + height, p : p + width]
        # [n, move down, move right, height, width, channels], all of it views
        windows = sliding_window_view(bordered, (height, width), axis=(1, 2))
        windows = windows.transpose(0, 1, 2, 4, 5, 3)
        numbers = np.arange(batch)

        def gather(rows: Rows, out: Images) -> None:
            n = len(rows)
            np.take(images, rows, 0, out=out, mode="clip")
            inner[:n] = out
            # A window that begins p below the border's corner is the image unmoved.
            out[...] = windows[numbers[:n], p - down[rows], p - right[rows]]

        return gather

    def moves(self, seed: int, epoch: int, count: int) -> tuple[Rows, Rows]:
        """By how many pixels each of the images moves down and to the right.

        The upper and the lower half of its random word, modulo the number of moves.
        """
        words = philox.bits(seed, STREAM, epoch, count).astype(np.int64)
        each = 2 * self.pixels + 1
        return (words >> 16) % each - self.pixels, (words & 0xFFFF) % each - self.pixels
