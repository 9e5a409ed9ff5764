"""How long a network takes to reach an accuracy, over several seeds.

Each seed is a run of its own, compiled anew, so that every second is measured: the
run trains as ``fit`` does, to the same bits, and ends with the first test that
reaches the target. Its seconds are told apart by what they went into:

- compile: the passes, the emission, loading what was emitted, the first weights
- data: reading them, the order of an epoch, gathering batches
- kernels: the steps of the training program, launch and outputs included
- test: the test images after each epoch, or more often
- host: the rest, which is the loop

Where a device keeps the data, it gathers the batches itself, as part of its steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from convc.data.augment import UNCHANGED, Augmentation
from convc.data.batches import SHUFFLE_STREAM, Dataset, batch_count
from convc.engines import targeted
from convc.engines.base import Resident
from convc.ir import philox
from convc.ir.errors import RunError
from convc.ir.ops.base import Array
from convc.losses import softmax_cross_entropy
from convc.optimizers import Adam, Optimizer
from convc.runtime.evaluation import evaluate
from convc.runtime.feed import HostFeed, feed_of
from convc.runtime.trainer import refuse_dataset, refuse_runtime_rate

if TYPE_CHECKING:
    from convc.model import Model

PARTS = ("compile", "data", "kernels", "test", "host")
"""What the seconds of a run are split into."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Lap:
    """One seed's run: up to the target, or to where it was given up.

    ``epochs`` may have a fraction where there are tests within epochs; ``accuracy`` is
    that of the last test, 0 .. 1; ``seconds`` are the sum of the ``split``. ``fault``
    says why a run broke off that did not see all its epochs.
    """

    seed: int
    reached: bool
    epochs: float
    steps: int
    accuracy: float
    seconds: float
    split: Mapping[str, float]
    fault: str = ""


@dataclass(frozen=True)
class Race:
    """The laps of all seeds; medians and spreads are of those that got there."""

    target: float
    laps: tuple[Lap, ...]

    @property
    def finished(self) -> tuple[Lap, ...]:
        """The laps that reached the target."""
        return tuple(lap for lap in self.laps if lap.reached)

    def summary(self) -> dict[str, tuple[float, float, float]]:
        """Of epochs, seconds and each part: the median, the lowest and the highest.

        Empty where no lap reached the target.
        """
        rows = [
            {"epochs": lap.epochs, "seconds": lap.seconds, **lap.split}
            for lap in self.finished
        ]
        columns = {name: [row[name] for row in rows] for name in (rows or [{}])[0]}
        return {name: (median(c), min(c), max(c)) for name, c in columns.items()}

    def as_json(self) -> dict[str, Any]:
        """The race as plain JSON."""
        summary = self.summary()
        return {
            "target": self.target,
            "laps": [asdict(lap) for lap in self.laps],
            "median": {name: s[0] for name, s in summary.items()},
            "spread": {name: s[1:] for name, s in summary.items()},
        }


@dataclass(frozen=True)
class Course:
    """What is the same for every seed: the target in percent, and how to train.

    Without an ``optimizer`` it is Adam(0.001). ``test_every`` steps there is a test
    beside those after each epoch. ``read`` are the seconds that it took to read the
    data, which each run would have needed. RunError for what cannot be meant.
    """

    target: float
    epochs: int = 20
    batch: int = 128
    backend: str = "numpy"
    device: str | None = None
    threads: int | None = None
    optimizer: Optimizer = field(default_factory=lambda: Adam(1e-3))
    augment: Augmentation = UNCHANGED
    test_every: int | None = None
    read: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.target <= 100:
            raise RunError(
                "race: the target is an accuracy above 0 and up to 100 percent, "
                f"and is {self.target:g}"
            )
        counts = {"epochs": self.epochs, "test_every": self.test_every}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise RunError(f"race: {name} must be at least 1, and is {value}")


def race(
    model: Model,
    train: Dataset,
    test: Dataset,
    course: Course,
    seeds: Sequence[int] = range(3),
    say: Say = lambda _: None,
) -> Race:
    """Train the model once for each seed until a test reaches the target.

    ``say`` is given a line for each test. RunError for data that do not fit.
    """
    for dataset in train, test:
        refuse_dataset(model, dataset)
    laps = (_Runner(model, (train, test), course, seed, say).run() for seed in seeds)
    return Race(course.target, tuple(laps))


class _Clock:
    """Seconds by what they went into; ``host`` is what nothing else has."""

    def __init__(self, read: float) -> None:
        self._began = perf_counter() - read
        self._spent = {**dict.fromkeys(PARTS, 0.0), "data": read}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = perf_counter()
        yield
        self._spent[part] += perf_counter() - began

    def split(self) -> dict[str, float]:
        """The parts up to now, which sum up to all the time there was."""
        rest = perf_counter() - self._began - sum(self._spent.values())
        return {**self._spent, "host": rest}


class _TimedHost(HostFeed):
    """A feed of the host that tells gathering from running."""

    def __init__(self, clock: _Clock, *what: Any) -> None:
        super().__init__(*what)
        self._clock = clock

    def gather(self) -> int:
        with self._clock("data"):
            return super().gather()

    def run(self, n: int) -> dict[str, Array]:
        with self._clock("kernels"):
            return super().run(n)


class _TimedDevice:
    """A feed of a device, whose steps gather too."""

    def __init__(self, inner: Resident, clock: _Clock) -> None:
        self._inner, self._clock = inner, clock
        self.interval = inner.interval

    def begin(self, order: Array, batch: int, epoch: int) -> None:
        self._inner.begin(order, batch, epoch)

    def steps(self, number: int) -> list[tuple[float, int]]:
        with self._clock("kernels"):
            return self._inner.steps(number)


class _Runner:
    """One seed, from the compiler to the target or the end of the epochs."""

    def __init__(
        self,
        model: Model,
        data: tuple[Dataset, Dataset],
        course: Course,
        seed: int,
        say: Say,
    ) -> None:
        self._clock = clock = _Clock(course.read)
        self._train, self._test = data
        self._course, self._seed, self._say = course, seed, say
        self._step, self._accuracy, self._reached = 0, 0.0, False
        self._per_epoch = batch_count(len(self._train), course.batch)
        with clock("compile"):
            backend = targeted(course.backend, course.device)
            options = (backend, course.batch, course.threads, False, course.device)
            optimizer = course.optimizer
            trained = model.training_step(softmax_cross_entropy, optimizer)
            self._program = trained.compile(*options)
            refuse_runtime_rate(self._program)
            self._evaluator = model.evaluation_step().compile(*options)
            self._program.initialize(seed)
        with clock("data"):
            self._feed = self._timed_feed()

    def _timed_feed(self) -> Resident:
        feed = feed_of(
            self._program,
            self._train,
            1,
            self._say,
            self._course.augment,
            self._seed,
            partial(_TimedHost, self._clock),
        )
        host = isinstance(feed, _TimedHost)
        return feed if host else _TimedDevice(feed, self._clock)

    def run(self) -> Lap:
        """The lap."""
        fault = ""
        for epoch in range(self._course.epochs):
            fault = self._epoch(epoch)
            if fault or self._reached:
                break
        split = self._clock.split()
        return Lap(
            seed=self._seed,
            reached=self._reached,
            epochs=self._epochs,
            steps=self._step,
            accuracy=self._accuracy,
            seconds=sum(split.values()),
            split=split,
            fault=fault,
        )

    @property
    def _epochs(self) -> float:
        return self._step / self._per_epoch

    def _epoch(self, epoch: int) -> str:
        """Train an epoch, or up to the target; what went wrong, if something did."""
        images, every = len(self._train), self._course.test_every
        with self._clock("data"):
            order = philox.permutation(self._seed, SHUFFLE_STREAM, epoch, images)
            self._feed.begin(order, 0, epoch)
        left = self._per_epoch
        while left and not self._reached:
            until_test = every - self._step % every if every else left
            records = self._feed.steps(min(left, self._feed.interval, until_test))
            for loss, _ in records:
                if not math.isfinite(loss):
                    return f"the loss is {loss} at step {self._step}"
                self._step += 1
            left -= len(records)
            if not left or (every and self._step % every == 0):
                self._try()
        return ""

    def _try(self) -> None:
        """Test, and see whether that is enough."""
        with self._clock("test"):
            self._evaluator.load(self._program.parameters)
            _, self._accuracy = evaluate(self._evaluator, self._test)
        # 9,910 of 10,000 are 99.1 percent, however that is rounded.
        self._reached = 100 * self._accuracy >= self._course.target - 1e-9
        seconds = sum(self._clock.split().values())
        self._say(
            f"seed {self._seed}  epoch {self._epochs:g}  "
            f"accuracy/test {100 * self._accuracy:.2f} %  {seconds:.1f} s"
        )
