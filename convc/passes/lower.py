"""From fused ops to launches: every op stands in a kernel, updates last."""

from collections.abc import Iterator
from dataclasses import replace

import networkx as nx

from convc.backends.base import OPTIMIZERS
from convc.ir.builder import GraphBuilder
from convc.ir.errors import CompileError
from convc.ir.graph import VIEWS, Graph, Node, Value
from convc.ir.liveness import in_place
from convc.ir.ops import OPS
from convc.passes.canonicalize import drop_dead
from convc.passes.manager import Context, Pass
from convc.passes.outline import outline


def form_kernels(graph: Graph, context: Context) -> Graph:
    """Put every op that was not fused into a kernel of its own, updates last.

    Updates happen in place, so nothing may read a parameter after the kernel that
    updates it: such kernels go to the end, and an update that comes before a reader of
    the old parameter, or is no kernel's result, is copied there.
    """
    graph = drop_dead(replace(graph, stage="fusing"))
    graph = _updates_last(_copy_updates(graph))
    for node in graph.nodes:
        if node.region is None and node.op not in (*VIEWS, "constant"):
            graph = outline(graph, [node.name])
    graph = drop_dead(graph)
    for node in graph.nodes:
        if node.op == "constant":
            graph = outline(graph, [node.name])
    return replace(_updates_last(graph), stage="kernel")


def _copy_updates(graph: Graph) -> Graph:
    """Copy what cannot be made or shown in place.

    An update that two parameters take, that is no kernel's result, that comes before a
    reader of the old parameter, or whose own kernel still reads that while it writes;
    an output that is a parameter, its update or a view of either.
    """
    producers, users, flow = graph.producers(), graph.users(), graph.dataflow()
    parameters = {p.value.name for p in graph.parameters}
    b = GraphBuilder(graph.name, graph)
    taken: set[str] = set()
    updates = []
    for parameter, value in graph.updates:
        maker = producers.get(value.name)
        later = nx.descendants(flow, maker.name) if maker else set()
        readers = set(_readers(parameter.name, users))
        both = not later.isdisjoint(readers)
        if maker is not None and maker.name in readers:
            both |= not _works_in_place(maker, parameter, value)
        fresh = maker is not None and maker.op not in VIEWS
        b.locs = maker.locs if maker else ()
        if not fresh or both or value.name in taken:
            value = b("copy", value)
        taken.add(value.name)
        updates.append((parameter, value))
    shared = parameters | {v.name for _, v in updates}
    for node in graph.nodes:
        if node.op in VIEWS and node.operands[0].name in shared:
            shared.add(node.name)
    outputs = tuple(
        (k, b("copy", v) if v.name in shared else v) for k, v in graph.outputs
    )
    done = b.finish()
    return replace(done, outputs=outputs, updates=tuple(updates), stage=graph.stage)


def _works_in_place(node: Node, old: Value, new: Value) -> bool:
    """Whether a node that reads a parameter may write its update there."""
    body = node.region.nodes if node.region else (node,)
    if any(n.op in OPTIMIZERS for n in body):
        return True
    if node.region is None:
        return old in node.operands and OPS[node.op].elementwise
    return (old, new) in [
        (node.operands[i], node.results[j]) for i, j in in_place(node)
    ]


def _updates_last(graph: Graph) -> Graph:
    """Order the nodes so that nothing reads a parameter after its update is made."""
    flow, producers, users = graph.dataflow(), graph.producers(), graph.users()
    late = set()
    for parameter, value in graph.updates:
        maker = producers[value.name].name
        late.add(maker)
        for reader in _readers(parameter.name, users):
            if reader != maker:
                flow.add_edge(reader, maker)
    position = {n.name: (n.name in late, i) for i, n in enumerate(graph.nodes)}
    by_name = {n.name: n for n in graph.nodes}
    try:
        order = list(
            nx.lexicographical_topological_sort(flow, key=position.__getitem__)
        )
    except nx.NetworkXUnfeasible:
        raise CompileError(
            "two parameters are each updated from the other's old value; copy one first"
        ) from None
    return replace(graph, nodes=tuple(by_name[name] for name in order))


def _readers(name: str, users: dict[str, list[Node]]) -> Iterator[str]:
    """Names of the nodes that read a value, themselves or through a view."""
    for node in users[name]:
        yield node.name
        if node.op in VIEWS:
            yield from _readers(node.name, users)


FORM_KERNELS = Pass("form-kernels", form_kernels, ("tensor", "fusing"), "kernel")
