"""A part of a graph is a graph, and the smallest one that fails is found."""

import numpy as np
from pass_bench import graph_of, same

from convc.ir.graph import Graph
from convc.ir.interpreter import interpret
from convc.ir.verifier import verify
from convc.passes.outline import outline
from convc.trust.window import inlined, smallest, window

CHAIN = """
graph g(%x: f32[N,4]) -> (y=%5, z=%2) {
  param %w : f32[4,4] = zeros()
  param %v : f32[4,4] = zeros()
  %1 = matmul(%x, %w) : f32[N,4]
  %2 = relu(%1) : f32[N,4]
  %k = constant() {value=2.0, dtype=f32} : f32[]
  %3 = multiply(%2, %k) : f32[N,4]
  %4 = matmul(%3, %v) : f32[N,4]
  %5 = tanh(%4) : f32[N,4]
  %6 = add(%w, %v) : f32[4,4]
  update %w = %6
}
"""


def test_what_the_rest_makes_is_an_input_and_what_it_reads_an_output() -> None:
    part = window(graph_of(CHAIN), ["3", "4"])
    expected = """
    graph g(%2: f32[N,4]) -> ("4"=%4) {
      param %v : f32[4,4] = zeros()
      %k = constant() {value=2.0} : f32[]
      %3 = multiply(%2, %k) : f32[N,4]
      %4 = matmul(%3, %v) : f32[N,4]
    }
    """
    assert same(verify(part), expected)


def test_an_update_comes_with_the_node_that_makes_it() -> None:
    part = verify(window(graph_of(CHAIN), ["6"]))
    assert [(p.name, v.name) for p, v in part.updates] == [("w", "6")]
    assert part.outputs == ()
    assert part.inputs == ()


def test_a_value_that_is_read_inside_and_outside_is_an_output_too() -> None:
    part = window(graph_of(CHAIN), ["1", "2", "3"])
    assert [name for name, _ in part.outputs] == ["2", "3"]


def test_the_smallest_failing_part_has_only_what_is_needed() -> None:
    """Fails: a product of which a relu is a forefather."""

    def fails(graph: Graph) -> bool:
        ops = [n.op for n in graph.nodes]
        return "relu" in ops and "matmul" in ops[ops.index("relu") :]

    found = smallest(graph_of(CHAIN), ["2"], fails)
    assert found is not None
    assert {n.op for n in found.nodes} == {"relu", "matmul"}
    assert smallest(graph_of(CHAIN), ["2"], lambda graph: False) is None


def test_a_body_that_is_put_back_means_the_same() -> None:
    graph = graph_of(CHAIN)
    kernel = outline(graph, ["2", "3", "4"])
    node = next(n for n in kernel.nodes if n.region is not None)
    assert node.region is not None
    back = verify(inlined(kernel, node))
    rng = np.random.default_rng(1)
    given = (
        {"x": rng.normal(size=(3, 4)).astype(np.float32)},
        {k: rng.normal(size=(4, 4)).astype(np.float32) for k in "wv"},
    )
    one, two = (interpret(g, *given) for g in (graph, back))
    assert all(np.array_equal(a, two.outputs[k]) for k, a in one.outputs.items())
    assert sorted(n.op for n in back.nodes) == sorted(
        [*(n.op for n in kernel.nodes if n != node), *(n.op for n in node.region.nodes)]
    )


def test_a_part_that_reads_what_is_fed_is_fed_it() -> None:
    text = "graph g(%x: f32[N], %p: f32[] = 0.75) -> (y=%2) {{ {} {} }}"
    graph = graph_of(
        text.format("%1 = multiply(%x, %p) : f32[N]", "%2 = negate(%1) : f32[N]")
    )
    assert verify(window(graph, ["1"])).feeds == graph.feeds
    assert verify(window(graph, ["2"])).feeds == ()
