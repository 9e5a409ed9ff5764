"""Which part of a step each node belongs to: forward, backward or the update."""

from collections.abc import Iterable

from convc.backends.base import OPTIMIZERS
from convc.ir.graph import Graph, Node

LANES = ("forward", "backward", "update")
"""The columns that the page draws, from left to right."""


def lanes(graph: Graph) -> list[str]:
    """The lane of each node, in order, at any stage.

    1. What holds an optimizer's op is the update.
    2. What an output needs (gradients that were kept do not count) is forward, and so
       is a parameter's next value that a layer computes, such as a moving average.
    3. Any other next value is the update too, such as the counter of steps; and so
       are single numbers that only the update reads.
    4. The rest is backward.
    """
    updates = {v.name for _, v in graph.updates}
    ends = [v.name for k, v in graph.outputs if not k.startswith("gradient/")]
    for node in graph.nodes:
        if node.locs and not _ops(node) & set(OPTIMIZERS):
            ends += [v.name for v in node.results if v.name in updates]
    needed = _ancestors(graph, ends)
    users = graph.users()
    found: dict[str, str] = {}
    for node in reversed(graph.nodes):
        names = {v.name for v in node.results}
        readers = [u.name for name in names for u in users[name]]
        for_update = readers and all(found[r] == "update" for r in readers)
        if _ops(node) & set(OPTIMIZERS):
            found[node.name] = "update"
        elif names & needed:
            found[node.name] = "forward"
        elif names & updates or (for_update and _is_number(node)):
            found[node.name] = "update"
        else:
            found[node.name] = "backward"
    return [found[node.name] for node in graph.nodes]


def _ops(node: Node) -> set[str]:
    return {n.op for n in node.region.nodes} if node.region else {node.op}


def _is_number(node: Node) -> bool:
    return all(not v.type.batched and v.type.elements(1) == 1 for v in node.results)


def _ancestors(graph: Graph, names: Iterable[str]) -> set[str]:
    """The values that some values are computed from, themselves among them."""
    wanted = set(names)
    for node in reversed(graph.nodes):
        if any(v.name in wanted for v in node.results):
            wanted.update(v.name for v in node.operands)
    return wanted
