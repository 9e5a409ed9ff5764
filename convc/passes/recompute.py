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
from dataclasses import dataclass, field, replace
from itertools import pairwise

from convc.ir.graph import Graph, Node, Value, substitute
from convc.ir.liveness import alive, homes
from convc.ir.ops import OPS
from convc.ir.ops.random import MASKS
from convc.passes.manager import Context, Pass

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


@dataclass
class _Kernels:
    """What the backend says of each kernel, asked once."""

    context: Context
    scratches: dict[str, int] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)

    def scratch(self, graph: Graph) -> dict[str, int]:
        """The private memory of all workers, by the kernel's name."""
        threads = self.context.threads
        for node in graph.nodes:
            if node.region and node.name not in self.scratches:
                found = self.context.backend.scratch(node, threads)
                self.scratches[node.name] = threads * sum(s.nbytes for s in found)
        return self.scratches

    def alive(self, graph: Graph) -> list[int]:
        """What any plan must hold at each launch."""
        return alive(graph, self.context.batch, self.scratch(graph))

    def seconds(self, node: Node) -> float:
        """The predicted time of a kernel with the schedule it has."""
        if node.name not in self.times:
            batch, threads = self.context.batch, self.context.threads
            found = self.context.backend.candidates(node, batch, threads)
            fitting = (c for c in found if c.schedule == node.schedule)
            self.times[node.name] = next(fitting, found[0]).cost.seconds
        return self.times[node.name]


def recompute(graph: Graph, context: Context) -> Graph:
    """Repeat cheap kernels, those with large results first, where that pays.

    Each repetition lowers the liveness bound. Of a value that waits and is kept, the
    refusal says why.
    """
    kernels, asked = _Kernels(context), set[str]()
    while True:
        before = kernels.alive(graph)
        for wait in _waits(graph, _peak(before), context.batch):
            if wait.node.name in asked:
                continue
            asked.add(wait.node.name)
            trial = _repeated(graph, wait)
            reason = _objection(graph, trial, wait, before, kernels)
            if reason is None:
                graph = trial
                break
            name = str(wait.node.attrs["name"])
            context.refuse(wait.node, f"kept in memory: {reason}", name)
        else:
            return graph


def _waits(graph: Graph, peak: int, batch: int) -> list[_Wait]:
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
    return sorted(found, key=lambda w: -w.node.result.type.nbytes(batch))


def _peak(bytes_alive: list[int]) -> int:
    """The launch at which most is alive."""
    return bytes_alive.index(max(bytes_alive))


def _is_cheap(node: Node) -> bool:
    """Whether a kernel draws bits, or computes each element from a few others."""
    ops = [n.op for n in node.region.nodes] if node.region else []
    work = [op for op in ops if op != "constant"]
    cheap = all(OPS[op].elementwise or op in MASKS for op in work)
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
    graph: Graph, trial: Graph, wait: _Wait, before: list[int], kernels: _Kernels
) -> str | None:
    """Why the result is better kept, None if it is better made again."""
    peak = _peak(before)
    if not wait.first < peak < wait.last:
        return f"it does not wait while the peak passes, at {_called(graph, peak)}"
    gone = _updated_before(graph, wait)
    if gone:
        return f"{gone} has its new value by then"
    saved = wait.node.result.type.nbytes(kernels.context.batch) / max(before)
    if saved >= LEAST:  # as it can be at best
        saved = 1 - max(kernels.alive(trial)) / max(before)
    slower = 0.0
    if saved <= 0:
        return "making it again would not lower the peak"
    if saved < LEAST:
        return f"making it again would save {saved:.1%} of the arena at most"
    if len(trial.nodes) > len(graph.nodes):
        total = sum(kernels.seconds(n) for n in graph.nodes if n.region)
        slower = kernels.seconds(wait.node) / total
    if saved >= WORTH * slower:
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


RECOMPUTE = Pass("recompute", recompute, ("kernel",))
