"""One arena for the whole program.

Every value, every kernel's scratch and every parameter gets a byte range. Ranges are
assigned largest first, each at the lowest offset that is free during its life: the
greedy-by-size heuristic of Pisarchyk and Lee, "Efficient memory management for deep
neural net inference" (2020), section 4. Inputs and parameters live for ever; an update
shares its parameter's range, a view its source's.
"""

from dataclasses import dataclass, replace

from convc.backends.base import flat_groups
from convc.ir.errors import CompileError
from convc.ir.graph import VIEWS, Arena, Buffer, Graph, Value
from convc.passes.manager import Context, Pass

ALIGN = 64
"""Bytes: a cache line, and the widest vector register."""


@dataclass
class _Block:
    """Values that lie in one range one after the other, with their common life."""

    members: list[tuple[str, int]]
    first: int
    last: int
    offset: int = -1

    @property
    def size(self) -> int:
        return -(-sum(size for _, size in self.members) // ALIGN) * ALIGN


def plan_memory(graph: Graph, context: Context) -> Graph:
    """Give every value an offset; the arena's size is the exact peak in bytes."""
    home = _homes(graph)
    lives = _lives(graph, home)
    groups = [
        [home.get(v.name, v.name) for v in group]
        for node in graph.nodes
        for group in flat_groups(node)
    ]
    sizes = {v.name: v.type.nbytes(context.batch) for v in graph.values()}
    blocks = _blocks(lives, groups, sizes)
    for at, node in enumerate(graph.nodes):
        if node.region is None:
            continue
        for scratch in context.backend.scratch(node, context.threads):
            name = f"{node.name}!{scratch.name}"
            size = scratch.nbytes * context.threads
            blocks.append(_Block([(name, size)], at, at))
    total = _place(blocks)
    return replace(
        graph,
        stage="planned",
        arena=Arena(
            total, context.batch, context.threads, _buffers(graph, blocks, home)
        ),
    )


def _homes(graph: Graph) -> dict[str, str]:
    """The value whose memory a view or an update uses, by name."""
    home: dict[str, str] = {}
    updated = {value.name: parameter.name for parameter, value in graph.updates}
    for node in graph.nodes:
        for value in node.results:
            if value.name in updated:
                home[value.name] = updated[value.name]
            elif node.op in VIEWS:
                source = node.operands[0].name
                home[value.name] = home.get(source, source)
    return home


def _lives(graph: Graph, home: dict[str, str]) -> dict[str, tuple[int, int]]:
    """First and last launch of each memory range, by the name of its home."""
    end = len(graph.nodes)
    lives: dict[str, tuple[int, int]] = {}

    def extend(value: Value, at: int) -> None:
        name = home.get(value.name, value.name)
        first, last = lives.get(name, (at, at))
        lives[name] = (min(first, at), max(last, at))

    for value in (*graph.inputs, *(p.value for p in graph.parameters)):
        extend(value, 0)
        extend(value, end)
    for at, node in enumerate(graph.nodes):
        for value in (*node.operands, *node.results):
            extend(value, at)
        if [n.op for n in (node.region.nodes if node.region else ())] == ["constant"]:
            extend(node.result, 0)
            extend(node.result, end)
    for _, value in graph.outputs:
        extend(value, end)
    return lives


def _blocks(
    lives: dict[str, tuple[int, int]], groups: list[list[str]], sizes: dict[str, int]
) -> list[_Block]:
    blocks: list[_Block] = []
    grouped: set[str] = set()
    for group in groups:
        if grouped.intersection(group) or len(set(group)) < len(group):
            raise CompileError(f"{', '.join(group)} cannot lie in one block twice")
        grouped.update(group)
        first = min(lives[name][0] for name in group)
        last = max(lives[name][1] for name in group)
        blocks.append(_Block([(name, sizes[name]) for name in group], first, last))
    for name, (first, last) in lives.items():
        if name not in grouped:
            blocks.append(_Block([(name, sizes[name])], first, last))
    return blocks


def _place(blocks: list[_Block]) -> int:
    """Give each block its offset; the bytes needed in all."""
    placed: list[_Block] = []
    for block in sorted(blocks, key=lambda b: (-b.size, b.first, b.members[0][0])):
        offset = 0
        for other in placed:
            together = other.first <= block.last and block.first <= other.last
            if together and other.offset < offset + block.size:
                offset = max(offset, other.offset + other.size)
        block.offset = offset
        placed.append(block)
        placed.sort(key=lambda b: b.offset)
    return max((b.offset + b.size for b in blocks), default=0)


def _buffers(
    graph: Graph, blocks: list[_Block], home: dict[str, str]
) -> tuple[Buffer, ...]:
    buffers: dict[str, Buffer] = {}
    for block in blocks:
        offset = block.offset
        for name, size in block.members:
            buffers[name] = Buffer(name, offset, size, block.first, block.last)
            offset += size
    for name, owner in home.items():
        buffers[name] = replace(buffers[owner], name=name)
    values = [v.name for v in graph.values()]
    scratch = [name for name in buffers if "!" in name]
    return tuple(buffers[name] for name in (*values, *scratch))


PLAN_MEMORY = Pass("plan-memory", plan_memory, ("kernel",), "planned")
