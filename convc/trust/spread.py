"""A memory plan in which no two values share bytes, to tell a wrong plan from code."""

from dataclasses import replace

from convc.backends.base import flat_groups
from convc.ir.graph import Graph
from convc.ir.liveness import homes

ALIGN = 64


def spread(graph: Graph) -> Graph:
    """``graph`` with a range of its own for every value and scratch.

    Only a view lies on its source still, and an update on its parameter; what must
    lie in one block still does.
    """
    arena = graph.arena
    assert arena is not None
    home = homes(graph)
    old = {b.name: b for b in arena.buffers}
    offsets: dict[str, int] = {}
    end = 0
    groups = [
        [home[v.name] for v in group]
        for node in graph.nodes
        for group in flat_groups(node)
    ]
    groups += [[home.get(name, name)] for name in old]
    for group in groups:
        if group[0] in offsets:
            continue
        for name in group:
            offsets[name] = end
            end += old[name].size
        end = -(-end // ALIGN) * ALIGN
    buffers = tuple(
        replace(b, offset=offsets[home.get(b.name, b.name)]) for b in arena.buffers
    )
    return replace(graph, arena=replace(arena, size=end, buffers=buffers))
