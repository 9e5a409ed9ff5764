"""A checkpoint is restored whole, or not at all with a reason."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convc.ir.errors import RunError
from convc.runtime.checkpoint import Checkpoint, CheckpointError
from convc.runtime.resume import (
    Position,
    Settings,
    checkpoint_meta,
    position_in,
    refuse_infinite,
)

SETTINGS = Settings("net", "data", 100, 16, 0, "Adam()", "loss", "numpy", 2)


def weights() -> dict[str, np.ndarray]:
    return {"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.int64)}


def saved(**changes: Any) -> Checkpoint:
    """A checkpoint that has been through JSON, in the middle of the second epoch."""
    position = Position()
    position.count(16, 0.1, 9)
    position.end_epoch((0.3, 0.75))
    position.count(16, 1 / 3, 12)
    meta = json.loads(json.dumps(checkpoint_meta(SETTINGS, position)))
    tensors = {"a": np.ones((2, 3), np.float32), "b": np.array(7)}
    checkpoint = Checkpoint(2, tensors, meta, Path("step-2.json"))
    return replace(checkpoint, **changes)


def test_the_position_comes_back_to_the_bit() -> None:
    position, notice = position_in(saved(), SETTINGS, weights())
    assert (position.step, position.epoch, position.batch) == (2, 1, 1)
    assert position.loss_sum == 16 * (1 / 3)
    assert (position.seen, position.correct) == (16, 12)
    assert [epoch.test_accuracy for epoch in position.records] == [0.75]
    assert notice == ""


def test_the_mean_of_an_epoch_weighs_each_batch_by_its_images() -> None:
    position = Position()
    position.count(30, 1.0, 15)
    position.count(10, 2.0, 9)
    record = position.end_epoch(None)
    assert (record.loss, record.accuracy) == (1.25, 0.6)
    assert (position.epoch, position.batch, position.step) == (1, 0, 2)


def test_only_the_end_of_an_epoch_has_a_score() -> None:
    position = Position()
    position.count(16, 0.1, 9)
    assert "score" not in checkpoint_meta(SETTINGS, position)
    position.end_epoch((0.3, 0.75))
    assert checkpoint_meta(SETTINGS, position)["score"] == 0.75
    position.count(16, 0.1, 9)
    assert "score" not in checkpoint_meta(SETTINGS, position)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": np.ones((2, 3), np.float32)},
        {"a": np.ones((3, 2), np.float32), "b": np.array(7)},
        {"a": np.ones((2, 3), np.float64), "b": np.array(7)},
        {"a": np.ones((2, 3), np.float32), "b": np.array(7), "c": np.array(7)},
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(CheckpointError, match="does not fit the program"):
        position_in(saved(tensors=tensors), SETTINGS, weights())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("settings", "position") for value in (None, 3, [])),
        ("position", {}),
        ("position", {"records": [3]}),
        ("position", {"records": [], "epochs": 3}),
    ],
)
def test_meta_of_something_else_is_refused(key: str, value: object) -> None:
    meta = {**saved().meta, key: value}
    with pytest.raises(CheckpointError, match="saved by something else"):
        position_in(saved(meta=meta), SETTINGS, weights())


def test_every_difference_is_named_with_both_values() -> None:
    other = replace(SETTINGS, seed=4, images=50, threads=1)
    with pytest.raises(CheckpointError) as caught:
        position_in(saved(), other, weights())
    message = str(caught.value)
    assert "images was 100 and is now 50; seed was 0 and is now 4" in message
    assert "threads" not in message


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (-np.inf, "infinite")])
def test_a_parameter_that_is_not_finite_is_named(value: float, word: str) -> None:
    parameters = weights()
    refuse_infinite(parameters, "after step 3")
    parameters["a"][1, 1] = value
    with pytest.raises(RunError, match=f"a is {word} after step 3; training cannot"):
        refuse_infinite(parameters, "after step 3")


def test_a_run_goes_on_in_its_precision_and_an_older_one_in_fp32() -> None:
    lower = replace(SETTINGS, precision="bf16")
    with pytest.raises(CheckpointError, match="precision was 'fp32' and is now 'bf16'"):
        position_in(saved(), lower, weights())
    meta = saved().meta
    before = {k: v for k, v in meta["settings"].items() if k != "precision"}
    older = saved(meta={**meta, "settings": before})
    assert position_in(older, SETTINGS, weights())[1] == ""
