"""Every op, alone in a Triton program, gives what the oracle gives."""

import numpy as np
import pytest
from compiled import agrees, faults, ran
from emitted_programs import emitted
from op_bench import Case
from op_programs import PLAIN, STEPS, WIDE, bench, fed, updating

from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.interpreter import interpret
from convc.ir.ops import OPS
from convc.ir.rounding import bounded

SPARE = (0, 3)
"""How many images fewer the step takes than it was compiled for."""


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.id)
def test_an_op_agrees_with_the_oracle(case: Case) -> None:
    """Whatever the number of images; on whole numbers an exact op to the last bit."""
    graph, feeds = bench(case)
    _, whole = bench(case, integers=True)
    bounds = bounded(graph, feeds, {})
    exact = interpret(graph, whole, {}).outputs if OPS[case.op].exact else {}
    for spare in SPARE:
        program = emitted(graph, case.batch + spare)
        assert not faults(graph, bounds, ran(program, feeds))
        if exact:
            found = ran(program, whole).outputs
            assert all(np.array_equal(found[name], exact[name]) for name in exact)


def refusal(graph: Graph, batch: int) -> str:
    """Why ``graph`` does not compile; empty if it does."""
    try:
        emitted(graph, batch)
    except CompileError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("case", WIDE, ids=lambda case: case.id)
def test_in_float64_an_op_is_right_or_refused(case: Case) -> None:
    """Right to 64 roundings of float64 a term; a refusal names the op and the types."""
    graph, feeds = bench(case)
    reason = refusal(graph, case.batch + 1)
    if reason:
        assert case.op in reason
        assert "f64" in reason
        return
    found = ran(emitted(graph, case.batch + 1), feeds).outputs
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
    program = emitted(graph, 1)
    program.load(parameters)
    for _ in range(3):
        _, wrong = agrees(graph, inputs, program)
        assert not wrong
