"""Random graphs mean the same after every pass and on the NumPy backend."""

from collections.abc import Sequence

from compiled import State, agrees, faults, ran
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import Example, graphs

from convc.ir.graph import Graph
from convc.ir.parser import parse
from convc.ir.rounding import bounded
from convc.ir.verifier import verify
from convc.optimizers import SGD, Adam, AdamW, Momentum
from convc.passes.canonicalize import CANONICALIZE
from convc.passes.commute_relu import COMMUTE_RELU
from convc.passes.fold_padding import FOLD_PADDING
from convc.passes.manager import Pass
from convc.pipeline import INFERENCE, LOWERING, Step, training
from convc.program import Program

AS_TRACED = (CANONICALIZE, FOLD_PADDING, COMMUTE_RELU, *LOWERING)
OPTIMIZERS = (
    SGD(0.125, weight_decay=0.5),
    Momentum(0.25, nesterov=True),
    Momentum(0.25, weight_decay=0.5, decay_biases=False),
    Adam(0.25, weight_decay=0.5),
    AdamW(0.25),
)
TEAMS = st.sampled_from([(1, 0), (2, 1), (3, 0)])
"""Threads, and how many images more the program is compiled for than it gets."""


def checked(example: Example, passes: Sequence[Pass], team: tuple[int, int]) -> Program:
    """The program, when every stage has been checked, read back and verified."""
    threads, spare = team
    batch = len(example.inputs["image"]) + spare
    program = Step(example.graph, tuple(passes)).compile("numpy", batch, threads, True)
    for stage in program.stages:
        assert parse(stage.text) == stage.graph
        verify(stage.graph)
    return program


def stage_of(program: Program, name: str) -> Graph:
    """The graph after the pass called ``name``."""
    return next(s.graph for s in program.stages if s.name == name)


def state_for(program: Program, example: Example) -> State:
    """The example's parameters, and what the program has beyond them."""
    return {**program.state(), **example.parameters}


@settings(max_examples=90)
@given(graphs(), TEAMS)
def test_a_graph_runs_as_it_was_traced(example: Example, team: tuple[int, int]) -> None:
    """Outputs and updates, bit for bit where float32 rounds nothing."""
    program = checked(example, AS_TRACED, team)
    program.load(state_for(program, example))
    bounds = bounded(example.graph, example.inputs, example.parameters)
    if example.exact:
        assert not any(b.any() for b in bounds.output_bounds.values())
    assert not faults(example.graph, bounds, ran(program, example.inputs))


@settings(max_examples=60)
@given(graphs(), TEAMS)
def test_a_graph_runs_without_dropout(example: Example, team: tuple[int, int]) -> None:
    program = checked(example, INFERENCE, team)
    program.load(state_for(program, example))
    graph = stage_of(program, "remove-dropout")
    bounds = bounded(graph, example.inputs, example.parameters)
    assert not faults(graph, bounds, ran(program, example.inputs))


@settings(max_examples=60)
@given(graphs(loss=True), TEAMS, st.sampled_from(OPTIMIZERS))
def test_two_training_steps_agree_with_the_oracle(
    example: Example, team: tuple[int, int], optimizer: Adam
) -> None:
    """Loss, every gradient, every parameter and every state, each step from the last.

    The oracle runs the graph as differentiation left it, before any fusion.
    """
    program = checked(example, training(optimizer, keep_gradients=True), team)
    program.load(state_for(program, example))
    graph = stage_of(program, "apply-optimizer")
    gradients = [name for name, _ in graph.outputs if name.startswith("gradient/")]
    assert len(gradients) == len(example.trainable)
    for _ in range(2):
        _, wrong = agrees(graph, example.inputs, program)
        assert not wrong
