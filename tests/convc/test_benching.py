"""Races take turns, divide by the base, skip who is absent; results can be read."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from convc import benching
from convc.benching import Bench, bench, everyone, race, read
from convc.ir.errors import CompileError, RunError
from convc.rivals.base import Task

TASK = Task("strided", "inference", 2, 1, "f32[N,8,8,1]")


class Timed:
    """A contestant whose turns are given."""

    seconds: Mapping[str, list[float]] = {
        "numpy": [9.0, 1.0, 2.0, 6.0],
        "torch": [9.0, 2.0, 8.0, 8.0],
    }

    def __init__(self, task: Task, name: str) -> None:
        if name == "jax":
            raise CompileError("jax is not installed; pip install jax")
        self.name, self.left = name, list(self.seconds.get(name, []))

    def turn(self, _: float) -> list[float]:
        if not self.left:
            raise RuntimeError("it ran out of time")
        return [self.left.pop(0)]

    def error(self) -> float | None:
        return 1e-7

    def versions(self) -> dict[str, str]:
        return {self.name: "1.0"}


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "_maker", lambda name: Timed)
    monkeypatch.setattr(benching, "PAUSE", 0)


@pytest.mark.usefixtures("made_up")
def test_medians_and_both_ratios_without_the_round_that_warms_up() -> None:
    found = race(TASK, ["numpy", "torch"], 3)
    numpy, torch = found.contestants["numpy"], found.contestants["torch"]
    assert numpy.rounds == (1.0, 2.0, 6.0)
    assert (numpy.seconds, numpy.best) == (2.0, 1.0)
    assert numpy.ratio == 2 / 8  # of the medians
    assert numpy.rounds_ratio == 0.5  # the median of 1/2, 2/8 and 6/8
    assert (torch.ratio, torch.rounds_ratio) == (1.0, 1.0)
    assert numpy.versions == {"numpy": "1.0"}
    assert found.base == "torch"
    assert found.flops > 0


@pytest.mark.usefixtures("made_up")
def test_who_is_absent_or_fails_is_named_with_the_reason() -> None:
    found = race(TASK, ["numpy", "jax", "openvino"], 3)
    assert list(found.contestants) == ["numpy"]
    assert found.absent == {
        "jax": "jax is not installed; pip install jax",
        "openvino": "RuntimeError: it ran out of time",
    }
    assert found.base == "numpy"


def test_real_contestants_give_the_networks_answers() -> None:
    found = race(TASK, ["numpy", "torch", "torch:channels_last"], 1)
    assert set(found.contestants) == {"numpy", "torch", "torch:channels_last"}
    assert not found.absent
    for c in found.contestants.values():
        assert c.error is not None
        assert c.error < 1e-5
        assert c.seconds > 0
    assert not found.wrong


def test_training_steps_are_raced_too() -> None:
    task = replace(TASK, kind="training")
    found = race(task, ["numpy", "torch"], 1)
    assert set(found.contestants) == {"numpy", "torch"}
    assert all(c.error is None for c in found.contestants.values())


def test_wrong_answers_are_wrong() -> None:
    found = race(TASK, ["numpy"], 1)
    (name,) = found.contestants
    wrong = replace(found.contestants[name], error=0.1)
    assert replace(found, contestants={name: wrong}).wrong == [name]
    lost = replace(found.contestants[name], error=float("nan"))
    assert replace(found, contestants={name: lost}).wrong == [name]


@pytest.mark.usefixtures("made_up")
def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    heard: list[Bench] = []
    result = bench([TASK, TASK], ["numpy", "torch"], 3, done=heard.append)
    assert [b.races for b in heard] == [result.races[:1], result.races]
    path = tmp_path / "bench.json"
    path.write_text(result.text(), "utf-8")
    found = read(path)
    assert isinstance(found, Bench)
    assert found.text() == result.text()
    assert found.peaks["gemm"] > 0
    assert "cpu" in found.conditions["machine"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "convc bench 0"}'])
def test_what_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text, "utf-8")
    with pytest.raises(RunError, match="is no result of convc bench"):
        read(path)


def test_a_damaged_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    body = {"format": benching.FORMAT, "races": [{"model": 3}]}
    path.write_text(json.dumps(body), "utf-8")
    with pytest.raises(RunError, match=r"bench\.json: is no result"):
        read(path)


def test_only_those_are_asked_who_can_do_it() -> None:
    assert "openvino" in everyone("inference")
    assert "openvino" not in everyone("training")
    assert {"numpy", "triton", "torch:compile", "jax"} <= set(everyone("training"))
