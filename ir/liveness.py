"""Which memory a value uses, from when to when, and who may take it over.

A launch is the place of a node in ``graph.nodes``; the place after the last is the end
of the step. The planner follows these rules, the verifier holds a plan to them, and the
bound that is printed beside a plan is their consequence.
"""

from collections import Counter
from collections.abc import Mapping

from convc.ir.graph import VIEWS, Graph, Node
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
        reads = Counter(home[v.name] for v in node.operands)
        last = {name for name, n in reads.items() if n == 1 and span[name][1] == at}
        own = {v.name for v in node.results if home[v.name] == v.name}
        pairs = tuple(
            (i, j)
            for i, j in (in_place(node) if last and own else ())
            if home[node.operands[i].name] in last and node.results[j].name in own
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
    readers = Counter(v.name for n in region.nodes for v in set(n.operands))
    origins: dict[str, set[int]] = {
        v.name: {i}
        for i, v in enumerate(region.inputs)
        if readers[v.name] == 1 and v not in region.yields
    }
    for inner in region.nodes:
        if OPS[inner.op].elementwise:
            alike = (v.name for v in inner.operands if v.type == inner.result.type)
            origins[inner.name] = {i for name in alike for i in origins.get(name, ())}
    return tuple(
        (i, j)
        for j, value in enumerate(region.yields)
        for i in sorted(origins.get(value.name, ()))
        if node.operands[i].type == node.results[j].type
    )


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
