"""Runs a program kernel by kernel beside the oracle, and says where they part.

Before a kernel runs, what it reads must be what was made for it; after it has run, its
results must be within the bounds that rounding allows for exactly these operands. So
no error is blamed on a kernel that only passed it on, and every bound is as tight as
one kernel's sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from convc.ir.errors import RunError
from convc.ir.graph import Buffer, Graph, Node, Value
from convc.ir.interpreter import interpret
from convc.ir.ops.base import Array
from convc.ir.rounding import bounded, explain, within
from convc.ir.types import BATCH, DType, TensorType
from convc.passes.samples import Samples, State
from convc.program import Program

IMAGES = 3
"""Images in a comparison: odd, more than one, and less than a batch as a rule."""


@dataclass(frozen=True)
class Fault:
    """The first thing a program did that its graph does not say.

    ``kind`` is "result" (of ``node``, called ``value``), "overwritten" (a ``value``
    that is still needed, by ``node``) or "error" (raised by ``node``).
    """

    kind: str
    node: Node
    value: str
    reason: str
    whole: bool = True

    def __str__(self) -> str:
        name = self.node.attrs.get("name", self.node.op)
        data = "whole numbers" if self.whole else "real numbers"
        return f"kernel {name}, on {data}: {self.reason}"


@dataclass(frozen=True)
class Compared:
    """A kernel's result beside the oracle's; ``units`` is the error over its bound."""

    node: Node
    value: Value
    units: float
    size: int


def first_fault(program: Program, images: int = IMAGES) -> Fault | None:
    """The first difference on whole numbers, else on real ones; None if there is none.

    The program's parameters are left as the last run made them.
    """
    for whole in (True, False):
        for found in compared(program, images, whole):
            if isinstance(found, Fault):
                return found
    return None


def compared(
    program: Program, images: int = IMAGES, whole: bool = True
) -> Iterator[Compared | Fault]:
    """Every kernel's results as they are made; a Fault is the last."""
    graph, n = program.graph, min(images, program.batch)
    inputs, parameters = Samples(whole, n).of(graph)
    program.load(parameters)
    for name, array in inputs.items():
        program.input(name, n)[...] = array
    known: State = {**inputs, **parameters}
    last = _last_reads(graph)
    steps = program.stepwise(n)
    for at, node in enumerate(graph.nodes):
        if node.region is None:
            known |= interpret_node(node, known, n)
            continue
        try:
            next(steps)
        except Exception as error:  # noqa: BLE001 - emitted code may be broken
            reason = f"it raised {type(error).__name__}: {error}"
            yield Fault("error", node, node.name, reason, whole)
            return
        for found in _results(program, node, known, n):
            if isinstance(found, Fault):
                yield replace(found, whole=whole)
                return
            yield found
        lost = _overwritten(program, node, known, last, at, n)
        if lost is not None:
            yield replace(lost, whole=whole)
            return


def interpret_node(node: Node, known: State, n: int) -> State:
    """The node's results from what is known, by the oracle."""
    given = {v.name: known[v.name] for v in node.operands}
    return interpret(alone(node), {**given, _IMAGES.name: _images(n)}, {}).outputs


_IMAGES = Value("images", TensorType(DType.U8, (BATCH,)))


def _images(n: int) -> Array:
    return np.zeros(n, np.uint8)


def alone(node: Node) -> Graph:
    """A graph of one node on inputs; a further input sets the batch."""
    inputs = dict.fromkeys((*node.operands, _IMAGES))
    outputs = tuple((v.name, v) for v in node.results)
    return Graph(node.name, tuple(inputs), (), (node,), outputs)


def _results(
    program: Program, node: Node, known: State, n: int
) -> Iterator[Compared | Fault]:
    """Compare the kernel's results, and note what they are."""
    given = {v.name: known[v.name] for v in node.operands}
    bounds = bounded(alone(node), {**given, _IMAGES.name: _images(n)}, {})
    home = {value.name: target.name for target, value in program.graph.updates}
    for value in node.results:
        name = value.name
        actual = program.peek(value, n).copy()
        reference, bound = bounds.outputs[name], bounds.output_bounds[name]
        if not within(actual, reference, bound):
            reason = explain(f"%{name}", actual, reference, bound)
            yield Fault("result", node, name, reason)
            return
        known[name] = known[home.get(name, name)] = actual
        with np.errstate(all="ignore"):
            units = np.abs(actual.astype(np.float64) - reference) / bound
        worst = float(units[np.isfinite(units)].max(initial=0.0))
        yield Compared(node, value, worst, actual.size)


def _last_reads(graph: Graph) -> dict[str, int]:
    """The last launch that needs each value, by name; parameters are always needed."""
    last = {v.name: at for at, n in enumerate(graph.nodes) for v in n.operands}
    end = len(graph.nodes)
    always = [p.value for p in graph.parameters]
    return last | {v.name: end for v in (*always, *(v for _, v in graph.outputs))}


def _overwritten(
    program: Program, node: Node, known: State, last: dict[str, int], at: int, n: int
) -> Fault | None:
    """A value that ``node`` has changed although it is read later."""
    graph = program.graph
    values = {v.name: v for v in graph.values()}
    for name, until in last.items():
        if until <= at or name not in known:
            continue
        now = program.peek(values[name], n)
        if now.tobytes() == np.ascontiguousarray(known[name]).tobytes():
            continue
        reader = next(
            (r for r in graph.nodes[at + 1 :] if values[name] in r.operands), None
        )
        later = (
            f"kernel {reader.attrs.get('name', reader.op)} reads"
            if reader
            else ("outlives the step")
        )
        shared = overlaps(graph, name, node)
        how = f"they share {shared}" if shared else "outside the bytes it was given"
        reason = f"it overwrites %{name}, which {later}: {how}"
        return Fault("overwritten", node, name, reason)
    return None


def overlaps(graph: Graph, name: str, node: Node) -> str:
    """The bytes that a value shares with results or scratch of a kernel, for people."""
    assert graph.arena is not None
    buffers = {b.name: b for b in graph.arena.buffers}
    own = [buffers[v.name] for v in node.results]
    own += [b for b in buffers.values() if b.name.startswith(f"{node.name}!")]
    for other in own:
        shared = _shared(buffers[name], other)
        if shared and other.name != name:
            return f"bytes {shared[0]} to {shared[1]} with %{other.name}"
    return ""


def _shared(a: Buffer, b: Buffer) -> tuple[int, int] | None:
    start, end = max(a.offset, b.offset), min(a.offset + a.size, b.offset + b.size)
    return (start, end) if start < end else None


def raise_fault(program: Program) -> None:
    """RunError for the first fault; says so if there is none."""
    fault = first_fault(program)
    if fault is not None:
        raise RunError(str(fault))
