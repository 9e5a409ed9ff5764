"""Where a training run's batches come from: the host, or the device itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convc.data.batches import Dataset
from convc.engines.base import NoRoom, Resident
from convc.ir.ops.base import Array
from convc.program import Program
from convc.runtime.evaluation import image_input


def feed_of(
    program: Program,
    data: Dataset,
    graphed: int,
    say: Callable[[str], None],
    host: Callable[[Program, Dataset], Resident] | None = None,
) -> Resident:
    """Steps of ``program`` on a data set, kept on the device where that is of use.

    If the device has no room for it, ``say`` is told so, and the host feeds: with
    what ``host`` makes, or a ``HostFeed``.
    """
    images, labels = (image_input(program.graph), data.images), ("labels", data.labels)
    try:
        resident = program.resident(images, labels, graphed)
    except NoRoom as reason:
        say(f"notice: {reason}; they are copied there batch by batch, which is slower")
        resident = None
    return resident or (host or HostFeed)(program, data)


class HostFeed:
    """Gathers each batch into the program's inputs, step by step."""

    interval = 1

    def __init__(self, program: Program, data: Dataset) -> None:
        self._program, self._data = program, data
        self._image = image_input(program.graph)
        self._order: np.ndarray[Any, Any] = np.arange(0)
        self._at = 0

    def begin(self, order: Array, batch: int) -> None:
        """The next step is on batch number ``batch`` of the images in that order."""
        self._order, self._at = order, batch

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
        # The rows are in range; mode="raise" would gather into a temporary first.
        np.take(self._data.images, rows, 0, out=images, mode="clip")
        labels = program.input("labels", len(rows))
        np.take(self._data.labels, rows, 0, out=labels, mode="clip")
        return len(rows)

    def run(self, n: int) -> dict[str, Array]:
        """One step on the ``n`` images in the inputs."""
        # What overflows is reported by the loop, in place of NumPy's warning.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self._program.run(n)
