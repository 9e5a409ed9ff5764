"""The fastest schedule wins among those whose results are right."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import cast

import numpy as np
import pytest

import convc as cc
from convc import tuning
from convc.backends.cpu.dense import Dense
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.rounding_schedules import transform_of
from convc.lockfile import Entry, Measured
from convc.networks import two_conv
from convc.program import Program
from convc.tuning import (
    Oracle,
    Outcome,
    Task,
    alone,
    measure,
    recalled,
    tasks_of,
    tune,
)

BATCH = 8


def net(image: cc.Tensor) -> cc.Tensor:
    x = cc.conv2d(image, 2, 3, activation="relu", name="conv")
    x = cc.max_pool2d(x, 2, name="pool")
    x = cc.dense(cc.flatten(x), 6, activation="relu", name="one")
    x = cc.dense(x, 6, activation="relu", name="two")
    x = cc.dense(x, 6, activation="relu", name="three")
    return cc.dense(x, 3, name="logits")


MODEL = cc.Model(net, image="f32[N,6,6,1]")


def tasks(training: bool = False) -> dict[str, Task]:
    step = MODEL.training_step() if training else MODEL.inference()
    return {t.name: t for t in tasks_of(step, "numpy", BATCH, 2)[0]}


def dense() -> Task:
    return tasks()["two_dense_bias_relu"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every measurement finds the later candidates faster; how many there were."""
    asked: list[int] = []

    def fake(programs: Sequence[Program], node: str, rounds: int) -> list[float]:
        asked.append(len(programs))
        return [0.1 / (i + 1) for i in range(len(programs))]

    monkeypatch.setattr(tuning, "measure", fake)
    return asked


# -- what is tuned


def test_equal_kernels_are_one_task_and_lone_schedules_none() -> None:
    found, single = tasks_of(MODEL.inference(), "numpy", BATCH, 2)
    assert {t.name: t.count for t in found} == {
        "conv_bias_pool_relu": 1,
        "one_dense_bias_relu": 1,
        "two_dense_bias_relu": 2,
        "logits_dense_bias": 1,
    }
    kernels = MODEL.inference().compile(batch=BATCH, threads=2).kernels
    assert single == len(kernels) - 5
    assert all(len(t.candidates) > 1 for t in found)


def test_the_best_of_every_algorithm_is_among_those_tried() -> None:
    task = tasks()["conv_bias_pool_relu"]
    algorithms = {c.schedule["algorithm"] for c in task.candidates}
    assert len(algorithms) > 1
    for top in (1, 2, 3):
        tried = task.best(top)
        assert tried[:top] == task.candidates[:top]
        assert {c.schedule["algorithm"] for c in tried} == algorithms
    assert task.best(100) == task.candidates


def test_the_first_candidate_is_what_the_compiler_takes() -> None:
    """Also where it is not the best prediction, but needs less memory."""
    step = cc.Model(two_conv).inference()
    graph = step.compile(batch=64, threads=1).graph
    chosen = {n.attrs["name"]: n.schedule for n in graph.nodes if n.region is not None}
    found, _ = tasks_of(step, "numpy", 64, 1)
    assert [t.candidates[0].schedule for t in found] == [chosen[t.name] for t in found]
    assert any(
        t.candidates[0].cost.seconds > t.candidates[1].cost.seconds for t in found
    )


def test_a_kernel_alone_reads_and_updates_what_it_did() -> None:
    step = MODEL.training_step()
    stages = {s.name: s for s in step.stages(batch=BATCH, threads=2)}
    graph = stages["choose-schedule"].graph
    node = next(n for n in graph.nodes if n.attrs.get("name") == "optimizer")
    made = alone(graph, node)
    (kernel,) = made.nodes
    assert kernel == replace(node, schedule=None)
    assert made.updates == graph.updates
    given = {*made.inputs, *(p.value for p in made.parameters)}
    assert given == set(node.operands)
    assert made.outputs == ()


# -- verification


def plant(
    monkeypatch: pytest.MonkeyPatch, algorithm: str, change: Callable[[str], str]
) -> None:
    """Make one algorithm of dense kernels emit other lines."""
    emit = Dense.emit

    def wrong(self: Dense, w: Writer, kernel: Kernel) -> None:
        start = len(w.lines)
        emit(self, w, kernel)
        if kernel.schedule["algorithm"] == algorithm:
            w.lines[start:] = [change(line) for line in w.lines[start:]]

    monkeypatch.setattr(Dense, "emit", wrong)


BUGS: dict[str, tuple[str, str, str]] = {
    "a dropped bias": ("bias, out", "ZERO, out", "elements are out of bounds"),
    "half precision": (
        "bias, out",
        "bias.astype(np.float16), out",
        "elements are out of bounds",
    ),
    "only in a full batch": (
        "bias, out",
        "bias if n < 4 else ZERO, out",
        "elements are out of bounds",
    ),
    "an index out of range": ("[:, columns]", "[n, columns]", "IndexError"),
    "an unknown name": ("bias, out", "bias_of, out", "NameError"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_candidate_never_wins_and_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, clock: list[int], bug: str
) -> None:
    old, new, said = BUGS[bug]
    plant(monkeypatch, "gemm_columns", lambda line: line.replace(old, new))
    outcome = tune(dense(), top=6, rounds=3)
    trials = {t.candidate.schedule["algorithm"]: t for t in outcome.trials}
    assert trials["gemm_columns"].seconds is None
    assert said in trials["gemm_columns"].fault
    assert outcome.winner is trials["gemm_rows"]
    assert clock == [1]
    assert outcome.entry is not None
    measured = [m.schedule["algorithm"] for m in outcome.entry.measured]
    assert measured == ["gemm_rows"]


def test_where_all_are_wrong_nothing_is_written_down(
    monkeypatch: pytest.MonkeyPatch, clock: list[int]
) -> None:
    for algorithm in ("gemm_rows", "gemm_columns"):
        plant(monkeypatch, algorithm, lambda line: line.replace("bias, o", "ZERO, o"))
    outcome = tune(dense(), top=6, rounds=3)
    assert (outcome.winner, outcome.entry, outcome.ratio) == (None, None, None)
    assert clock == [0]


@pytest.mark.usefixtures("clock")
def test_every_candidate_of_a_training_step_is_right() -> None:
    for task in tasks(training=True).values():
        outcome = tune(task, top=100, rounds=1)
        assert [t.fault for t in outcome.trials] == [""] * len(task.candidates)


def test_candidates_of_one_algebra_are_held_against_the_same_references() -> None:
    def wide(image: cc.Tensor) -> cc.Tensor:
        return cc.conv2d(image, 64, 3, padding="same", name="wide")

    step = cc.Model(wide, image="f32[N,6,6,64]").inference()
    ((task,), _) = tasks_of(step, "numpy", BATCH, 1)
    oracle, seen = Oracle(task), {}
    for candidate in task.candidates:
        algebra = transform_of(candidate.schedule)
        found = oracle.references(candidate.schedule)
        assert seen.setdefault(algebra, found) is found
    assert set(seen) == {("winograd", 2), ("winograd", 4), ("dft",), ()}
    bounds = [references[-1].bounds.output_bounds for references in seen.values()]
    arrays = [next(iter(each.values())) for each in bounds]
    for one, other in combinations(arrays, 2):
        assert (one != other).any()


# -- the choice


@pytest.mark.usefixtures("clock")
def test_the_fastest_wins_and_the_entry_begins_with_it() -> None:
    outcome = tune(dense(), top=6, rounds=3)
    assert outcome.winner is outcome.trials[-1]
    assert outcome.ratio == pytest.approx(len(outcome.trials))
    assert outcome.entry is not None
    assert outcome.entry.key == dense().key
    assert outcome.entry.rounds == 3
    assert outcome.entry.fastest.schedule == outcome.trials[-1].candidate.schedule


def outcome_of(task: Task, *seconds: float) -> Outcome:
    trials = tuple(
        tuning.Trial(c, s) for c, s in zip(task.candidates, seconds, strict=True)
    )
    return Outcome(task, trials, 5)


def test_a_measurement_is_recalled_if_it_has_all_that_is_asked_for() -> None:
    task = dense()
    entry = outcome_of(task, 0.2, 0.1).entry
    found = recalled(task, entry, top=6, rounds=5)
    assert found is not None
    assert found.known
    assert [t.seconds for t in found.trials] == [0.2, 0.1]
    assert recalled(task, None, top=6, rounds=5) is None
    assert recalled(task, entry, top=6, rounds=6) is None
    assert entry is not None
    fewer = Entry(entry.key, 9, (Measured(task.candidates[0].schedule, 0.1),))
    assert recalled(task, fewer, top=6, rounds=5) is None


# -- the measurement


class Fake:
    """A program whose clock goes as told."""

    def __init__(self, name: str, seconds: list[float], log: list[str]) -> None:
        self.program = dense().program(dense().candidates[0])
        self.graph, self.batch = self.program.graph, self.program.batch
        self.load, self.input = self.program.load, self.program.input
        self.name, self.seconds, self.log = name, seconds, log

    def time_kernels(self, rounds: int) -> dict[str, float]:
        self.log.append(f"{self.name}{rounds}")
        return {"k": self.seconds.pop(0)}


def test_programs_take_turns_and_medians_count() -> None:
    log: list[str] = []
    slow = Fake("slow", [0.1, 0.3, 0.1, 0.2], log)
    fast = Fake("fast", [0.001, 0.002, 0.009, 0.001], log)
    programs = cast("list[Program]", [slow, fast])
    assert measure(programs, "k", 3) == [0.2, 0.002]
    assert log == ["slow1", "fast1", *["slow1", "fast10"] * 3]


def test_a_kernel_is_measured_on_real_numbers() -> None:
    task = dense()
    programs = [task.program(c) for c in task.candidates]
    assert all(s > 0 for s in measure(programs, task.kernel.name, 2))
    for program in programs:
        (name,) = (v.name for v in program.graph.inputs)
        given = program.input(name)
        assert len(np.unique(given)) > given.size / 2
