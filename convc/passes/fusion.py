"""Fusions: each has a pattern, a check that may refuse with a reason, a rewrite.

A chain fusion starts at an anchor and takes, in a fixed order, the ops that follow it,
as long as each is the only reader of the one before. The rewrite (``outline``) moves
the nodes into a kernel whose body computes exactly what they computed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from convc.ir.graph import Graph, Node, Value
from convc.passes.canonicalize import drop_dead
from convc.passes.manager import Context
from convc.passes.outline import is_convex, kernel_name, outline

Check = Callable[[Graph, Node, Value], str | None]
"""The reason why a node may not follow the value handed on to it, None if it may."""


@dataclass(frozen=True)
class Follower:
    """One of ``ops`` may follow, if ``check`` has nothing against it."""

    ops: tuple[str, ...]
    check: Check = lambda graph, node, value: None
    beside: tuple[str, ...] = ()
    """Ops that read the same value and come along (an argmax beside its pool)."""
    operands: tuple[int, ...] = (0,)
    """Which operand may be the value that is handed on."""


@dataclass(frozen=True)
class Chain:
    """A chain fusion: its anchor op and the ops that may follow, in order."""

    anchor: str
    followers: tuple[Follower, ...]
    keeps: bool = False
    """Whether values on the way may be read elsewhere too (they are then results)."""
    never: Mapping[str, str] = field(default_factory=dict)
    """Ops that a reader may expect in the kernel, and why they never are."""


def fuse_chain(chain: Chain) -> Callable[[Graph, Context], Graph]:
    """The rewrite that applies ``chain`` wherever it matches."""

    def rewrite(graph: Graph, context: Context) -> Graph:
        graph = drop_dead(replace(graph, stage="fusing"))
        for anchor in [n for n in graph.nodes if n.op == chain.anchor]:
            names = match(graph, anchor, chain, context)
            if len(names) > 1:
                graph = outline(graph, names)
        return graph

    return rewrite


def match(graph: Graph, anchor: Node, chain: Chain, context: Context) -> list[str]:
    """The names of the nodes to fuse, the anchor first."""
    users, live = graph.users(), graph.live_out()
    names, last, op = [anchor.name], anchor.result, anchor.op
    waiting = list(chain.followers)
    while True:
        readers = users[last.name]
        found = _next(waiting, last, readers)
        if found is None:
            reason = _missed(chain, last, op, readers, last.name in live)
            break
        follower, node = found
        beside = [r for r in readers if r.op in follower.beside]
        longer = [*names, node.name, *(r.name for r in beside)]
        elsewhere = last.name in live or len(readers) > 1 + len(beside)
        reason = follower.check(graph, node, last)
        if elsewhere and not chain.keeps:
            reason = f"{op}'s result is read elsewhere too"
        elif reason is None and not is_convex(graph, longer):
            reason = "another path leads from the kernel to it"
        if reason is not None:
            reason = f"{node.op} stays outside: {reason}"
            break
        names, last, op = longer, node.result, node.op
        waiting = waiting[waiting.index(follower) + 1 :]
    if reason is not None:
        context.refuse(anchor, reason, kernel_name([anchor]))
    return names


def _next(
    waiting: Sequence[Follower], last: Value, readers: Sequence[Node]
) -> tuple[Follower, Node] | None:
    for follower in waiting:
        for node in readers:
            handed_on = [i for i, v in enumerate(node.operands) if v == last]
            once = len(handed_on) == 1 and handed_on[0] in follower.operands
            if node.op in follower.ops and once:
                return follower, node
    return None


def _missed(
    chain: Chain, last: Value, op: str, readers: Sequence[Node], live: bool
) -> str | None:
    """Why an op that looks like a follower is none, None if there is no such op."""
    never = next((n.op for n in readers if n.op in chain.never), None)
    if never is not None:
        return f"{never} stays outside: {chain.never[never]}"
    if len(readers) != 1 or live:
        return None
    (reader,) = readers
    known = {name for follower in chain.followers for name in follower.ops}
    if reader.op in known:
        twice = reader.operands.count(last) > 1
        why = "reads it twice" if twice else f"comes too late, after {op}"
        return f"{reader.op} stays outside: it {why}"
    if reader.region is not None:
        inside = reader.region.inputs[reader.operands.index(last)]
        for node in reader.region.nodes:
            if node.op in known and inside in node.operands:
                name = reader.attrs["name"]
                return f"{node.op} stays outside: {name} has it already"
    return None
