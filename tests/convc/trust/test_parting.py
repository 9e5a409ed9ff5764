"""Where two graphs part is where the first value differs, or what is read instead."""

from dataclasses import replace

import pytest
from pass_bench import graph_of

from convc.passes.outline import outline
from convc.trust.parting import parting

BEFORE = """
graph g(%x: f32[N,4]) -> (y=%4) {
  param %w : f32[4,4] = zeros()
  param %v : f32[4,4] = zeros()
  %1 = matmul(%x, %w) : f32[N,4]   @ net.py:1 a
  %2 = relu(%1) : f32[N,4]   @ net.py:1 a
  %3 = matmul(%2, %v) : f32[N,4]   @ net.py:2 b
  %4 = tanh(%3) : f32[N,4]   @ net.py:2 b
  %5 = add(%w, %v) : f32[4,4]   @ net.py:3 c
  %6 = subtract(%w, %v) : f32[4,4]   @ net.py:3 c
  update %w = %5
  update %v = %6
}
"""


def test_equal_graphs_do_not_part() -> None:
    assert parting(graph_of(BEFORE), graph_of(BEFORE)) is None


@pytest.mark.parametrize(
    ("old", "new", "name", "said"),
    [
        ("relu(%1)", "exp(%1)", "2", "relu became exp"),
        ("matmul(%2, %v)", "matmul(%1, %v)", "2", "matmul reads %1 where it read %2"),
        ("matmul(%2, %v)", "matmul(%2, %w)", "3", "matmul reads %w where it read %v"),
        (
            "matmul(%2, %v)",
            "matmul(%2, %v) {transpose_b=true}",
            "3",
            "transpose_b=False became True",
        ),
        ("update %w = %5", "update %w = %6", "5", "%w was updated to %5, now to %6"),
    ],
)
def test_the_first_difference_is_named_with_what_changed(
    old: str, new: str, name: str, said: str
) -> None:
    found = parting(graph_of(BEFORE), graph_of(BEFORE.replace(old, new)))
    assert found is not None
    assert found.node.name == name
    assert said in found.reason


def test_what_cannot_be_run_is_compared_as_it_is_written() -> None:
    before = graph_of(BEFORE)
    nodes = [
        replace(n, operands=(n.operands[0], before.inputs[0])) if n.name == "3" else n
        for n in before.nodes
    ]
    found = parting(before, replace(before, nodes=tuple(nodes)))
    assert found is not None
    assert found.node.name == "3"


def test_an_op_that_a_kernel_lacks_is_named() -> None:
    graph = graph_of(BEFORE)
    fused = outline(graph, ["1", "2"])
    kernel = next(n for n in fused.nodes if n.region is not None)
    assert kernel.region is not None
    first = kernel.region.nodes[:1]
    body = replace(kernel.region, nodes=first, yields=first[0].results)
    nodes = (replace(n, region=body) if n == kernel else n for n in fused.nodes)
    found = parting(graph, replace(fused, nodes=tuple(nodes)))
    assert found is not None
    assert (found.node.op, str(found.node.locs[0])) == ("relu", "net.py:1 a")
    assert "the kernel has no relu" in found.reason
