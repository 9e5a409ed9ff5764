"""A data set on the device, and training steps that gather their batches there.

The host gives the order of an epoch and reads what the steps gave; in between it only
launches. A step is three things: the batch is gathered, the program runs, and loss and
right answers are noted in a log that has a place for each batch of the epoch.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.data.batches import batch_count
from convc.engines.device import Call, fetched, uploaded
from convc.ir.ops.base import Array

if TYPE_CHECKING:
    from convc.engines.triton_engine import TritonEngine

_BLOCK = 1024


class DeviceBatches:
    """See ``Resident``. ``graphed`` steps are one CUDA graph, the rest one by one."""

    def __init__(
        self,
        engine: TritonEngine,
        images: tuple[str, Array],
        labels: tuple[str, Array],
        graphed: int,
    ) -> None:
        import torch

        self._engine, self._graphed = engine, graphed
        self.interval = engine.device.interval
        self._inputs, self._total = (images[0], labels[0]), len(labels[1])
        self._row = images[1][0].size
        self._count = batch_count(self._total, engine.arena.batch)

        def new(size: int, dtype: Any) -> Any:
            return torch.zeros(size, dtype=dtype, device=engine.device.place)

        self._pictures = new(images[1].size, torch.float32)
        self._answers = new(self._total, torch.int32)
        self._order, self._number = (new(s, torch.int32) for s in (self._total, 1))
        kinds = (engine.emitted.array(f"-> {n}").dtype for n in ("loss", "correct"))
        self._losses, self._corrects = (new(self._count, kind) for kind in kinds)
        uploaded(self._pictures, images[1].reshape(-1))
        uploaded(self._answers, labels[1])
        self._at = 0

    def begin(self, order: Array, batch: int, epoch: int) -> None:
        """Upload the order; the next step is on batch number ``batch`` of it.

        What else the program reads, numbers that it is fed, is uploaded too. The
        ``epoch`` changes nothing: the images stay as they are.
        """
        with self._engine.device.active():
            uploaded(self._order, order.astype(np.int32))
            self._number.fill_(batch)
            if not self._engine.device.live:
                for value in self._engine.graph.inputs:
                    if value.name not in self._inputs:
                        self._engine.upload(value.name, self._engine.arena.batch)
        self._at = batch

    def steps(self, number: int) -> list[tuple[float, int]]:
        """Launch the steps and wait for their records."""
        first, self._at = self._at, self._at + number
        self._engine.images_set = None  # take_batch says how many there are
        with self._engine.device.active():
            together, alone = divmod(number, self._graphed)
            for _ in range(together):
                self._several()
            for _ in range(alone):
                self._one()
            losses = fetched(self._losses[first : self._at])
            corrects = fetched(self._corrects[first : self._at])
        return [(float(a), int(b)) for a, b in zip(losses, corrects, strict=True)]

    @cached_property
    def _one(self) -> Call:
        return self._captured(1)

    @cached_property
    def _several(self) -> Call:
        return self._one if self._graphed == 1 else self._captured(self._graphed)

    def _captured(self, count: int) -> Call:
        kept = [*self._engine.kept, self._number]
        return self._engine.device.captured(self._step, count, kept)

    def _step(self) -> None:
        """Gather, run, note."""
        from convc.engines.feeding import keep_record, take_batch

        engine, (image, label) = self._engine, self._inputs
        emitted, batch = engine.emitted, engine.arena.batch
        block = min(_BLOCK, 1 << (self._row - 1).bit_length())
        take_batch[(batch * -(-self._row // block),)](
            self._number,
            self._order,
            self._pictures,
            self._answers,
            emitted.at("!images"),
            emitted.array(image),
            emitted.array(label),
            TOTAL=self._total,
            BATCH=batch,
            ROW=self._row,
            BLOCK=block,
        )
        engine.launch_all()
        keep_record[(1,)](
            self._number,
            emitted.array("-> loss"),
            emitted.array("-> correct"),
            self._losses,
            self._corrects,
            COUNT=self._count,
            num_warps=1,
        )
