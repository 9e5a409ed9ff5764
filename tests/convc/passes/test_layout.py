"""Storage orders: how few copies there are, and the same numbers each way."""

import pytest
from compiled import agrees, compiled, inputs_for, parameters_for
from pass_bench import graph_of

import convc as cc
from convc.ir.graph import Graph
from convc.ir.types import batch_last
from convc.networks import NETWORKS
from convc.program import Program


def copies(graph: Graph) -> list[str]:
    """What is copied: the operands of the kernels that do nothing else."""
    kernels = [n for n in graph.nodes if n.region]
    return [
        k.operands[0].name
        for k in kernels
        if [n.op for n in k.region.nodes] == ["copy"]
    ]


@pytest.mark.parametrize("kind", ["inference", "evaluation_step", "training_step"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_copies_its_images_once_and_nothing_else(
    name: str, kind: str
) -> None:
    """Kernels and outputs keep the batch innermost, labels have one axis only."""
    step = getattr(cc.Model(NETWORKS[name], image="f32[N,28,28,1]"), kind)()
    graph = step.compile(batch=8, threads=2).graph
    assert copies(graph) == ["image"]
    for node in graph.nodes:
        for value in node.results:
            assert value.type == batch_last(value.type)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_image_is_not_copied(name: str) -> None:
    """Batch first and batch last are the same bytes."""
    step = cc.Model(NETWORKS[name], image="f32[N,8,8,1]").inference()
    program = step.compile(batch=1, threads=2)
    assert copies(program.graph) == []
    meant = program.stages[1].graph
    program.load(parameters_for(meant))
    _, wrong = agrees(meant, inputs_for(meant, 1), program)
    assert not wrong


PLAIN = {
    "products": """
        graph g(%x: f32[N,2,3]) -> (y=%2, dw=%3) {
          param %w : f32[6,4] = zeros()
          %1 = reshape(%x) {shape=[N,6]} : f32[N,6]
          %2 = matmul(%1, %w) : f32[N,4]
          %3 = matmul(%1, %2) {transpose_a=true} : f32[6,4]
        }""",
    "a product with another input": """
        graph g(%x: f32[N,6], %z: f32[N,4]) -> (y=%1) {
          %1 = matmul(%x, %z) {transpose_a=true} : f32[6,4]
        }""",
    "elementwise ops, which put it in order on the way": """
        graph g(%x: f32[N,2,3], %z: f32[N,2,3]) -> (y=%3) {
          param %m : f32[3] = zeros()
          %1 = subtract(%x, %m) : f32[N,2,3]
          %2 = sigmoid(%x) : f32[N,2,3]
          %3 = multiply(%1, %z) : f32[N,2,3]
          %4 = multiply(%3, %2) : f32[N,2,3]
        }""",
    "nothing, as nobody reads it": """
        graph g(%x: f32[N,2,3], %z: f32[N,2,3]) -> (y=%1) {
          %1 = exp(%z) : f32[N,2,3]
        }""",
    "an output that is a view of it": """
        graph g(%x: f32[N,2,3]) -> (y=%1, z=%2) {
          %1 = reshape(%x) {shape=[N,6]} : f32[N,6]
          %2 = exp(%x) : f32[N,2,3]
        }""",
}
COPIED = {
    "a product and a sum": """
        graph g(%x: f32[N,6]) -> (y=%1, z=%2) {
          param %w : f32[6,4] = zeros()
          %1 = matmul(%x, %w) : f32[N,4]
          %2 = reduce_sum(%x) {axes=[1]} : f32[N]
        }""",
    "a view of it that is pooled": """
        graph g(%x: f32[N,16]) -> (y=%1, z=%3) {
          param %w : f32[16,4] = zeros()
          %1 = matmul(%x, %w) : f32[N,4]
          %2 = reshape(%x) {shape=[N,4,4,1]} : f32[N,4,4,1]
          %3 = max_pool2d(%2) {window=[3,3], strides=[1,1]} : f32[N,2,2,1]
        }""",
}


@pytest.mark.parametrize("why", [*PLAIN, *COPIED])
def test_an_input_is_copied_only_for_kernels_that_need_it(why: str) -> None:
    graph = graph_of({**PLAIN, **COPIED}[why])
    for threads in (1, 3):
        program = compiled(graph, 4, threads, check=True)
        assert copies(program.graph) == (["x"] if why in COPIED else [])
        program.load(parameters_for(graph))
        for n in (4, 3):
            _, wrong = agrees(graph, inputs_for(graph, n), program)
            assert not wrong


WEIGHTS = """
graph g(%x: f32[N,6]) -> (y=%3, z=%4) {
  param %once : f32[6,4] = zeros()
  param %turned : f32[3,4] = zeros()
  param %shared : f32[4,4] = zeros()
  %1 = matmul(%x, %once) : f32[N,4]
  %2 = matmul(%1, %shared) : f32[N,4]
  %3 = matmul(%2, %shared) : f32[N,4]
  %4 = matmul(%3, %turned) {transpose_b=true} : f32[N,3]
}
"""


def orders(program: Program) -> dict[str, tuple[int, ...]]:
    return {p.value.name: p.value.type.order for p in program.graph.parameters}


def test_weights_have_a_row_for_each_result_of_one_image() -> None:
    """Where one kernel reads them, and no step changes them; else as they are given."""
    graph, plain = graph_of(WEIGHTS), (0, 1)
    one = compiled(graph, 1, 1)
    assert orders(one) == {"once": (1, 0), "turned": plain, "shared": plain}
    assert set(orders(compiled(graph, 2, 1)).values()) == {plain}
    _, wrong = agrees(graph, inputs_for(graph, 1), loaded(one, graph))
    assert not wrong
    step = cc.Model(NETWORKS["two_conv"], image="f32[N,8,8,1]").training_step()
    assert orders(step.compile(batch=1, threads=1))["fc/kernel"] == plain


def loaded(program: Program, graph: Graph) -> Program:
    program.load(parameters_for(graph))
    return program
