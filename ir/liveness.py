"""Which memory a value uses, from when to when, and who may take it over.

A launch is the place of a node in ``graph.nodes``; the place behind the last is the end
of the step. The planner follows these rules, the verifier holds a plan to them, and the
bound that is printed beside a plan is their consequence.
"""

from collections.abc import Mapping

from convc.ir.graph import VIEWS, Graph, Node, Region
from convc.ir.ops import OPS

Pair = tuple[int, int]
"""The number of an operand, and that of the result that lies on it."""


def homes(graph: Graph) -> dict[str, str]:
    """For each value the one whose memory it uses: itself, but for updates and views.

    A parameter is donated to its update, which takes its place; a view lies on its
    source.
    """
    home = {value.name: value.name for value in graph.values()}
    updated = {value.name: parameter.name for parameter, value in graph.updates}
    for node in graph.nodes:
        for value in node.results:
            if value.name in updated:
                home[value.name] = updated[value.name]
            elif node.op in VIEWS:
                home[value.name] = home[node.operands[0].name]
    return home


def lives(graph: Graph) -> dict[str, Pair]:
    """The first and the last launch at which memory is needed, by its home.

    Inputs and parameters are needed always, outputs until the end.
    """
    home, end = homes(graph), len(graph.nodes)
    places: dict[str, list[int]] = {}
    for value in (*graph.inputs, *(p.value for p in graph.parameters)):
        places[value.name] = [0, end]
    for at, node in enumerate(graph.nodes):
        for value in (*node.operands, *node.results):
            places.setdefault(home[value.name], []).append(at)
    for _, value in graph.outputs:
        places[home[value.name]].append(end)
    return {name: (min(used), max(used)) for name, used in places.items()}


def takeovers(graph: Graph) -> dict[int, tuple[Pair, ...]]:
    """For each launch, by meaning alone, which results may lie on which operands.

    The operand's memory must be read for the last time, and in one way only; the rest
    is ``in_place``.
    """
    home, span, found = homes(graph), lives(graph), {}
    for at, node in enumerate(graph.nodes):
        read = [home[v.name] for v in node.operands]
        pairs = tuple(
            (i, j)
            for i, j in in_place(node)
            if span[read[i]][1] == at
            and read.count(read[i]) == 1
            and home[node.results[j].name] == node.results[j].name
        )
        if pairs:
            found[at] = pairs
    return found


def in_place(node: Node) -> tuple[Pair, ...]:
    """The operands of a kernel whose elements the same places of a result replace.

    They are of one stored type, the body reads the operand in one node only, and from
    there elementwise ops lead to the result: once an element of the result is known,
    nothing needs that of the operand.
    """
    region = node.region
    if region is None:
        return ()
    return tuple(
        (i, j)
        for i, operand in enumerate(node.operands)
        if sum(region.inputs[i] in n.operands for n in region.nodes) == 1
        for j, result in enumerate(node.results)
        if result.type == operand.type and j in _reached(region, i)
    )


def _reached(region: Region, index: int) -> set[int]:
    """The yields that elementwise ops on values of its type make of an input."""
    source = region.inputs[index]
    reached = {source.name}
    for node in region.nodes:
        if OPS[node.op].elementwise and any(
            v.name in reached and v.type == node.result.type for v in node.operands
        ):
            reached.add(node.name)
    if source in region.yields:
        return set()
    return {j for j, value in enumerate(region.yields) if value.name in reached}


def alive(graph: Graph, batch: int, scratch: Mapping[str, int]) -> list[int]:
    """The bytes that any plan must have at each launch, and at the end.

    ``scratch`` has the private memory of all workers by the kernel's name. A result
    that may lie on an operand is counted as if it did. The largest is a lower bound
    on the arena; alignment and what one place for a whole life costs come on top.
    """
    sizes = {v.name: v.type.nbytes(batch) for v in graph.values()}
    total = [0] * (len(graph.nodes) + 1)
    for name, (first, last) in lives(graph).items():
        for at in range(first, last + 1):
            total[at] += sizes[name]
    for at, node in enumerate(graph.nodes):
        total[at] += scratch.get(node.name, 0)
    for at, pairs in takeovers(graph).items():
        node = graph.nodes[at]
        old = sum(sizes[node.operands[i].name] for i in {i for i, _ in pairs})
        new = sum(sizes[node.results[j].name] for j in {j for _, j in pairs})
        total[at] -= min(old, new)
    return total
