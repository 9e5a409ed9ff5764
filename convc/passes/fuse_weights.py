"""Arithmetic on parameters alone, in one kernel for what belongs together.

A batch normalization folded into weights, or a learning rate, is a handful of ops on
a few numbers each: a launch for every one would cost more than its work. So are the
casts of parameters to 16 bits.
"""

from collections.abc import Sequence
from dataclasses import replace

import networkx as nx

from convc.ir.graph import Graph, Node, merge_locs
from convc.passes.manager import Context, Pass
from convc.passes.outline import outline

ARITHMETIC = (
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "negate"),
    *("exp", "log", "sqrt", "cos", "tanh", "sigmoid", "relu"),
    *("greater_equal", "equal", "cast"),
)
"""Ops of which such a kernel is made: each result element from one of each operand."""


def fuse_weights(graph: Graph, context: Context) -> Graph:
    """Put ops that need parameters only, and pass numbers on, into one kernel.

    Every operand is a parameter, a constant or made inside, so no path leaves the
    kernel and comes back. Only single numbers and vectors are passed on inside: a
    worker has room for them. Updates are left to the optimizer's kernel. All parameters
    that are cast to 16 bits are so in one kernel, whatever their layers.
    """
    graph = replace(graph, stage="fusing")
    known = {p.value.name for p in graph.parameters}
    known |= {n.name for n in graph.nodes if n.op == "constant"}
    updates = {value.name for _, value in graph.updates}
    links: nx.Graph[str] = nx.Graph()
    nx.add_path(links, [n.name for n in graph.nodes if _stores_half(n, known)])
    for node in graph.nodes:
        ready = all(v.name in known for v in node.operands)
        if node.op in ARITHMETIC and ready and node.name not in updates:
            if node.result.type.rank <= 1:
                known.add(node.name)
            links.add_node(node.name)
            inside = (v.name for v in node.operands if v.name in links)
            links.add_edges_from((name, node.name) for name in inside)
    for names in nx.connected_components(links):
        nodes = [n for n in graph.nodes if n.name in names]
        if len(nodes) > 1:
            graph = outline(graph, names, _name(nodes))
    return graph


def _stores_half(node: Node, parameters: set[str]) -> bool:
    """Whether a node is a parameter's cast to 16 bits."""
    to_half = node.op == "cast" and node.result.type.dtype.is_half
    return to_half and node.operands[0].name in parameters


def _name(nodes: Sequence[Node]) -> str:
    """``bn1_weights``, or ``scalars`` where all are single numbers of no layer.

    ``weights_in_bf16`` where some are stored so.
    """
    stored = {n.result.type.dtype for n in nodes if n.result.type.dtype.is_half}
    for dtype in stored:
        return f"weights_in_{dtype.value}"
    layers = [loc.layer.replace("/", "_") for loc in merge_locs(nodes)]
    kind = "weights" if any(n.result.type.rank for n in nodes) else "scalars"
    return "_".join([*filter(None, layers[:1]), kind])


FUSE_WEIGHTS = Pass("fuse-weights", fuse_weights, ("tensor", "fusing"), "fusing")
