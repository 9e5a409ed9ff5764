"""Makes a cheap value a second time, for late readers, instead of keeping it.

A value that waits while the peak passes, read before and after it, costs its bytes just
where they are scarce. If its kernel is cheap and reads what is at hand anyway, a copy
of that kernel before the first late reader serves as well: rematerialization (Briggs,
Cooper and Torczon, "Rematerialization", 1992), here for the sake of the arena. A
dropout mask is drawn from counters and has the same bits each time; all else that is
cheap is a function of its operands.

The step becomes slower, so the arena must become smaller by a larger share: see WORTH
and LEAST.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from convc.ir.graph import Graph, Node, Value, substitute
from convc.ir.liveness import alive, homes
from convc.ir.ops import OPS
from convc.passes.manager import Context, Pass
from convc.passes.plan_memory import plan_memory

WORTH = 2.0
"""Percent of the arena that a percent of the step's predicted time must save."""
LEAST = 0.01
"""The share of the arena that is worth one more launch."""


@dataclass(frozen=True)
class _Wait:
    """Launches between which a kernel's result lies unread."""

    node: Node
    first: int
    last: int


def recompute(graph: Graph, context: Context) -> Graph:
    """Repeat cheap kernels, those with large results first, where that pays.

    Each repetition lowers the planned peak. Of a value that waits and is kept, the
    refusal says why.
    """
    asked: set[str] = set()
    while True:
        peak = _peak(_alive(graph, context))
        for wait in _waits(graph, peak, context):
            if wait.node.name in asked:
                continue
            asked.add(wait.node.name)
            trial = _repeated(graph, wait)
            reason = _objection(graph, trial, wait, peak, context)
            if reason is None:
                graph = trial
                break
            name = str(wait.node.attrs["name"])
            context.refuse(wait.node, f"kept in memory: {reason}", name)
        else:
            return graph


def _peak(bytes_alive: list[int]) -> int:
    """The launch at which most is alive."""
    return bytes_alive.index(max(bytes_alive))


def _alive(graph: Graph, context: Context) -> list[int]:
    """What any plan must hold at each launch."""
    scratch = {
        node.name: context.threads
        * sum(s.nbytes for s in context.backend.scratch(node, context.threads))
        for node in graph.nodes
        if node.region
    }
    return alive(graph, context.batch, scratch)


def _waits(graph: Graph, peak: int, context: Context) -> list[_Wait]:
    """The cheap kernels whose result waits, the largest first.

    For each the time around the peak, else the longest.
    """
    home, found = homes(graph), []
    for at, node in enumerate(graph.nodes):
        if not _is_cheap(node) or node.name in graph.live_out():
            continue
        used = [at, *_readers(graph, node.result)]
        times = [(a, b) for a, b in pairwise(used) if b > a + 1]
        if times and home[node.name] == node.name:
            times.sort(key=lambda t: (t[0] < peak < t[1], t[1] - t[0]))
            found.append(_Wait(node, *times[-1]))
    return sorted(found, key=lambda w: -w.node.result.type.nbytes(context.batch))


def _is_cheap(node: Node) -> bool:
    """Whether a kernel draws bits, or computes each element from a few others."""
    ops = [n.op for n in node.region.nodes] if node.region else []
    work = [op for op in ops if op != "constant"]
    cheap = all(OPS[op].elementwise or op == "dropout_mask" for op in work)
    return bool(work) and cheap and len(node.results) == 1


def _readers(graph: Graph, value: Value) -> Iterator[int]:
    return (at for at, node in enumerate(graph.nodes) if value in node.operands)


def _repeated(graph: Graph, wait: _Wait) -> Graph:
    """The graph with the kernel made again for those who read its result late.

    If nobody reads it early, it is only made later.
    """
    node, value = wait.node, wait.node.result
    taken = {v.name for v in graph.values()}
    name = f"{value.name}.again"
    while name in taken:
        name += ".again"
    fresh = Value(name, value.type)
    attrs = {**node.attrs, "name": f"{node.attrs['name']}_again"}
    early = graph.nodes[: wait.last]
    late = (substitute(n, {value.name: fresh}) for n in graph.nodes[wait.last :])
    if not any(value in n.operands for n in early):
        early = tuple(n for n in early if n is not node)
    again = replace(node, results=(fresh,), attrs=attrs)
    return replace(graph, nodes=(*early, again, *late))


def _objection(
    graph: Graph, trial: Graph, wait: _Wait, peak: int, context: Context
) -> str | None:
    """Why the result is better kept, None if it is better made again."""
    if not wait.first < peak < wait.last:
        return f"it does not wait while the peak passes, at {_called(graph, peak)}"
    gone = _updated_before(graph, wait)
    if gone:
        return f"{gone} has its new value by then"
    bounds = [max(_alive(g, context)) for g in (graph, trial)]
    if 1 - bounds[1] / bounds[0] < LEAST:
        return (
            f"making it again would save {1 - bounds[1] / bounds[0]:.1%} of the arena"
        )
    before, after = (_size(g, context) for g in (graph, trial))
    saved, slower = 1 - after / before, 0.0
    if len(trial.nodes) > len(graph.nodes):
        total = sum(_seconds(n, context) for n in graph.nodes if n.region)
        slower = _seconds(wait.node, context) / total
    if saved >= max(LEAST, WORTH * slower):
        return None
    return (
        f"making it again would save {saved:.1%} of the arena and take {slower:.1%} of "
        "the step's time"
    )


def _called(graph: Graph, at: int) -> str:
    if at == len(graph.nodes):
        return "the end of the step"
    node = graph.nodes[at]
    return str(node.attrs.get("name", node.name))


def _updated_before(graph: Graph, wait: _Wait) -> str | None:
    """A parameter the kernel reads that no longer has its old value at the end."""
    home, made = homes(graph), {n.name for n in graph.nodes[: wait.last]}
    producers = graph.producers()
    read = {home[v.name] for v in wait.node.operands}
    for parameter, value in graph.updates:
        maker = producers.get(value.name)
        if maker and maker.name in made and parameter.name in read:
            return str(parameter)
    return None


def _size(graph: Graph, context: Context) -> int:
    arena = plan_memory(graph, context).arena
    return arena.size if arena else 0


def _seconds(node: Node, context: Context) -> float:
    """The predicted time of a kernel with the schedule it has."""
    found = context.backend.candidates(node, context.batch, context.threads)
    fitting = (c for c in found if c.schedule == node.schedule)
    return next(fitting, found[0]).cost.seconds


RECOMPUTE = Pass("recompute", recompute, ("kernel",))
