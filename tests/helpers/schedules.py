"""Kernels run with a schedule of the test's choice, beside what they could run with."""

from collections.abc import Sequence
from dataclasses import replace

from convc.backends import backend_named
from convc.backends.base import Candidate
from convc.ir.graph import Attrs, Graph, Node
from convc.passes.manager import Context, Pass
from convc.pipeline import LOWERING, Step


def kernel_of(graph: Graph, op: str, batch: int, threads: int) -> Node:
    """The kernel that holds ``op``, as schedules are chosen for it."""
    stages = Step(graph, LOWERING).stages("numpy", batch, threads)
    lowered = next(s.graph for s in stages if s.name == "choose-layout")
    return next(n for n in lowered.nodes if holds(n, op))


def candidates_of(
    graph: Graph, op: str, batch: int, threads: int
) -> tuple[Candidate, ...]:
    """What the NumPy backend can run the kernel with ``op`` with."""
    kernel = kernel_of(graph, op, batch, threads)
    return backend_named("numpy").candidates(kernel, batch, threads)


def scheduled(
    op: str, schedule: Attrs, passes: Sequence[Pass] = LOWERING
) -> tuple[Pass, ...]:
    """``passes`` with a further one that schedules the kernels that hold ``op``."""

    def rewrite(graph: Graph, context: Context) -> Graph:
        nodes = (
            replace(n, schedule=schedule) if holds(n, op) else n for n in graph.nodes
        )
        return replace(graph, nodes=tuple(nodes))

    at = [p.name for p in passes].index("choose-schedule")
    return (*passes[:at], Pass("schedule-by-hand", rewrite, ("kernel",)), *passes[at:])


def holds(node: Node, op: str) -> bool:
    """Whether a node is a kernel with ``op`` in its body."""
    return node.region is not None and any(n.op == op for n in node.region.nodes)
