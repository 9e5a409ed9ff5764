"""Where a training run's batches come from: the host, or the device itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convc.data.augment import UNCHANGED, Augmentation
from convc.data.batches import Dataset
from convc.engines.base import NoRoom, Resident
from convc.ir.ops.base import Array
from convc.program import Program
from convc.runtime.evaluation import image_input

HostFeedOf = Callable[[Program, Dataset, Augmentation, int], Resident]
"""Makes the feed of the host: for a program, data, what changes them, and the seed."""


def feed_of(
    program: Program,
    data: Dataset,
    graphed: int,
    say: Callable[[str], None],
    augment: Augmentation = UNCHANGED,
    seed: int = 0,
    host: HostFeedOf | None = None,
) -> Resident:
    """Steps of ``program`` on a data set, kept on the device where that is of use.

    If the device has no room for it, ``say`` is told so, and the host feeds; so it does
    where images are changed, by ``augment`` with that seed. It is a ``HostFeed`` that
    does, or what ``host`` makes of the same arguments.
    """
    host = host or HostFeed
    if augment != UNCHANGED:
        if program.backend.startswith("triton"):
            say(
                f"notice: the host makes the images of {augment!r} and copies them "
                "batch by batch, which is slower"
            )
        return host(program, data, augment, seed)
    images, labels = (image_input(program.graph), data.images), ("labels", data.labels)
    try:
        resident = program.resident(images, labels, graphed)
    except NoRoom as reason:
        say(f"notice: {reason}; they are copied there batch by batch, which is slower")
        resident = None
    return resident or host(program, data, augment, seed)


class HostFeed:
    """Gathers each batch into the program's inputs, step by step.

    Images are changed on the way, by ``augment`` with that seed.
    """

    interval = 1

    def __init__(
        self,
        program: Program,
        data: Dataset,
        augment: Augmentation = UNCHANGED,
        seed: int = 0,
    ) -> None:
        self._program, self._data = program, data
        self._augment, self._seed = augment, seed
        self._image = image_input(program.graph)
        self._order: np.ndarray[Any, Any] = np.arange(0)
        self._at = 0

    def begin(self, order: Array, batch: int, epoch: int) -> None:
        """The next step is on batch number ``batch`` of the images in that order."""
        self._order, self._at = order, batch
        images, most = self._data.images, self._program.batch
        self._gather = self._augment.gathering(images, most, self._seed, epoch)

    def steps(self, number: int) -> list[tuple[float, int]]:
        """Loss and right answers of each of the next steps."""
        return [self._step() for _ in range(number)]

    def _step(self) -> tuple[float, int]:
        outputs = self.run(self.gather())
        return float(outputs["loss"]), int(outputs["correct"])

    def gather(self) -> int:
        """Put the next batch into the program's inputs; how many images it has."""
        program, size = self._program, self._program.batch
        rows = self._order[self._at * size : (self._at + 1) * size]
        self._at += 1
        images = program.input(self._image, len(rows))
        self._gather(rows, images)
        labels = program.input("labels", len(rows))
        np.take(self._data.labels, rows, 0, out=labels, mode="clip")
        return len(rows)

    def run(self, n: int) -> dict[str, Array]:
        """One step on the ``n`` images in the inputs."""
        # What overflows is reported by the loop, in place of NumPy's warning.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self._program.run(n)
