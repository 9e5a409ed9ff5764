"""Kernels that write on their operands: each op alone, and any graph, over NaN."""

import re

import numpy as np
import pytest
from compiled import agrees, compiled, inputs_for, parameters_for, poison
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_bench import graph_of
from random_graphs import Example, graphs
from schedules import scheduled

from convc.backends.cpu.elementwise import LINES
from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.optimizers import SGD, Adam, Momentum
from convc.passes.plan_memory import PLAN_MEMORY
from convc.passes.recompute import RECOMPUTE
from convc.pipeline import LOWERING, Step, training
from convc.program import Program

IN_ORDER = tuple(p for p in LOWERING if p is not RECOMPUTE)
"""The passes but for the one that makes cheap kernels later."""
STORED = ("f32[N,5,3]", "f32[5,3]")
ONE = ("relu", "negate", "exp", "sqrt", "cos", "tanh", "sigmoid", "log")
TWO = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "relu_grad")
CASES = [
    *((f"{op}(%a)", "") for op in ONE),
    *((f"{op}(%a, %b)", "") for op in TWO),
    *((f"{op}(%a, %a)", "") for op in ("add", "multiply", "relu_grad")),
    ("moving_average(%a, %b)", " {momentum=0.75}"),
    ("apply_mask(%a, %m)", " {scale=2.0}"),
    ("apply_keep(%a, %m, %share)", ""),
    ("bias_add(%a, %row)", ""),
    ("add(%row, %a)", ""),
    ("batch_norm(%a, %row, %row, %row, %row)", ""),
]


def around(call: str, attrs: str, stored: str) -> Graph:
    """A graph in which the op reads computed values, each for the last time."""
    mask = stored.replace("f32", "bool")
    return graph_of(f"""
    graph g(%x: {stored}, %y: {stored}, %share: f32[]) -> (z=%z) {{
      param %row : f32[3] = zeros()
      %a = copy(%x) : {stored}
      %b = copy(%y) : {stored}
      %m = greater_equal(%x, %y) : {mask}
      %z = {call}{attrs} : {stored}
    }}
    """)


def offsets(program: Program) -> dict[str, int]:
    """Where everything lies."""
    arena = program.graph.arena
    assert arena is not None
    return {b.name: b.offset for b in arena.buffers}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(("call", "attrs"), CASES)
def test_an_op_may_write_on_its_operand(
    call: str, attrs: str, stored: str, threads: int
) -> None:
    graph = around(call, attrs, stored)
    program = compiled(graph, 4, threads, IN_ORDER)
    program.load({"row": np.float32([0.5, 1.25, 2.0])})
    at = offsets(program)
    assert at["z"] in (at["a"], at.get("b"))
    assert re.search(r"# [ab], then z$", program.source, re.MULTILINE)
    inputs = {k: np.abs(v) + 1 for k, v in inputs_for(graph, 4).items()}
    poison(program)
    _, wrong = agrees(graph, inputs, program)
    assert not wrong


def test_every_elementwise_op_is_tried_or_gives_another_type() -> None:
    tried = {call.partition("(")[0] for call, _ in CASES}
    assert set(LINES) - tried == {"cast", "copy", "equal", "greater_equal"}


@pytest.mark.parametrize(("op", "shared"), [("exp", True), ("softmax", False)])
def test_an_op_on_whole_rows_has_a_place_of_its_own(op: str, shared: bool) -> None:
    graph = graph_of(f"""
    graph g(%x: f32[N,5]) -> (z=%z) {{
      %a = negate(%x) : f32[N,5]
      %z = {op}(%a) : f32[N,5]
    }}
    """)
    at = offsets(compiled(graph, 4, 2))
    assert (at["z"] == at["a"]) == shared


def test_an_overlap_that_the_code_does_not_tolerate_is_refused() -> None:
    """Legal by meaning; but the product is written before its gate is read."""
    text = """
    graph g(%x: f32[N,5]) -> (z=%z) {
      param %w : f32[5,5] = zeros()
      %a = exp(%x) : f32[N,5]
      %p = matmul(%x, %w) : f32[N,5]
      %z = relu_grad(%a, %p) : f32[N,5]
    }
    """
    graph = Step(graph_of(text), LOWERING).stages(batch=4, threads=2)[-1].graph
    assert graph.arena is not None
    rows = {b.name: b for b in graph.arena.buffers}
    a, z = rows["a"], rows["z"]
    assert a.offset != z.offset
    apart = f"%z {z.offset} {z.size} live"
    printed = print_graph(graph)
    assert printed.count(apart) == 1
    edited = parse(printed.replace(apart, f"%z {a.offset} {z.size} live"))
    with pytest.raises(CompileError, match=r"its result %z at offset \d+ lies on %a"):
        compiled(edited, 4, 2, ())
    assert compiled(graph_of(text), 4, 2, (*LOWERING[:-1], PLAN_MEMORY))


@pytest.mark.parametrize("other", ["%s", "%a"])
@pytest.mark.parametrize("algorithm", ["im2col_rows", "shifted_gemm"])
def test_a_sum_may_take_the_place_of_what_a_convolution_adds(
    algorithm: str, other: str
) -> None:
    """Not where products are summed up there, nor where it is convolved as well."""
    graph = graph_of(f"""
    graph g(%x: f32[N,6,6,2]) -> (z=%z) {{
      param %k : f32[3,3,2,2] = zeros()
      %a = exp(%x) : f32[N,6,6,2]
      %s = sqrt(%a) : f32[N,6,6,2]
      %c = conv2d(%a, %k) {{padding=same}} : f32[N,6,6,2]
      %d = add(%c, {other}) : f32[N,6,6,2]
      %z = tanh(%d) : f32[N,6,6,2]
    }}
    """)
    schedule = {"algorithm": algorithm, "images": 2, "rows": 2}
    for threads in (1, 3):
        program = compiled(graph, 4, threads, scheduled("conv2d", schedule, IN_ORDER))
        program.load(parameters_for(graph))
        at = offsets(program)
        taken = algorithm == "im2col_rows" and other == "%s"
        assert (at["z"] == at.get(other[1:])) == taken
        poison(program)
        _, wrong = agrees(graph, inputs_for(graph, 3), program)
        assert not wrong


TEAMS = st.sampled_from([(1, 0), (2, 1), (3, 0)])
OPTIMIZERS = (SGD(0.125, weight_decay=0.5), Momentum(0.25, nesterov=True), Adam(0.25))


def run_poisoned(graph: Graph, program: Program, example: Example) -> None:
    """Two steps, before each of which the arena is filled with NaN."""
    program.load({**program.state(), **example.parameters})
    for _ in range(2):
        poison(program)
        _, wrong = agrees(graph, example.inputs, program, example.parameters)
        assert not wrong


@settings(max_examples=60, derandomize=True, deadline=None)
@given(graphs(), TEAMS)
def test_no_step_reads_what_it_has_not_written(
    example: Example, team: tuple[int, int]
) -> None:
    threads, spare = team
    batch = len(example.inputs["image"]) + spare
    run_poisoned(example.graph, compiled(example.graph, batch, threads), example)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(graphs(steps=5, loss=True), TEAMS, st.sampled_from(OPTIMIZERS))
def test_no_training_step_reads_what_it_has_not_written(
    example: Example, team: tuple[int, int], optimizer: SGD | Momentum | Adam
) -> None:
    if not example.trainable:
        return
    threads, spare = team
    batch = len(example.inputs["image"]) + spare
    step = Step(example.graph, training(optimizer, keep_gradients=True))
    program = step.compile("numpy", batch, threads)
    source = next(s.graph for s in program.stages if s.name == "simplify")
    run_poisoned(source, program, example)


# -- donation


def test_an_update_takes_its_parameters_place() -> None:
    graph = graph_of("""
    graph g(%x: f32[N,4]) -> (y=%y) {
      param %w : f32[4,4] = zeros()
      %y = matmul(%x, %w) : f32[N,4]
      %n = exp(%w) : f32[4,4]
      update %w = %n
    }
    """)
    program = compiled(graph, 4, 2)
    at = offsets(program)
    assert at["n"] == at["w"]
    program.load(parameters_for(graph))
    poison(program)
    _, wrong = agrees(graph, inputs_for(graph, 4), program)
    assert not wrong


@pytest.mark.parametrize(
    "call",
    [
        "matmul(%w, %w)",
        "matmul(%w, %v)",
        "transpose(%w) {perm=[1,0]}",
        "softmax(%w)",
        "add(%w, %w)",
    ],
)
def test_an_update_is_right_whatever_its_kernel_reads_while_it_writes(
    call: str,
) -> None:
    """With several workers, each writing rows while others read."""
    graph = graph_of(f"""
    graph g(%x: f32[N,4]) -> (y=%y) {{
      param %w : f32[64,64] = zeros()
      param %v : f32[64,64] = zeros()
      %y = relu(%x) : f32[N,4]
      %n = {call} : f32[64,64]
      update %w = %n
    }}
    """)
    program = compiled(graph, 2, 3)
    program.load(parameters_for(graph))
    _, wrong = agrees(graph, inputs_for(graph, 2), program)
    assert not wrong
