"""Identities, common subexpressions and dead code.

1. ``reshape`` to the same shape is its operand.
2. ``reshape(reshape(x))`` is one reshape.
3. ``add(x, 0)``, ``subtract(x, 0)``, ``multiply(x, 1)`` and ``divide(x, 1)`` are x.
4. ``apply_mask(x, dropout_mask {keep=1})`` is x (and its scale is 1).
5. Two nodes with one op, one list of operands and equal attributes are one node,
   which carries the origins of both.
6. A node or state that nobody reads is dropped; inputs, trainable parameters and
   what is updated stay.
"""

from dataclasses import replace

from convc.ir.graph import Graph, Node, Value, merge_locs, rename_uses, substitute
from convc.ir.ops.base import number
from convc.passes.manager import Context, Pass

_NEUTRAL = {"add": 0.0, "subtract": 0.0, "multiply": 1.0, "divide": 1.0}


def canonicalize(graph: Graph, context: Context) -> Graph:
    """Apply the cases above until nothing changes."""
    while True:
        smaller = drop_dead(_merge_common(_identities(graph)))
        if smaller == graph:
            return graph
        graph = smaller


def _identities(graph: Graph) -> Graph:
    producers = graph.producers()
    table: dict[str, Value] = {}
    nodes = []
    for node in graph.nodes:
        source = producers.get(node.operands[0].name) if node.operands else None
        if node.op == "reshape" and source is not None and source.op == "reshape":
            node = replace(node, operands=source.operands)  # case 2
        node = substitute(node, table)
        same = _identity(node, producers)
        if same is not None:
            table[node.name] = same
        producers[node.name] = node
        nodes.append(node)
    return rename_uses(replace(graph, nodes=tuple(nodes)), table)


def _identity(node: Node, producers: dict[str, Node]) -> Value | None:
    """The operand that ``node`` merely repeats, None if it computes something."""
    x = node.operands[0] if node.operands else None
    if x is None or len(node.results) > 1 or x.type != node.result.type:
        return None
    if node.op == "reshape":
        return x  # case 1
    other = producers.get(node.operands[1].name) if len(node.operands) > 1 else None
    if other is None:
        return None
    if node.op in _NEUTRAL and other.op == "constant":
        neutral = number(other.attrs["value"]) == _NEUTRAL[node.op]
        return x if neutral else None  # case 3
    if node.op == "apply_mask" and other.op == "dropout_mask":
        keeps_all = other.attrs["keep"] == 1.0 and node.attrs["scale"] == 1.0
        return x if keeps_all else None  # case 4
    return None


def _merge_common(graph: Graph) -> Graph:
    first: dict[str, int] = {}
    table: dict[str, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = substitute(node, table)
        key = repr(
            (node.op, node.operands, sorted(node.attrs.items()))
        )  # -0.0 is not 0
        if node.region is None and key in first:  # case 5
            twin = nodes[first[key]]
            table.update(zip((v.name for v in node.results), twin.results, strict=True))
            nodes[first[key]] = replace(twin, locs=merge_locs((twin, node)))
            continue
        first[key] = len(nodes)
        nodes.append(node)
    return rename_uses(replace(graph, nodes=tuple(nodes)), table)


def drop_dead(graph: Graph) -> Graph:
    """``graph`` without nodes and states that no output or update needs."""
    needed = {v.name for _, v in graph.outputs} | {v.name for _, v in graph.updates}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(v.name in needed for v in node.results):
            kept.append(node)
            needed.update(v.name for v in node.operands)
    updated = {p.name for p, _ in graph.updates}
    parameters = tuple(
        p
        for p in graph.parameters
        if p.trainable or p.value.name in needed or p.value.name in updated
    )
    return replace(graph, nodes=tuple(reversed(kept)), parameters=parameters)


CANONICALIZE = Pass("canonicalize", canonicalize)
