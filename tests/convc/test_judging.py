"""Schedules judged by what their compiled code needs."""

from dataclasses import replace

import pytest
from op_bench import tensor

from convc.ir.builder import GraphBuilder
from convc.judging import judge
from convc.pipeline import LOWERING, Step
from convc.tuning import Task, tasks_of


@pytest.fixture(scope="module")
def task() -> Task:
    """A product in tf32, for which tiles of many sizes make sense."""
    b = GraphBuilder("layer")
    x, w = b.input("x", tensor("f32[N,512]")), b.parameter("w", tensor("f32[512,256]"))
    b.output("y", b("matmul", x, w, precision="tf32"))
    (found,), _ = tasks_of(Step(b.finish(), LOWERING), "triton:sm_90", 256, None)
    return found


def test_the_best_that_can_run_wins_and_nothing_was_measured(task: Task) -> None:
    huge = {
        **task.candidates[0].schedule,
        "tile_a": (256, 256, 64),
        "warps": 8,
        "stages": 3,
    }
    first = replace(task.candidates[0], schedule=huge)
    outcome = judge(replace(task, candidates=(first, *task.candidates[:1])), 2)
    assert outcome.rounds == 0
    too_large, fits = outcome.trials
    assert "bytes of shared memory, sm_90 has 232448" in too_large.drawback
    assert too_large.seconds is None
    assert outcome.winner is fits
    assert outcome.entry is not None
    assert outcome.entry.rounds == 0


def test_a_block_that_waits_alone_is_predicted_to_be_slower(task: Task) -> None:
    """Four warps on a multiprocessor hide too little latency."""
    best = task.candidates[0]
    deep = {**best.schedule, "tile_a": (128, 128, 64), "stages": 3, "warps": 4}
    small = {**best.schedule, "tile_a": (64, 64, 32), "stages": 2, "warps": 4}
    made = tuple(replace(best, schedule=s) for s in (deep, small))
    alone, many = judge(replace(task, candidates=made), 2).trials
    assert alone.seconds is not None
    assert many.seconds is not None
    assert alone.seconds > many.seconds
    assert many.seconds == best.cost.seconds


def test_what_cannot_be_compiled_is_a_fault_not_a_drawback(task: Task) -> None:
    wrong = replace(
        task.candidates[0],
        schedule={**task.candidates[0].schedule, "tile_a": (48, 64, 32)},
    )
    (trial,) = judge(replace(task, candidates=(wrong,)), 1).trials
    assert trial.seconds is None
    assert "power of 2" in trial.fault
