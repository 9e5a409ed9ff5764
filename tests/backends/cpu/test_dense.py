"""Dense kernels give what the oracle gives, however workers share a product."""

from dataclasses import replace

import pytest
from compiled import agrees, compiled, inputs_for, parameters_for, poison

import convc as cc
from convc.backends import backend_named
from convc.backends.cpu.cost import gemm
from convc.ir.graph import Graph, Node
from convc.optimizers import SGD
from convc.passes.manager import Context, Pass
from convc.passes.outline import outline
from convc.pipeline import LOWERING, training

BATCH = 7
SETTINGS = ((1, 5), (2, 7), (3, 2), (9, 7))
"""Threads and images: also fewer images, and fewer rows, than there are workers."""


def network(image: cc.Tensor) -> cc.Tensor:
    x = cc.dense(cc.flatten(image), 12, activation="relu", name="wide")
    x = cc.dropout(x, keep=0.75)
    x = cc.dense(x, 5, activation="relu", name="middle")
    return cc.dense(x, 3, name="logits")


def trained() -> Graph:
    """Forward and backward kernels of every kind, as tensor ops."""
    step = cc.Model(network, image="f32[N,3,4,2]").training_step()
    at = [p.name for p in step.passes].index("fuse-conv")
    before = replace(step, passes=training(SGD(0.5))[:at])
    return before.stages(batch=BATCH, threads=1)[-1].graph


def by(algorithm: str) -> tuple[Pass, ...]:
    """The lowering passes, with that algorithm wherever a kernel has it."""

    def rewrite(graph: Graph, context: Context) -> Graph:
        return replace(graph, nodes=tuple(choose(n, context) for n in graph.nodes))

    def choose(node: Node, context: Context) -> Node:
        if node.region is None:
            return node
        found = context.backend.candidates(node, context.batch, context.threads)
        for candidate in found:
            if candidate.schedule["algorithm"] == algorithm:
                return replace(node, schedule=candidate.schedule)
        return node

    at = [p.name for p in LOWERING].index("choose-schedule")
    return (*LOWERING[:at], Pass("by-hand", rewrite, ("kernel",)), *LOWERING[at:])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("threads", "n"), SETTINGS)
@pytest.mark.parametrize("algorithm", ["gemm_rows", "gemm_columns"])
def test_every_algorithm_is_right(
    algorithm: str, threads: int, n: int, whole: bool
) -> None:
    graph = trained()
    program = compiled(graph, BATCH, threads, by(algorithm))
    used = [
        (node.schedule or {}).get("algorithm")
        for node in program.graph.nodes
        if node.region is not None
        and any(inner.op == "matmul" for inner in node.region.nodes)
    ]
    assert used.count(algorithm) >= 5
    poison(program)
    program.load(parameters_for(graph, whole))
    assert agrees(graph, inputs_for(graph, n, whole), program)[1] == []


def kernel(rows: int, depth: int) -> Node:
    """A dense layer with a bias, ready for a schedule."""

    def net(image: cc.Tensor) -> cc.Tensor:
        return cc.dense(image, rows, name="layer")

    step = cc.Model(net, image=f"f32[N,{depth}]").inference()
    stages = {s.name: s for s in step.stages(batch=128, threads=2)}
    nodes = stages["choose-layout"].graph.nodes
    return next(n for n in nodes if "dense" in str(n.attrs.get("name")))


@pytest.mark.parametrize(
    ("rows", "depth", "best"),
    [(1024, 3136, "gemm_rows"), (10, 1024, "gemm_columns")],
)
def test_few_rows_are_shared_by_columns(rows: int, depth: int, best: str) -> None:
    found = backend_named("numpy").candidates(kernel(rows, depth), 128, 2)
    assert found[0].schedule["algorithm"] == best
    assert len(found) == 2
    flops = gemm(rows, depth, 128).flops
    assert {c.cost.flops for c in found} == {flops}


def test_a_filter_gradient_alone_has_rows_only() -> None:
    graph = trained()
    names = [n.name for n in graph.nodes if n.op == "matmul" and n.attrs["transpose_a"]]
    graph = outline(replace(graph, stage="fusing"), names[:1])
    node = next(n for n in graph.nodes if n.region is not None)
    found = backend_named("numpy").candidates(node, BATCH, 2)
    assert [c.schedule["algorithm"] for c in found] == ["gemm_rows"]
