"""A schedule or a plan that was edited by hand runs rightly or is refused."""

import re
from dataclasses import replace

import pytest
from compiled import agrees, compiled, inputs_for
from pass_bench import graph_of

from convc.ir.errors import CompileError
from convc.ir.graph import Attr, Graph
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.passes.plan_memory import PLAN_MEMORY
from convc.pipeline import LOWERING, Step

TEXT = """
graph g(%x: f32[N,4,4,2], %rate: f32[]) -> (y=%5) {
  param %k : f32[3,3,2,3] = zeros()
  param %b : f32[3] = zeros()
  %1 = conv2d(%x, %k) {padding=same} : f32[N,4,4,3]
  %2 = bias_add(%1, %b) : f32[N,4,4,3]
  %3 = avg_pool2d(%2) {window=[2,2], strides=[1,1]} : f32[N,3,3,3]
  %4 = reshape(%3) {shape=[N,27]} : f32[N,27]
  %5 = softmax(%4) : f32[N,27]
  %dk = exp(%k) : f32[3,3,2,3]
  %db = exp(%b) : f32[3]
  %6 = sgd(%k, %dk, %rate) : f32[3,3,2,3]
  %7 = sgd(%b, %db, %rate) : f32[3]
  update %k = %6
  update %b = %7
}
"""
GRAPH = graph_of(TEXT)


def stage(name: str) -> Graph:
    """The graph at a stage, for four images and two threads."""
    stages = Step(GRAPH, LOWERING).stages(batch=4, threads=2)
    return next(s.graph for s in stages if s.name == name)


def scheduled(part: str, key: str, value: Attr) -> Graph:
    """The scheduled graph with an entry of the kernel that holds ``part`` changed."""
    graph = stage("choose-schedule")
    nodes = []
    for node in graph.nodes:
        if node.region and any(n.op == part for n in node.region.nodes):
            node = replace(node, schedule={**(node.schedule or {}), key: value})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


RESUMED = tuple(p for p in LOWERING if p.name in ("choose-schedule", "plan-memory"))


def resume(graph: Graph) -> None:
    """Compile from the scheduled text on, run it and compare."""
    program = compiled(parse(print_graph(graph)), 4, 2, RESUMED)
    program.initialize(3)
    _, wrong = agrees(GRAPH, inputs_for(GRAPH, 4), program)
    assert not wrong


def test_a_plan_that_nobody_touched_runs() -> None:
    resume(stage("choose-schedule"))
    program = compiled(stage("plan-memory"), 4, 2, ())
    _, wrong = agrees(GRAPH, inputs_for(GRAPH, 4), program)
    assert not wrong


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("conv2d", "images", 1),
        ("conv2d", "rows", 3),
        ("sgd", "piece", 5),
        ("softmax", "batch", 9),
    ],
)
def test_another_schedule_gives_the_same(part: str, key: str, value: int) -> None:
    resume(scheduled(part, key, value))


@pytest.mark.parametrize(
    ("part", "key", "value", "reason"),
    [
        ("softmax", "batch", 3, "its schedule is for 3 images, the program for 4"),
        ("conv2d", "images", 0, "schedule needs a positive images, has 0"),
        ("conv2d", "images", "many", "schedule needs a positive images, has 'many'"),
        ("conv2d", "images", True, "schedule needs a positive images, has True"),
        ("conv2d", "algorithm", "magic", "unknown algorithm 'magic', known: im2col"),
        ("conv2d", "speed", 9, "its schedule has .*'speed'.* wants"),
    ],
)
def test_a_schedule_that_cannot_run_is_refused(
    part: str, key: str, value: Attr, reason: str
) -> None:
    with pytest.raises(CompileError, match=reason):
        resume(scheduled(part, key, value))


def moved(name: str, **changes: int) -> Graph:
    """The planned graph with one buffer changed, and room behind all others."""
    graph = stage("plan-memory")
    assert graph.arena is not None
    size = graph.arena.size
    buffers = tuple(
        replace(b, **{k: v + size * (k == "offset") for k, v in changes.items()})
        if b.name == name
        else b
        for b in graph.arena.buffers
    )
    arena = replace(graph.arena, buffers=buffers, size=2 * size)
    return replace(graph, arena=arena)


def scratch_of(part: str) -> str:
    graph = stage("plan-memory")
    assert graph.arena is not None
    kernels = [n for n in graph.nodes if n.region]
    (kernel,) = (k for k in kernels if any(n.op == part for n in k.region.nodes))
    names = (b.name for b in graph.arena.buffers)
    return next(name for name in names if name.startswith(f"{kernel.name}!"))


def test_an_update_that_lies_elsewhere_is_refused() -> None:
    with pytest.raises(CompileError, match="%6 must lie on %k at offset .* it lies at"):
        compiled(moved("6", offset=0), 4, 2, ())


def test_a_view_that_lies_elsewhere_is_refused() -> None:
    with pytest.raises(CompileError, match="%4 must lie on %3 at offset"):
        compiled(moved("4", offset=0), 4, 2, ())


def test_parameters_that_are_not_in_one_block_are_refused() -> None:
    graph = moved("b", offset=0)
    assert graph.arena is not None
    home = next(b for b in graph.arena.buffers if b.name == "b")
    buffers = tuple(
        replace(b, offset=home.offset) if b.name == "7" else b
        for b in graph.arena.buffers
    )
    graph = replace(graph, arena=replace(graph.arena, buffers=buffers))
    with pytest.raises(
        CompileError, match="%b must follow the one before it at offset"
    ):
        compiled(graph, 4, 2, ())


def test_scratch_that_is_too_small_or_missing_is_refused() -> None:
    name = scratch_of("conv2d")
    with pytest.raises(CompileError, match=f"%{name} needs .* bytes, the plan has 64"):
        compiled(moved(name, size=64), 4, 2, ())
    graph = stage("plan-memory")
    assert graph.arena is not None
    rest = tuple(b for b in graph.arena.buffers if b.name != name)
    missing = replace(graph, arena=replace(graph.arena, buffers=rest))
    with pytest.raises(CompileError, match="bytes, the plan has 0"):
        compiled(missing, 4, 2, ())


def test_a_value_moved_to_free_memory_runs() -> None:
    """Where a value lies is the plan's choice, and no result depends on it."""
    program = compiled(moved("2", offset=64), 4, 2, ())
    program.initialize(3)
    _, wrong = agrees(GRAPH, inputs_for(GRAPH, 4), program)
    assert not wrong


def test_planning_again_repairs_an_edited_graph() -> None:
    graph = replace(stage("choose-schedule"), arena=None)
    assert compiled(graph, 4, 2, (PLAN_MEMORY,)).graph == stage("plan-memory")


def edited(name: str, old: str, new: str) -> Graph:
    """The graph at a stage with one part of its text changed."""
    text = print_graph(stage(name))
    assert old in text
    return parse(text.replace(old, new))


@pytest.mark.parametrize("layout", ["", "{2,1,3,0}"])
@pytest.mark.parametrize("shape", ["[N,4,4,2]", "[N,4,4,3]"])
def test_a_storage_order_that_the_code_does_not_have_is_refused(
    shape: str, layout: str
) -> None:
    """Whether it is an operand's or a result's; the order itself would be legal."""
    graph = edited("choose-layout", f"f32{shape}{{1,2,3,0}}", f"f32{shape}{layout}")
    stored = re.escape(f"is stored as f32{shape}{layout}, the numpy backend wants f32")
    with pytest.raises(CompileError, match=rf"kernel \w+ at .*: %\S+ {stored}"):
        compiled(graph, 4, 2, RESUMED)


def test_a_kernel_that_does_not_yield_what_it_computes_is_refused() -> None:
    graph = edited("choose-schedule", "yield %b", "yield %a")
    rule = "nothing reads %b, the result of its bias_add; yield it, or leave the op out"
    with pytest.raises(CompileError, match=rf"kernel conv_bias at .*: {rule}"):
        compiled(graph, 4, 2, RESUMED)
