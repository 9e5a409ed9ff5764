"""Every op, alone in a program of the NumPy backend, gives what the oracle gives."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from compiled import agrees, compiled, faults, ran
from op_bench import Case, one_op
from op_programs import PLAIN, STEPS, WIDE, bench, fed, updating

from convc.backends.base import OPTIMIZERS
from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.interpreter import interpret
from convc.ir.ops import OPS
from convc.ir.rounding import bounded
from convc.pipeline import LOWERING, Step

SETTINGS = ((1, 0), (2, 1), (9, 5))
"""Threads, and how many images fewer the step takes than it was compiled for; the
last has more threads than any case has images or rows."""


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.id)
def test_an_op_agrees_with_the_oracle(case: Case) -> None:
    """Whatever the threads and the number of images; twice, so nothing is left over.

    On whole numbers an exact op gives the very same bits.
    """
    graph, feeds = bench(case)
    _, whole = bench(case, integers=True)
    bounds = bounded(graph, feeds, {})
    exact = interpret(graph, whole, {}).outputs if OPS[case.op].exact else {}
    for threads, spare in SETTINGS:
        program = compiled(graph, case.batch + spare, threads)
        for _ in range(2):
            assert not faults(graph, bounds, ran(program, feeds))
        if exact:
            found = ran(program, whole).outputs
            assert all(np.array_equal(found[name], exact[name]) for name in exact)


def refusal(graph: Graph, batch: int, threads: int) -> str:
    """Why ``graph`` does not compile; empty if it does."""
    try:
        compiled(graph, batch, threads)
    except CompileError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("case", WIDE, ids=lambda case: case.id)
def test_in_float64_an_op_is_right_or_refused(case: Case) -> None:
    """Right to 64 roundings of float64 a term; a refusal names the op and the types."""
    graph, feeds = bench(case)
    reason = refusal(graph, case.batch + 1, 2)
    if reason:
        assert case.op in reason
        assert "f64" in reason
        return
    found = ran(compiled(graph, case.batch + 1, 2), feeds).outputs
    for name, array in interpret(graph, feeds, {}).outputs.items():
        assert found[name].dtype == array.dtype
        scale = max(1.0, float(np.abs(array.astype(float)).max()))
        error = np.abs(found[name].astype(float) - array.astype(float)).max()
        assert error <= 64 * (1 + case.terms) * 2.0**-53 * scale


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.id)
def test_an_optimizer_updates_parameters_and_state(case: Case, copies: int) -> None:
    """Three steps, each from where the last one left the program."""
    graph = updating(case, copies)
    inputs, parameters = fed(case, graph)
    for threads in (1, 3):
        program = compiled(graph, 1, threads)
        program.load(parameters)
        for _ in range(3):
            _, wrong = agrees(graph, inputs, program)
            assert not wrong


@pytest.mark.parametrize("op", OPTIMIZERS)
def test_an_optimizer_that_updates_nothing_is_refused(op: str) -> None:
    """It works in place, so its results must be the updates of its operands."""
    case = next(c for c in STEPS if c.op == op)
    graph = one_op(op, case.types, case.attrs)
    with pytest.raises(CompileError, match=rf"{op}.*in place"):
        compiled(graph, 1)


def integers_of(schedule: dict[str, object]) -> Sequence[str]:
    """What may be any number: not the ``batch`` of a plan, nor a tile's ``m``."""
    kept = ("batch", "m")
    return tuple(k for k, v in schedule.items() if type(v) is int and k not in kept)


SCHEDULED = [c for c in PLAIN if c.op.startswith("conv2d") or not c.note]


@pytest.mark.parametrize("case", SCHEDULED, ids=lambda case: case.id)
def test_a_schedule_changes_no_result(case: Case) -> None:
    """Tiles of one and of three of anything, so that the last is a part of a tile."""
    graph, feeds = bench(replace(case, batch=5) if case.batch > 1 else case)
    batch, bounds = len(feeds["images"]), bounded(graph, feeds, {})
    stages = Step(graph, LOWERING).stages(batch=batch, threads=2)
    scheduled = next(s.graph for s in stages if s.name == "choose-schedule")
    resumed = [p for p in LOWERING if p.name in ("choose-schedule", "plan-memory")]
    for size in (1, 3):
        nodes = []
        for node in scheduled.nodes:
            if node.schedule:
                turned = dict.fromkeys(integers_of(dict(node.schedule)), size)
                node = replace(node, schedule={**node.schedule, **turned})
            nodes.append(node)
        other = replace(scheduled, nodes=tuple(nodes))
        result = ran(compiled(other, batch, 2, resumed), feeds)
        assert not faults(graph, bounds, result)
