"""A race trains as ``fit`` does, stops at the target, and accounts for its seconds."""

from typing import Any

import numpy as np
import pytest

from convc import racing
from convc.data.augment import UNCHANGED, Augmentation, Shifts
from convc.data.batches import Dataset
from convc.ir.errors import RunError
from convc.layers import dense, flatten
from convc.model import Model
from convc.optimizers import SGD, Adam
from convc.racing import PARTS, Course, Lap, Race, race
from convc.runtime.evaluation import evaluate
from convc.runtime.trainer import fit
from convc.tracing import Tensor


def tiny(image: Tensor) -> Tensor:
    return dense(flatten(image), 4, name="logits")


def quadrants(count: int, seed: int) -> Dataset:
    """The quarter of a 4x4 image that is bright is the label."""
    random = np.random.default_rng(seed)
    images = random.random((count, 4, 4, 1), dtype=np.float32)
    labels = random.integers(0, 4, count).astype(np.int32)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 0.5
    return Dataset(images, labels, "quadrants")


TRAIN, TEST = quadrants(40, 1), quadrants(30, 2)


def course(target: float, **changes: Any) -> Course:
    settings = {"batch": 16, "threads": 1, "optimizer": Adam(0.05), **changes}
    return Course(target, **settings)


def run(on: Course, seeds: range = range(2)) -> Race:
    return race(Model(tiny, image="f32[N,4,4,1]"), TRAIN, TEST, on, seeds)


@pytest.mark.parametrize("augment", [UNCHANGED, Shifts(1)], ids=repr)
def test_a_lap_is_what_fit_trains(
    monkeypatch: pytest.MonkeyPatch, augment: Augmentation
) -> None:
    """Its tests give the same loss, to the last bit."""
    seen: list[tuple[float, float]] = []

    def noted(*arguments: Any) -> tuple[float, float]:
        seen.append(evaluate(*arguments))
        return seen[-1]

    monkeypatch.setattr(racing, "evaluate", noted)
    raced = run(course(100, epochs=2, augment=augment), range(5, 6))
    history = fit(
        Model(tiny, image="f32[N,4,4,1]"),
        *(TRAIN, TEST, 2),
        batch=16,
        threads=1,
        optimizer=Adam(0.05),
        augment=augment,
        seed=5,
        progress=False,
    )
    assert seen == [(e.test_loss, e.test_accuracy) for e in history.epochs]
    (lap,) = raced.laps
    assert (lap.seed, lap.reached, lap.epochs, lap.steps) == (5, False, 2, 6)
    assert lap.accuracy == seen[-1][1]


def test_a_lap_ends_with_the_first_test_that_is_good_enough() -> None:
    said: list[str] = []
    model = Model(tiny, image="f32[N,4,4,1]")
    raced = race(model, TRAIN, TEST, course(80, test_every=2), [0, 1], said.append)
    assert [lap.reached for lap in raced.laps] == [True, True]
    for seed, lap in enumerate(raced.laps):
        tests = [line.split() for line in said if line.startswith(f"seed {seed} ")]
        accuracies = [float(words[5]) for words in tests]
        assert lap.accuracy >= 0.8 > max(accuracies[:-1], default=0) / 100
        # After steps 2, 3 (the epoch's last), 4, 6, 8, 9 and so on.
        epochs = [float(words[3]) for words in tests]
        expected = [n / 3 for n in range(2, 61) if n % 2 == 0 or n % 3 == 0]
        assert epochs == pytest.approx(expected[: len(epochs)], abs=1e-4)
        assert lap.epochs == pytest.approx(epochs[-1], abs=1e-4)


def test_seconds_are_split_without_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks once each time it is read."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(racing, "perf_counter", lambda: float(next(ticks)))
    (lap,) = run(course(100, epochs=1, read=1000.0), range(1)).laps
    assert list(lap.split) == list(PARTS)
    assert lap.seconds == sum(lap.split.values())
    # A tick for each time it is entered: the feed, the order and three batches.
    assert lap.split["data"] == 1000 + 1 + 1 + 3
    assert lap.split["kernels"] == 3
    assert lap.split["compile"] == lap.split["test"] == 1
    # Each entry and each exit is a tick between the parts; the clock's own start too.
    assert lap.split["host"] >= 9


def test_a_device_that_keeps_the_data_is_timed_as_a_whole() -> None:
    pytest.importorskip("triton")
    on = {"epochs": 1, "backend": "triton:interpret", "device": "interpret"}
    raced = run(course(1, **on), range(1))
    host = run(course(1, epochs=1), range(1))
    assert raced.laps[0].reached
    assert raced.laps[0].steps == host.laps[0].steps
    assert raced.laps[0].split["kernels"] > 0


def test_a_loss_that_is_no_number_ends_a_lap_but_not_the_race() -> None:
    with np.errstate(all="ignore"):
        raced = run(course(99, optimizer=SGD(1e38), epochs=3))
    assert [lap.reached for lap in raced.laps] == [False, False]
    for lap in raced.laps:
        assert lap.fault.startswith("the loss is ")
        assert lap.fault.endswith(f"at step {lap.steps}")


def lap(seed: int, reached: bool, seconds: float) -> Lap:
    split = {**dict.fromkeys(PARTS, 0.0), "kernels": seconds}
    return Lap(seed, reached, seed + 1, 3, 0.5, seconds, split)


def test_median_and_spread_are_of_the_laps_that_got_there() -> None:
    raced = Race(50, (lap(0, True, 4), lap(1, False, 99), lap(2, True, 2)))
    summary = raced.summary()
    assert list(summary) == ["epochs", "seconds", *PARTS]
    assert summary["epochs"] == (2, 1, 3)
    assert summary["kernels"] == summary["seconds"] == (3, 2, 4)
    told = raced.as_json()
    assert told["median"]["seconds"] == 3
    assert told["spread"]["seconds"] == (2, 4)
    nobody = Race(50, (lap(0, False, 1),)).as_json()
    assert nobody["median"] == nobody["spread"] == {}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"target": 0}, "above 0 and up to 100 percent, and is 0"),
        ({"target": 100.5}, "up to 100 percent, and is 100.5"),
        ({"epochs": 0}, "epochs must be at least 1, and is 0"),
        ({"test_every": 0}, "test_every must be at least 1, and is 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(RunError, match=rule):
        Course(**{"target": 99, **changes})


def test_data_that_do_not_fit_are_refused_before_any_work() -> None:
    with pytest.raises(RunError, match=r"is f32\[N,28,28,1\], and quadrants have"):
        race(Model(tiny), TRAIN, TEST, course(99))
