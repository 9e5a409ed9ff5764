"""One arena for the whole program.

Every value, every kernel's scratch and every parameter gets a byte range. Ranges are
assigned largest first, each at the lowest offset that is free during its life: the
greedy-by-size heuristic of Pisarchyk and Lee, "Efficient memory management for deep
neural net inference" (2020), section 4. It errs where what is needed always stands in
the way of the rest, so that two other orders are tried as well.

Who needs memory and for how long, ``ir/liveness.py`` says: inputs and parameters
always; an update lies on its parameter, which is donated to it, and a view on its
source. A result lies on an operand that is read for the last time, where that is legal
and the backend's code allows it.
"""

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter

from convc.backends.base import flat_groups
from convc.ir.errors import CompileError
from convc.ir.graph import Arena, Buffer, Graph
from convc.ir.liveness import homes, lives, takeovers
from convc.passes.manager import Context, Pass

ALIGN = 64
"""Bytes: a cache line, and the widest vector register."""

Lives = dict[str, tuple[int, int]]
"""The first and last launch of ranges, by name."""


@dataclass
class _Block:
    """Values that lie in one range one after the other, with their common life."""

    members: list[tuple[str, int]]
    first: int
    last: int
    offset: int = -1

    @cached_property
    def size(self) -> int:
        return -(-sum(size for _, size in self.members) // ALIGN) * ALIGN


Order = Callable[[_Block], tuple[int, ...]]
"""By which numbers blocks are sorted before they are placed."""


def plan_memory(graph: Graph, context: Context) -> Graph:
    """Give every value an offset; the arena's size is the exact peak in bytes."""
    home, span = homes(graph), lives(graph)
    groups = [
        [home[value.name] for value in group]
        for node in graph.nodes
        for group in flat_groups(node)
    ]
    fixed = {name for group in groups for name in group}
    seats = _seats(graph, context, home, fixed)
    sizes = {v.name: v.type.nbytes(context.batch) for v in graph.values()}
    blocks = _blocks(_joined(span, seats), groups, sizes)
    blocks += _scratch(graph, context)
    total = _place(blocks)
    rows = {b.name: b for block in blocks for b in _rows(block)}
    buffers = []
    for value in graph.values():
        owner = home[value.name]
        first, last = span[owner]
        row = rows[seats.get(owner, owner)]
        buffers.append(replace(row, name=value.name, first=first, last=last))
    buffers += [row for row in rows.values() if "!" in row.name]
    arena = Arena(total, context.batch, context.threads, tuple(buffers), context.blas)
    return replace(graph, stage="planned", arena=arena)


def _seats(
    graph: Graph, context: Context, home: dict[str, str], fixed: set[str]
) -> dict[str, str]:
    """For each result that takes over an operand's range, the value that began it.

    Those that are ``fixed`` lie in one block with others and neither take nor give.
    """
    seats: dict[str, str] = {}
    for at, pairs in takeovers(graph).items():
        node, given = graph.nodes[at], set[str]()
        tolerated = context.backend.in_place(node)
        for i, j in pairs:
            old, new = home[node.operands[i].name], node.results[j].name
            free = old not in given and new not in seats
            if free and (i, j) in tolerated and fixed.isdisjoint((old, new)):
                seats[new] = seats.get(old, old)
                given.add(old)
    return seats


def _joined(span: Lives, seats: dict[str, str]) -> Lives:
    """The lives of ranges, by the value that begins each."""
    joined = {name: life for name, life in span.items() if name not in seats}
    for name, seat in seats.items():
        joined[seat] = joined[seat][0], max(joined[seat][1], span[name][1])
    return joined


def _blocks(
    span: Lives, groups: list[list[str]], sizes: dict[str, int]
) -> list[_Block]:
    blocks: list[_Block] = []
    grouped: set[str] = set()
    for group in groups:
        if grouped.intersection(group) or len(set(group)) < len(group):
            raise CompileError(f"{', '.join(group)} cannot lie in one block twice")
        grouped.update(group)
        first = min(span[name][0] for name in group)
        last = max(span[name][1] for name in group)
        blocks.append(_Block([(name, sizes[name]) for name in group], first, last))
    for name, (first, last) in span.items():
        if name not in grouped:
            blocks.append(_Block([(name, sizes[name])], first, last))
    return blocks


def _scratch(graph: Graph, context: Context) -> list[_Block]:
    """The private memory of all workers, each kernel's for its own launch."""
    return [
        _Block([(f"{node.name}!{s.name}", s.nbytes * context.threads)], at, at)
        for at, node in enumerate(graph.nodes)
        if node.region is not None
        for s in context.backend.scratch(node, context.threads)
    ]


def _place(blocks: list[_Block]) -> int:
    """Give each block its offset, in the best of three orders; the bytes needed in all.

    The largest first; the same after all that is needed always; those needed longest.
    """
    end = max((b.last for b in blocks), default=0)
    orders: tuple[Order, ...] = (
        lambda b: (-b.size, b.first),
        lambda b: (b.first > 0 or b.last < end, -b.size, b.first),
        lambda b: (-b.last, -b.size),
    )
    total, offsets = min((_offsets(blocks, o) for o in orders), key=itemgetter(0))
    for block, offset in zip(blocks, offsets, strict=True):
        block.offset = offset
    return total


def _offsets(blocks: list[_Block], order: Order) -> tuple[int, list[int]]:
    """The lowest free offset for one block after the other, and the bytes needed."""
    placed: list[_Block] = []
    for block in sorted(blocks, key=lambda b: (*order(b), b.members[0][0])):
        offset = 0
        for other in placed:
            if other.offset >= offset + block.size:
                break
            if other.first <= block.last and block.first <= other.last:
                offset = max(offset, other.offset + other.size)
        block.offset = offset
        insort(placed, block, key=lambda b: b.offset)
    end = max((b.offset + b.size for b in blocks), default=0)
    return end, [b.offset for b in blocks]


def _rows(block: _Block) -> list[Buffer]:
    """The ranges of a placed block's members."""
    rows, offset = [], block.offset
    for name, size in block.members:
        rows.append(Buffer(name, offset, size, block.first, block.last))
        offset += size
    return rows


PLAN_MEMORY = Pass("plan-memory", plan_memory, ("kernel",), "planned")
