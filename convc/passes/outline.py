"""Moves nodes into a kernel: the rewrite that all fusions share."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from string import ascii_lowercase

import networkx as nx

from convc.ir.graph import Graph, Node, Region, Value, in_order, merge_locs, substitute
from convc.ir.ops.random import DROPOUTS

SHORT = {
    "conv2d": "conv",
    "conv2d_filter_grad": "dw",
    "conv2d_input_grad": "dx",
    "bias_add": "bias",
    "max_pool2d": "pool",
    "max_pool2d_argmax": "",
    "max_pool2d_grad": "pool_grad",
    "matmul": "dense",
    **dict.fromkeys(DROPOUTS, "dropout"),
    "softmax_cross_entropy": "loss",
    "softmax_cross_entropy_grad": "loss_grad",
    "reduce_sum": "sum",
}
"""Ops whose part of a kernel's name is not their own."""


def kernel_name(nodes: Sequence[Node]) -> str:
    """A name from the layer and the ops: ``conv1_conv_bias_pool_relu``."""
    locs = merge_locs(nodes)
    layer = locs[0].layer.replace("/", "_") if locs and locs[0].layer else ""
    parts = [layer, *(SHORT.get(n.op, n.op) for n in nodes)]
    return "_".join(dict.fromkeys(p for p in parts if p))


def outline(graph: Graph, names: Iterable[str], name: str | None = None) -> Graph:
    """``graph`` with the nodes called ``names`` moved into one kernel.

    The kernel's operands are the values the nodes read from outside, its results those
    that are read outside or live out of the graph. Constants they read are copied into
    the kernel. The nodes must be convex: see ``is_convex``.
    """
    chosen = set(names)
    picked = [n for n in graph.nodes if n.name in chosen]
    nodes = [*_constants(graph, picked), *picked]
    made = {v.name for n in nodes for v in n.results}
    operands = tuple(
        dict.fromkeys(v for n in nodes for v in n.operands if v.name not in made)
    )
    read = {v.name for n in graph.nodes if n.name not in chosen for v in n.operands}
    escaping = read | graph.live_out()
    results = tuple(v for n in picked for v in n.results if v.name in escaping)
    kernel = Node(
        "kernel",
        operands,
        results,
        {"name": name or kernel_name(picked)},
        merge_locs(picked),
        _region(nodes, operands, results),
    )
    rest = []
    for node in graph.nodes:
        if node.name not in chosen:
            rest.append(node)
        elif node is picked[-1]:
            rest.append(kernel)
    moved = replace(graph, nodes=tuple(rest))
    return replace(graph, nodes=in_order(moved, rest)) if len(picked) > 1 else moved


def _constants(graph: Graph, nodes: Sequence[Node]) -> list[Node]:
    """The constants that ``nodes`` read and do not contain."""
    read = {v.name for n in nodes for v in n.operands}
    return [
        n
        for n in graph.nodes
        if n.op == "constant" and n.name in read and n not in nodes
    ]


def absorb(kernel: Node, makers: Iterable[Node]) -> Node:
    """``kernel`` with copies of the nodes that make some of its operands, at its start.

    It reads what they read in the place of those operands, after the others.
    """
    made = list(makers)
    names = {v.name for n in made for v in n.results}
    read = [*kernel.operands, *(v for n in made for v in n.operands)]
    operands = tuple(dict.fromkeys(v for v in read if v.name not in names))
    region = kernel.region
    assert region is not None, "only a kernel takes nodes in"
    inputs, outer = _numbered(operands)
    letters = map(_letters, count())
    first = _lettered(made, outer, letters)
    inner = {
        i.name: outer[o.name]
        for i, o in zip(region.inputs, kernel.operands, strict=True)
    }
    body = (*first, *_lettered(region.nodes, inner, letters))
    yields = tuple(inner[v.name] for v in region.yields)
    return replace(
        kernel,
        operands=operands,
        locs=merge_locs([kernel, *made]),
        region=Region(inputs, body, yields),
    )


def _region(
    nodes: Sequence[Node], operands: Sequence[Value], results: Sequence[Value]
) -> Region:
    inputs, table = _numbered(operands)
    body = _lettered(nodes, table, map(_letters, count()))
    return Region(inputs, body, tuple(table[v.name] for v in results))


def _numbered(operands: Sequence[Value]) -> tuple[tuple[Value, ...], dict[str, Value]]:
    """A kernel's own inputs, and which of them stands for which operand."""
    inputs = tuple(Value(str(i), v.type.plain) for i, v in enumerate(operands))
    return inputs, {o.name: i for o, i in zip(operands, inputs, strict=True)}


def _lettered(
    nodes: Iterable[Node], table: dict[str, Value], letters: Iterator[str]
) -> tuple[Node, ...]:
    """``nodes`` as part of a body; ``table`` learns what their results are called."""
    body = []
    for node in nodes:
        inner = substitute(node, table)
        named = {v.name: Value(next(letters), v.type.plain) for v in node.results}
        table.update(named)
        body.append(replace(inner, results=tuple(named.values())))
    return tuple(body)


def _letters(number: int) -> str:
    """Letters from a to z, then a1 to z1, and so on."""
    return ascii_lowercase[number % 26] + (str(number // 26) if number >= 26 else "")


def is_convex(graph: Graph, names: Iterable[str]) -> bool:
    """Whether no path leaves the nodes and comes back: they can be one kernel."""
    chosen, flow = set(names), graph.dataflow()
    for name in chosen:
        for after in flow.successors(name):
            if after not in chosen and chosen & nx.descendants(flow, after):
                return False
    return True
