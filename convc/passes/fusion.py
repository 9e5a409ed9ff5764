"""Fusions: each has a pattern, a check that may refuse with a reason, a rewrite.

A chain fusion starts at an anchor and takes, in a fixed order, the ops that follow it,
as long as each is the only reader of the one before. The rewrite (``outline``) moves
the nodes into a kernel whose body computes exactly what they computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from convc.ir.graph import Graph, Node
from convc.passes.manager import Context
from convc.passes.outline import is_convex, kernel_name, outline

Check = Callable[[Graph, Node], str | None]


@dataclass(frozen=True)
class Follower:
    """An op that may follow; ``check`` gives the reason why a node may not."""

    op: str
    check: Check = lambda graph, node: None
    beside: tuple[str, ...] = ()
    """Ops that read the same value and come along (an argmax beside its pool)."""
    operand: int = 0
    """Which operand is the value that is handed on."""


@dataclass(frozen=True)
class Chain:
    """A chain fusion: its anchor op and the ops that may follow, in order."""

    anchor: str
    followers: tuple[Follower, ...]
    keeps: bool = False
    """Whether values on the way may be read elsewhere too (they are then results)."""


def fuse_chain(chain: Chain) -> Callable[[Graph, Context], Graph]:
    """The rewrite that applies ``chain`` wherever it matches."""

    def rewrite(graph: Graph, context: Context) -> Graph:
        graph = replace(graph, stage="fusing")
        for anchor in [n for n in graph.nodes if n.op == chain.anchor]:
            names = match(graph, anchor, chain, context)
            if len(names) > 1:
                graph = outline(graph, names)
        return graph

    return rewrite


def match(graph: Graph, anchor: Node, chain: Chain, context: Context) -> list[str]:
    """The names of the nodes to fuse, the anchor first."""
    names, last = [anchor.name], anchor
    waiting = list(chain.followers)
    while waiting:
        readers = graph.users()[last.name]
        found = _next(waiting, last, readers)
        if found is None:
            break
        follower, node = found
        beside = [r for r in readers if r.op in follower.beside]
        longer = [*names, node.name, *(r.name for r in beside)]
        elsewhere = last.name in graph.live_out() or len(readers) > 1 + len(beside)
        reason = follower.check(graph, node)
        if elsewhere and not chain.keeps:
            reason = f"{last.op}'s result is read elsewhere too"
        elif reason is None and not is_convex(graph, longer):
            reason = "another path leads from the kernel to it"
        if reason is not None:
            context.refuse(
                anchor, f"{node.op} stays outside: {reason}", kernel_name([anchor])
            )
            break
        names, last = longer, node
        waiting = waiting[waiting.index(follower) + 1 :]
    return names


def _next(
    waiting: Sequence[Follower], last: Node, readers: Sequence[Node]
) -> tuple[Follower, Node] | None:
    for follower in waiting:
        for node in readers:
            if (
                node.op == follower.op
                and node.operands[follower.operand] == last.result
                and node.operands.count(last.result) == 1
            ):
                return follower, node
    return None
