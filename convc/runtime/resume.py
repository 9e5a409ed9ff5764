"""Where a training run stands, and whether a checkpoint belongs to it.

A checkpoint holds every entry of ``program.parameters`` and, in its meta, the
``Settings`` of the run and its ``Position``. The random numbers need no state of
their own: they are functions of the seed, the epoch and the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convc.data.augment import UNCHANGED
from convc.ir.errors import ConvcError, RunError
from convc.runtime.checkpoint import SCORE, Checkpoint, CheckpointError
from convc.runtime.history import Epoch


@dataclass(frozen=True)
class Settings:
    """What decides the bits of a run.

    The first group must be the same when it is resumed. ``backend`` and ``threads``
    may change, and then so may the last bits of what is computed.
    """

    network: str
    data: str
    images: int
    batch: int
    seed: int
    optimizer: str
    loss: str
    backend: str
    threads: int
    precision: str = "fp32"
    augment: str = repr(UNCHANGED)
    exact: bool = False


_ONCE = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
"""What runs were whose checkpoints do not say it."""

_MAY_CHANGE = ("backend", "threads")


@dataclass
class Position:
    """How far a run is: the epoch it is in (from 0) and the batches done in it.

    ``seen`` images of the epoch gave the ``loss_sum`` and ``correct`` so far, in
    ``seconds``; ``records`` are the epochs that are done.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seen: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    records: list[Epoch] = field(default_factory=list)

    def count(self, images: int, loss: float, correct: int) -> None:
        """One more batch of that many images is done."""
        self.step += 1
        self.batch += 1
        self.seen += images
        self.loss_sum += images * loss
        self.correct += correct

    def end_epoch(self, tested: tuple[float, float] | None) -> Epoch:
        """Close the epoch with the test's loss and accuracy; its record."""
        record = Epoch(
            number=self.epoch + 1,
            loss=self.loss_sum / self.seen,
            accuracy=self.correct / self.seen,
            test_loss=tested[0] if tested else None,
            test_accuracy=tested[1] if tested else None,
            seconds=self.seconds,
            images_per_second=self.seen / max(self.seconds, 1e-9),
        )
        self.records.append(record)
        self.epoch += 1
        self.batch = self.seen = self.correct = 0
        self.loss_sum = self.seconds = 0.0
        return record


def checkpoint_meta(settings: Settings, position: Position) -> dict[str, Any]:
    """The meta of a checkpoint: settings, position, and at an epoch's end a score."""
    meta: dict[str, Any] = {"settings": asdict(settings), "position": asdict(position)}
    last = position.records[-1] if position.records else None
    if position.batch == 0 and last is not None and last.test_accuracy is not None:
        meta[SCORE] = last.test_accuracy
    return meta


def position_in(
    checkpoint: Checkpoint,
    settings: Settings,
    parameters: Mapping[str, NDArray[Any]],
) -> tuple[Position, str]:
    """Where a checkpoint of the same run, with ``parameters`` of this form, stands.

    The position to go on from, and a notice for the person ("" if there is none).
    CheckpointError if the checkpoint is of another run, or does not fit the program;
    every setting that differs is named with both values.
    """
    stored = checkpoint.meta.get("settings")
    position = _position(checkpoint)
    if not isinstance(stored, dict) or position is None:
        raise CheckpointError(
            f"{checkpoint.path}: a run's checkpoint holds its settings and its "
            "position, and this one does not; it was saved by something else"
        )
    stored, now = {**_ONCE, **stored}, asdict(settings)
    differing = {k: (stored.get(k), v) for k, v in now.items() if stored.get(k) != v}
    refused = [
        f"{name} was {was!r} and is now {is_now!r}"
        for name, (was, is_now) in differing.items()
        if name not in _MAY_CHANGE
    ]
    if refused:
        raise CheckpointError(
            f"{checkpoint.path}: a run is resumed as it was begun; "
            f"{'; '.join(refused)}. Give the former values, or another run directory"
        )
    _refuse_misfit(checkpoint, parameters)
    changed = ", ".join(
        f"{name} was {was} and is now {is_now}"
        for name, (was, is_now) in differing.items()
    )
    notice = f"{changed}: the last bits may differ from an uninterrupted run's"
    return position, notice if changed else ""


def _position(checkpoint: Checkpoint) -> Position | None:
    """The position in a checkpoint's meta, if there is one."""
    try:
        stored = dict(checkpoint.meta["position"])
        records = [Epoch.from_json(record) for record in stored.pop("records")]
        return Position(**stored, records=records)
    except (LookupError, TypeError, ValueError, ConvcError):
        return None


def _refuse_misfit(
    checkpoint: Checkpoint, parameters: Mapping[str, NDArray[Any]]
) -> None:
    """CheckpointError unless names, shapes and dtypes are exactly the same."""
    saved = {name: (a.shape, a.dtype) for name, a in checkpoint.tensors.items()}
    needed = {name: (a.shape, a.dtype) for name, a in parameters.items()}
    if saved != needed:
        name = next(n for n in {**needed, **saved} if saved.get(n) != needed.get(n))
        raise CheckpointError(
            f"{checkpoint.path}: does not fit the program; {name} is "
            f"{_form(saved.get(name))} in the checkpoint and {_form(needed.get(name))} "
            "in the program; the network's definition has changed since"
        )


def _form(form: tuple[tuple[int, ...], np.dtype[Any]] | None) -> str:
    """The dtype and shape of a tensor for a person."""
    return f"{form[1].name}{list(form[0])}" if form else "absent"


def refuse_infinite(parameters: Mapping[str, NDArray[Any]], where: str) -> None:
    """RunError if a parameter holds NaN or infinity: it would spoil a checkpoint."""
    for name, array in parameters.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise not_finite(name, float(array[~np.isfinite(array)][0]), where)


def not_finite(what: str, value: float, where: str) -> RunError:
    """The error for a loss or a weight that is no longer a number."""
    shown = "NaN" if math.isnan(value) else "infinite"
    return RunError(
        f"{what} is {shown} {where}; training cannot go on from here. "
        "Use a smaller learning rate (a tenth, say), and look for pixels or labels "
        "that are out of range"
    )
