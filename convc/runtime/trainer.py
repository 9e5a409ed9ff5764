"""The training loop: feeds batches to a compiled step and keeps the run's records.

All arithmetic of a step, the optimizer's too, is in the compiled program. The loop
shuffles, counts, reports, tests after each epoch, and saves checkpoints; every one of
them can be continued to the same bits as if nothing had happened.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.data.batches import SHUFFLE_STREAM, Dataset, batch_count
from convc.engines import targeted
from convc.ir import philox
from convc.ir.errors import RunError
from convc.losses import softmax_cross_entropy
from convc.optimizers import RATE_INPUT, Optimizer
from convc.runtime.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    weights_digest,
)
from convc.runtime.evaluation import (
    check_dataset,
    evaluate,
    trained,
)
from convc.runtime.feed import feed_of
from convc.runtime.history import Epoch, History
from convc.runtime.interrupt import Interruption
from convc.runtime.metrics import MetricsLog
from convc.runtime.progress import EpochProgress
from convc.runtime.resume import (
    Position,
    Settings,
    checkpoint_meta,
    not_finite,
    position_in,
    refuse_infinite,
)

if TYPE_CHECKING:
    from convc.data.augment import Augmentation
    from convc.model import Model
    from convc.pipeline import Step
    from convc.program import Program
    from convc.recipes import Recipe

CHECKPOINTS = "checkpoints"
"""The folder of a run directory that holds the checkpoints."""


def fit(
    model: Model,
    train: Dataset,
    validation: Dataset | None = None,
    epochs: int | None = None,
    *,
    batch: int | None = None,
    backend: str = "numpy",
    device: str | None = None,
    optimizer: Optimizer | None = None,
    augment: Augmentation | None = None,
    loss: Callable[..., Any] = softmax_cross_entropy,
    seed: int = 0,
    threads: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    steps_per_graph: int = 1,
    progress: bool = True,
    check: bool = False,
) -> History:
    """Train a model; its history, whose program holds the trained weights.

    The images are shuffled anew in each epoch, and the last batch may be smaller. If
    ``epochs``, ``batch``, ``optimizer`` or ``augment`` is None, it is that of the
    model's ``recipe``; the precision is the model's. After each epoch the
    ``validation`` images are tested. With ``progress`` the memory plan, a bar and a
    line per epoch are shown; ``check`` has every compiler pass checked.

    A GPU (for ``device`` see ``Program``) gathers the batches itself, from images that
    are copied there once, and makes ``steps_per_graph`` steps of a launch. The host
    looks every 100 steps: so many more may be run at Ctrl-C, or after a NaN.

    A run ``directory`` gets metrics.jsonl and checkpoints/, one at each epoch's end
    and one every ``checkpoint_every`` steps. ``resume`` goes on from the newest, with
    the same data, batch, seed, network, optimizer, augmentation and loss, and ends with
    the same bits as an uninterrupted run. Ctrl-C ends the step, saves a checkpoint, and
    raises KeyboardInterrupt with what to do.

    RunError for arguments or data that do not fit, before any work, and for a loss
    that is NaN or infinite; CheckpointError where nothing can be resumed.
    """
    _refuse(epochs, batch, checkpoint_every, steps_per_graph, directory, resume)
    backend = targeted(backend, device)
    asked = {"epochs": epochs, "batch": batch, "optimizer": optimizer}
    recipe = model.recipe.but(**asked, augment=augment)
    for dataset in filter(None, (train, validation)):
        refuse_dataset(model, dataset)
    log = _Log(Path(directory) if directory else None, resume)

    def build(step: Step) -> Program:
        return step.compile(backend, recipe.batch, threads, check, device)

    program = build(model.training_step(loss=loss, optimizer=recipe.optimizer))
    refuse_runtime_rate(program)
    program.initialize(seed)
    evaluator = build(model.evaluation_step(loss=loss)) if validation else None
    settings = _settings(model, program, train, seed, recipe, loss)
    work = _Work(program, evaluator, train, validation, recipe, settings)
    return _Run(work, log, checkpoint_every, steps_per_graph, progress).run()


def _settings(
    model: Model,
    program: Program,
    train: Dataset,
    seed: int,
    recipe: Recipe,
    loss: Callable[..., Any],
) -> Settings:
    """What decides the run's bits."""
    return Settings(
        network=model.name,
        data=train.name,
        images=len(train),
        batch=program.batch,
        seed=seed,
        optimizer=repr(recipe.optimizer),
        loss=getattr(loss, "__name__", type(loss).__name__),
        backend=program.backend,
        threads=program.threads,
        precision=model.precision,
        exact=model.exact,
        augment=repr(recipe.augment),
    )


@dataclass(frozen=True, eq=False)
class _Work:
    """What is trained, on what, and how long."""

    program: Program
    evaluator: Program | None
    train: Dataset
    validation: Dataset | None
    recipe: Recipe
    settings: Settings

    @property
    def epochs(self) -> int:
        """How many there are in all."""
        return self.recipe.epochs


class _Log:
    """The run directory, or nothing at all where none was asked for.

    CheckpointError if a new run would mix its checkpoints with those of another.
    """

    def __init__(self, directory: Path | None, resume: bool) -> None:
        self.directory, self.resume = directory, resume
        self.last_saved: int | None = None
        if directory is None:
            return
        self.checkpoints = directory / CHECKPOINTS
        used = any(self.checkpoints.glob("step-*.json"))
        if used and not resume:
            raise CheckpointError(
                f"{directory}: holds the checkpoints of a run already; "
                "resume it, or name another run directory"
            )
        if resume and not used:
            raise CheckpointError(
                f"{directory}: holds no checkpoint to resume from; "
                "begin the run without resume"
            )

    def load(self, work: _Work, say: Callable[[str], None]) -> Position:
        """The position to begin at; restores the program where one is resumed."""
        if not self.resume:
            return Position()
        checkpoint = load_checkpoint(self.checkpoints)
        position, notice = position_in(
            checkpoint, work.settings, work.program.parameters
        )
        work.program.load(checkpoint.tensors)
        for passed_over in checkpoint.skipped:
            say(f"passed over: {passed_over}")
        if notice:
            say(f"notice: {notice}")
        say(f"resuming after step {position.step} in epoch {position.epoch + 1}")
        self.last_saved = position.step
        return position

    def save(self, work: _Work, position: Position) -> None:
        """Save a checkpoint unless this step has one; RunError if it holds NaN."""
        if self.directory is None or self.last_saved == position.step:
            return
        parameters = work.program.parameters
        refuse_infinite(parameters, _after(position))
        meta = checkpoint_meta(work.settings, position)
        save_checkpoint(self.checkpoints, position.step, parameters, meta)
        self.last_saved = position.step


class _Run:
    """One run of the loop, from where it stands to the end."""

    def __init__(
        self,
        work: _Work,
        log: _Log,
        checkpoint_every: int | None,
        graphed: int,
        progress: bool,
    ) -> None:
        self._work, self._log, self._graphed = work, log, graphed
        self._say = _say if progress else _say_nothing
        self._every, self._progress = checkpoint_every, progress
        self._metrics: MetricsLog | None = None
        self._interruption = Interruption()

    def run(self) -> History:
        """Train to the end; see ``fit``."""
        work = self._work
        self._say(f"training {work.program.memory}")
        if work.evaluator is not None:
            self._say(f"testing {work.evaluator.memory}")
        self._at = self._log.load(work, self._say)
        directory = self._log.directory
        opened = MetricsLog(directory) if directory else nullcontext()
        if self._at.epoch >= work.epochs:
            self._say(f"nothing is left to train: {self._at.epoch} epochs are done")
        with opened as self._metrics, self._interruption:
            if self._metrics is not None and self._log.resume:
                # Points count from step 0: the last one kept is of the step before.
                self._metrics.truncate_after(self._at.step - 1)
            if self._at.epoch < work.epochs:
                self._feed = feed_of(
                    *(work.program, work.train, self._graphed, self._say),
                    *(work.recipe.augment, work.settings.seed),
                )
            while self._at.epoch < work.epochs:
                self._train_epoch()
                self._end_epoch()
        weights = trained(work.program)
        digest = weights_digest(weights)
        self._conclude(digest)
        return History(tuple(self._at.records), work.program, digest)

    def _train_epoch(self) -> None:
        """The batches that are left of the epoch the run is in."""
        work, at = self._work, self._at
        size, images = work.settings.batch, len(work.train)
        order = philox.permutation(work.settings.seed, SHUFFLE_STREAM, at.epoch, images)
        bar = EpochProgress(at.epoch + 1, work.epochs, images, done=at.seen)
        with bar if self._progress else nullcontext() as shown:
            self._feed.begin(order, at.batch, at.epoch)
            while left := batch_count(images, size) - at.batch:
                self._pause()
                for n, loss, correct in self._steps(left):
                    if shown is not None:
                        shown.update(n, loss, correct / n)
                if self._every and at.step % self._every == 0:
                    self._log.save(work, at)

    def _steps(self, left: int) -> list[tuple[int, float, int]]:
        """Train until it is worth looking; of each step images, loss, right answers."""
        at, size, images = self._at, self._work.settings.batch, len(self._work.train)
        until_save = self._every - at.step % self._every if self._every else left
        began = time.perf_counter()
        records = self._feed.steps(min(left, self._feed.interval, until_save))
        at.seconds += time.perf_counter() - began
        done = []
        for loss, correct in records:
            n = min(size, images - at.batch * size)
            if not math.isfinite(loss):
                where = (
                    f"at step {at.step} (epoch {at.epoch + 1}, batch {at.batch + 1})"
                )
                raise not_finite("the loss", loss, where)
            if self._metrics is not None:
                self._metrics.log("loss/train", loss, at.step)
            at.count(n, loss, correct)
            done.append((n, loss, correct))
        return done

    def _end_epoch(self) -> None:
        """Test, record, save."""
        work, at = self._work, self._at
        where = _after(at)
        refuse_infinite(work.program.parameters, where)
        tested = None
        if work.evaluator is not None and work.validation is not None:
            work.evaluator.load(work.program.parameters)
            tested = evaluate(work.evaluator, work.validation, between=self._pause)
            if not math.isfinite(tested[0]):
                raise not_finite("the loss on the test images", tested[0], where)
        record = at.end_epoch(tested)
        self._log_epoch(record, at.step - 1)
        self._log.save(work, at)
        self._say(record.line(work.epochs))

    def _log_epoch(self, record: Epoch, step: int) -> None:
        """The epoch's points, at its last step."""
        points = {
            "accuracy/train": record.accuracy,
            "loss/test": record.test_loss,
            "accuracy/test": record.test_accuracy,
            "images_per_second": record.images_per_second,
        }
        for tag, value in points.items():
            if self._metrics is not None and value is not None:
                self._metrics.log(tag, value, step)

    def _pause(self) -> None:
        """Between two batches: if Ctrl-C was pressed, save and leave."""
        if not self._interruption.requested:
            return
        self._log.save(self._work, self._at)
        step = self._at.step
        if self._log.directory is None:
            kept = "nothing was kept; a run directory keeps checkpoints to resume from"
        else:
            kept = f"{self._log.checkpoints} holds all of it; resume the run to go on"
        raise KeyboardInterrupt(f"interrupted after step {step}: {kept}")

    def _conclude(self, digest: str) -> None:
        """The last lines for a person."""
        accuracy, tested = self._at.records[-1].test_accuracy, self._work.validation
        if accuracy is not None and tested is not None:
            right, images = round(accuracy * len(tested)), len(tested)
            self._say(
                f"test accuracy {100 * accuracy:.2f} % "
                f"({right:,} of {images:,} images of {tested.name})"
            )
        self._say(f"sha256 of the weights: {digest}")


def _after(at: Position) -> str:
    """Where a run stands, for an error about its parameters."""
    return f"after step {at.step} (epoch {at.epoch + 1})"


def _refuse(
    epochs: int | None,
    batch: int | None,
    checkpoint_every: int | None,
    steps_per_graph: int,
    directory: str | os.PathLike[str] | None,
    resume: bool,
) -> None:
    """RunError for arguments of fit that cannot be meant."""
    counts = {"epochs": epochs, "batch": batch, "checkpoint_every": checkpoint_every}
    counts["steps_per_graph"] = steps_per_graph
    for name, value in counts.items():
        if value is not None and value < 1:
            raise RunError(f"fit: {name} must be at least 1, and is {value}")
    for name, given in ("resume", resume), ("checkpoint_every", checkpoint_every):
        if given and directory is None:
            raise RunError(f"fit: {name} needs the directory of the run")


def refuse_dataset(model: Model, dataset: Dataset) -> None:
    """RunError if the images or the labels do not fit the model."""
    check_dataset(model.graph, dataset)
    classes = model.graph.outputs[0][1].type.shape[-1]
    highest = int(dataset.labels.max())
    if isinstance(classes, int) and highest >= classes:
        raise RunError(
            f"{model.name}: tells {classes} classes apart (labels 0 .. {classes - 1}), "
            f"and the highest label of {dataset.name} is {highest}"
        )


def refuse_runtime_rate(program: Program) -> None:
    """RunError if the program wants a learning rate, which the loop has not got."""
    if any(value.name == RATE_INPUT for value in program.graph.inputs):
        raise RunError(
            f"{program.graph.name}: fit has no learning rate to feed at run time; give "
            "the optimizer a number or a schedule, or run the program's steps yourself"
        )


def _say(line: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _say_nothing(_: str) -> None:
    """Nothing."""
