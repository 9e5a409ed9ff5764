"""Nodes moved into a kernel mean what they meant, and must be convex."""

from dataclasses import replace

import pytest
from pass_bench import graph_of, stage_after

from convc.ir.graph import Graph
from convc.passes.manager import Pass
from convc.passes.outline import is_convex, outline

DIAMOND = """
graph g(%x: f32[N,4]) -> (y=%4) {
  %1 = relu(%x) : f32[N,4]   @ net.py:1 a
  %2 = exp(%1) : f32[N,4]   @ net.py:2 b
  %3 = negate(%1) : f32[N,4]   @ net.py:3 c
  %4 = add(%2, %3) : f32[N,4]   @ net.py:4 d
}
"""


def test_nodes_with_a_path_around_are_not_convex() -> None:
    graph = graph_of(DIAMOND)
    assert is_convex(graph, ["1", "2"])
    assert is_convex(graph, ["1", "2", "3", "4"])
    assert is_convex(graph, ["2", "3"])
    assert not is_convex(graph, ["1", "4"])
    assert not is_convex(graph, ["1", "2", "4"])


@pytest.mark.parametrize("names", [["1"], ["1", "2"], ["2", "3", "4"], ["3", "2"]])
def test_what_is_outlined_means_the_same(names: list[str]) -> None:
    def rewrite(graph: Graph, _: object) -> Graph:
        return outline(replace(graph, stage="fusing"), names)

    item = Pass("outline", rewrite, ensures="fusing")
    graph = stage_after(item, of=DIAMOND).graph
    (kernel,) = (n for n in graph.nodes if n.region)
    assert len(kernel.region.nodes) == len(names)
    assert len(kernel.locs) == len(names)
