"""A kernel keeps its schedule, else takes the measured one, else the predicted one."""

from dataclasses import replace
from pathlib import Path

import pytest

import convc as cc
from convc.backends import backend_named
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Graph, Node
from convc.ir.parser import parse
from convc.lockfile import Entry, Measured, key_of, update_lockfile, using
from convc.networks import strided, two_conv
from convc.passes.manager import Context, Stage
from convc.passes.schedule import NEAR, choose_schedule
from convc.pipeline import LOWERING, Step

BATCH = 4
NUMPY = backend_named("numpy")
OTHER = {"algorithm": "gemm_rows", "batch": 64}


def stages() -> dict[str, Stage]:
    found = cc.Model(strided).inference().stages(batch=BATCH, threads=1)
    return {s.name: s for s in found}


def dense(graph: Graph) -> Node:
    return next(n for n in graph.nodes if "dense" in str(n.attrs.get("name")))


def entry(schedule: Attrs, threads: int = 1) -> Entry:
    """A measurement of the dense kernel."""
    key = key_of(dense(stages()["choose-layout"].graph), BATCH, NUMPY.target(threads))
    return Entry(key, 3, (Measured(schedule, 0.001),))


def scheduled(tmp_path: Path, found: Entry) -> Stage:
    """The stage with schedules, compiled with a lockfile of that entry."""
    update_lockfile(tmp_path / "x", [found])
    with using(tmp_path / "x"):
        return stages()["choose-schedule"]


def origin(stage: Stage) -> str:
    name = dense(stage.graph).name
    return next(c.origin for c in stage.choices if c.node == name)


def test_without_a_lockfile_the_smallest_of_the_best_predictions_is_taken() -> None:
    """What is predicted to be hardly faster does not cost memory."""

    def scratch(node: Node) -> int:
        return sum(s.nbytes for s in NUMPY.scratch(node, 1))

    found = {
        s.name: s for s in cc.Model(two_conv).inference().stages(batch=64, threads=1)
    }
    stage, saved = found["choose-schedule"], 0
    for node in (n for n in stage.graph.nodes if n.region is not None):
        ranked = NUMPY.candidates(node, 64, 1)
        limit = NEAR * ranked[0].cost.seconds
        near = [c.schedule for c in ranked if c.cost.seconds <= limit]
        sizes = [scratch(replace(node, schedule=schedule)) for schedule in near]
        assert node.schedule == near[sizes.index(min(sizes))]
        saved += sizes[0] - min(sizes)
    assert saved > 0
    kernels = [n.name for n in stage.graph.nodes if n.region is not None]
    assert [c.node for c in stage.choices] == kernels
    assert {(c.origin, c.entry) for c in stage.choices} == {("cost model", None)}


def test_a_measured_schedule_comes_before_a_prediction(tmp_path: Path) -> None:
    found = entry(OTHER)
    stage = scheduled(tmp_path, found)
    assert dense(stage.graph).schedule == OTHER
    assert origin(stage) == "lockfile"
    assert found in [c.entry for c in stage.choices]
    assert stage.refusals == ()


def test_a_measurement_for_another_target_is_none(tmp_path: Path) -> None:
    stage = scheduled(tmp_path, entry(OTHER, threads=2))
    assert origin(stage) == "cost model"
    assert stage.refusals == ()


@pytest.mark.parametrize(
    "schedule",
    [{"algorithm": "gone"}, *({**OTHER, "batch": n} for n in (0, BATCH - 1))],
)
def test_a_measured_schedule_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, schedule: Attrs
) -> None:
    stage = scheduled(tmp_path, entry(schedule))
    assert origin(stage) == "cost model"
    (refusal,) = stage.refusals
    assert refusal.subject == "logits_dense_bias"
    assert "the lockfile's schedule does not fit: kernel logits_" in refusal.reason
    assert "run convc tune again" in refusal.reason
    assert refusal.locs


def test_a_kernels_own_schedule_comes_first() -> None:
    graph = stages()["choose-layout"].graph
    nodes = tuple(
        replace(n, schedule=OTHER) if n is dense(graph) else n for n in graph.nodes
    )
    found = entry({**OTHER, "batch": 32})
    context = Context(NUMPY, BATCH, 1, tuned={found.key: found})
    after = choose_schedule(replace(graph, nodes=nodes), context)
    assert dense(after).schedule == OTHER
    assert "given" in [c.origin for c in context.choices]


def test_a_kernels_own_schedule_that_does_not_fit_is_an_error() -> None:
    graph = stages()["choose-layout"].graph
    nodes = tuple(
        replace(n, schedule={"algorithm": "magic"}) if n is dense(graph) else n
        for n in graph.nodes
    )
    with pytest.raises(CompileError, match="unknown algorithm 'magic'"):
        choose_schedule(replace(graph, nodes=nodes), Context(NUMPY, BATCH, 1))


def test_a_damaged_lockfile_stops_the_compilation(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("nonsense\n")
    step: Step = cc.Model(strided).inference()
    with using(path), pytest.raises(cc.ConvcError, match=f"{path}:1: not an entry"):
        step.stages(batch=BATCH)


WIDE = """
graph wide(%x: f32[N,8,8,64]) -> (y=%2) {
  param %w : f32[3,3,64,64] = zeros()
  %1 = conv2d(%x, %w) {padding=same} : f32[N,8,8,64]
  %2 = relu(%1) : f32[N,8,8,64]
}
"""


def test_an_exact_step_takes_sums_alone() -> None:
    """Neither from the cost model nor from a lockfile that another program filled."""

    def chosen(exact: bool) -> tuple[str, str, list[str]]:
        stages = Step(parse(WIDE), LOWERING).stages(batch=64, threads=2)
        before = next(s.graph for s in stages if s.name == "choose-layout")
        node = next(n for n in before.nodes if len(n.operands) == 2)
        found = NUMPY.candidates(node, 64, 2)
        seconds = zip(found, range(1, len(found) + 1), strict=True)
        sums_last = sorted(seconds, key=lambda pair: pair[0].direct)
        measured = (Measured(c.schedule, s) for c, s in sums_last)
        found_key = key_of(node, 64, NUMPY.target(2))
        tuned = {found_key: Entry(found_key, 3, tuple(measured))}
        context = Context(NUMPY, 64, 2, tuned=tuned)
        after = choose_schedule(before, context, exact)
        schedule = next(n for n in after.nodes if n.name == node.name).schedule
        reasons = [r.reason for r in context.refusals]
        origin = next(c.origin for c in context.choices if c.node == node.name)
        return str((schedule or {})["algorithm"]), origin, reasons

    fastest, origin, reasons = chosen(exact=False)
    assert (fastest in ("dft", "winograd"), origin, reasons) == (True, "lockfile", [])
    algorithm, origin, (reason,) = chosen(exact=True)
    assert (algorithm not in ("dft", "winograd"), origin) == (True, "lockfile")
    assert reason == (
        f"{fastest} is measured to be faster, but does not sum up what it is defined "
        "by, and exact was asked for"
    )
