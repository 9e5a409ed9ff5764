"""Parts of a graph as graphs of their own, and the smallest one that still fails."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from convc.ir.graph import Graph, Node, Value, substitute

Fails = Callable[[Graph], bool]


def window(graph: Graph, names: Iterable[str]) -> Graph:
    """The nodes called ``names`` alone: what they read from others becomes an input.

    Parameters stay parameters, constants come along. Outputs are what the rest reads,
    and what nobody reads; updates are those that the nodes make.
    """
    chosen = set(names)
    read = {v.name for n in graph.nodes if n.name in chosen for v in n.operands}
    nodes = tuple(
        n
        for n in graph.nodes
        if n.name in chosen or (n.op == "constant" and n.name in read)
    )
    made = {v.name: v for n in nodes for v in n.results}
    inside = {v.name for n in nodes for v in n.operands}
    outside = {v.name for n in graph.nodes if n not in nodes for v in n.operands}
    updates = tuple(u for u in graph.updates if u[1].name in made)
    updated = {v.name for u in updates for v in u}
    kept = tuple(p for p in graph.parameters if p.value.name in inside | updated)
    known = {p.value.name for p in kept}
    inputs = dict.fromkeys(
        v for n in nodes for v in n.operands if v.name not in made.keys() | known
    )
    shown = outside | {v.name for _, v in graph.outputs}
    outputs = tuple(
        (v.name, v)
        for n in nodes
        if n.op != "constant"
        for v in n.results
        if v.name in shown or v.name not in inside | updated
    )
    return replace(
        graph,
        inputs=tuple(replace(v, type=v.type.plain) for v in inputs),
        parameters=kept,
        nodes=nodes,
        outputs=outputs,
        updates=updates,
        arena=None,
        feeds=tuple(f for f in graph.feeds if f[0] in {v.name for v in inputs}),
    )


def smallest(graph: Graph, suspects: Iterable[str], fails: Fails) -> Graph | None:
    """A window around ``suspects`` for which ``fails`` holds, as small as is easy.

    It grows by neighbours until it fails, then loses nodes that are not needed. None
    if not even the whole graph, made into a window, fails.
    """
    chosen = {n.name for n in graph.nodes if n.name in set(suspects)}
    while chosen and not fails(window(graph, chosen)):
        wider = _neighbours(graph, chosen)
        if wider == chosen:
            return None
        chosen = wider
    for name in sorted(chosen):
        if len(chosen) > 1 and fails(window(graph, chosen - {name})):
            chosen.remove(name)
    return window(graph, chosen) if chosen else None


def _neighbours(graph: Graph, chosen: set[str]) -> set[str]:
    """``chosen`` with the nodes that make what they read and read what they make."""
    read = {v.name for n in graph.nodes if n.name in chosen for v in n.operands}
    made = {v.name for n in graph.nodes if n.name in chosen for v in n.results}
    return chosen | {
        n.name
        for n in graph.nodes
        if any(v.name in read for v in n.results)
        or any(v.name in made for v in n.operands)
    }


def inlined(graph: Graph, kernel: Node) -> Graph:
    """``graph`` with the body of ``kernel`` in its place, at the tensor stage.

    A value inside it that is no result is called by the kernel's name and its own.
    """
    region = kernel.region
    assert region is not None
    table = dict(zip((v.name for v in region.inputs), kernel.operands, strict=True))
    table |= {
        inner.name: outer
        for inner, outer in zip(region.yields, kernel.results, strict=True)
    }
    body = []
    for node in region.nodes:
        for v in node.results:
            table.setdefault(v.name, Value(f"{kernel.name}.{v.name}", v.type))
        renamed = tuple(table[v.name] for v in node.results)
        body.append(replace(substitute(node, table), results=renamed))
    at = graph.nodes.index(kernel)
    nodes = (*graph.nodes[:at], *body, *graph.nodes[at + 1 :])
    return replace(graph, nodes=nodes, stage="tensor", arena=None)
