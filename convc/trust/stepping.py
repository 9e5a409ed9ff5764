"""Runs a program kernel by kernel beside the oracle, and says where they part.

Before a kernel runs, what it reads must be what was made for it; after it has run, its
results must be within the bounds that rounding allows for exactly these operands. So
no error is blamed on a kernel that only passed it on, and every bound is as tight as
one kernel's sums.

On whole numbers every kernel gets whole numbers, not only the first: what one has made
is replaced, when it has been compared, by 1 or 2 of its sign. Then no product and no
sum of the next one rounds, and its bound is 0. The arena is full of NaN at first, for
memory that is read before it is written must not happen to hold zeros.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from convc.ir.errors import RunError
from convc.ir.graph import Buffer, Graph, Node, Value
from convc.ir.interpreter import interpret
from convc.ir.ops.base import Array
from convc.ir.rounding import bounded, explain, units, within
from convc.ir.types import BATCH, DType, TensorType
from convc.passes.samples import Samples, State, sample
from convc.program import Program

IMAGES = 3
"""Images in a comparison: odd, more than one, and less than a batch as a rule."""

LARGEST = 2**23
"""Elements that a value may have in a comparison of more images than that."""


@dataclass(frozen=True)
class Fault:
    """The first thing a program did that its graph does not say.

    ``kind`` is "result" (of ``node``, called ``value``), "overwritten" (a ``value``
    that is still needed, by ``node``), "error" (raised by ``node``) or "run" (``value``
    is right when the workers take turns, and wrong when they run together).
    """

    kind: str
    node: Node
    value: str
    reason: str
    whole: bool = True
    images: int = IMAGES

    def __str__(self) -> str:
        name = self.node.attrs.get("name", self.node.op)
        data = "whole numbers" if self.whole else "real numbers"
        of = "1 image" if self.images == 1 else f"{self.images} images"
        return f"kernel {name}, on {data} and {of}: {self.reason}"


@dataclass(frozen=True)
class Compared:
    """A kernel's result beside the oracle's; ``units`` is the error over its bound."""

    node: Node
    value: Value
    units: float
    size: int


def first_fault(program: Program) -> Fault | None:
    """The first difference there is, None if there is none.

    The program's parameters are left as the last run made them.
    """
    return next((item for item in compared(program) if isinstance(item, Fault)), None)


def compared(program: Program) -> Iterator[Compared | Fault]:
    """Every kernel's results beside the oracle's; a Fault is the last.

    On a few images, whole numbers and then real ones; on a full batch, or as much of
    it as is quick, where tiles meet that a few images do not fill; and at last all
    workers together. Of the faults that these show the Fault is the first kernel's.
    """
    few, full = min(IMAGES, program.batch), _full(program)
    trials = [(few, True), (few, False)]
    if full > few:
        trials.append((full, True))
    fault = None
    for images, whole in trials:
        end = fault.node if fault else None
        for item in _followed(program, images, whole, end):
            if isinstance(item, Fault):
                fault = item
            else:
                yield item
    for images in dict.fromkeys((few, full)):
        fault = fault or _together(program, images)
    if fault is not None:
        yield fault


def _full(program: Program) -> int:
    """As many images of a batch as keep every value to LARGEST elements."""
    made = [v.type for node in program.graph.ops() for v in node.results]
    most = max((prod(t.inner) for t in made if t.batched), default=LARGEST)
    return min(program.batch, max(IMAGES, LARGEST // most))


def _followed(
    program: Program, images: int, whole: bool, end: Node | None
) -> Iterator[Compared | Fault]:
    """One step up to ``end``; with many images only kernels that have a batch."""
    graph, known = program.graph, _prepared(program, images, whole)
    last = _last_reads(graph)
    steps = program.stepwise(images)
    for at, node in enumerate(graph.nodes):
        if node is end:
            return
        if node.region is None:
            known |= interpret_node(node, known, images)
            continue
        try:
            next(steps)
        except Exception as error:  # noqa: BLE001 - emitted code may be broken
            reason = f"it raised {type(error).__name__}: {error}"
            yield Fault("error", node, node.name, reason, whole, images)
            return
        if images <= IMAGES or _is_batched(node):
            for found in _results(program, node, known, images):
                if isinstance(found, Fault):
                    yield replace(found, whole=whole, images=images)
                    return
                yield found
        _noted(program, node, known, images, whole)
        lost = _overwritten(program, node, known, last, at, images)
        if lost is not None:
            yield replace(lost, whole=whole, images=images)
            return


def _prepared(program: Program, images: int, whole: bool) -> State:
    """Inputs and parameters, which are where the program expects them."""
    inputs, parameters = Samples(whole, images).of(program.graph)
    program.forget()
    program.load(parameters)
    for name, array in inputs.items():
        program.input(name, images)[...] = array
    return {**inputs, **parameters}


def _is_batched(node: Node) -> bool:
    return any(v.type.batched for v in (*node.operands, *node.results))


def _together(program: Program, images: int) -> Fault | None:
    """What a run of all workers makes otherwise than they do when they take turns."""
    graph = program.graph
    _prepared(program, images, whole=False)
    for _ in program.stepwise(images):
        pass
    shown = [v for _, v in (*graph.outputs, *graph.updates)]
    alone = [program.peek(v, images).tobytes() for v in shown]
    _prepared(program, images, whole=False)
    reason = ""
    try:
        program.run(images)
    except Exception as error:  # noqa: BLE001 - the emitted runner may be broken
        reason = f"a run of all kernels raised {type(error).__name__}: {error}"
    makers = graph.producers()
    for value, expected in zip(shown, alone, strict=True):
        node = makers.get(value.name)
        if node is None or program.peek(value, images).tobytes() == expected:
            continue
        reason = reason or (
            f"%{value.name} is right when the {program.threads} workers take turns "
            "kernel by kernel, a run of them all gives something else"
        )
        return Fault("run", node, value.name, reason, False, images)
    return None


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
    """Compare the kernel's results."""
    given = {v.name: known[v.name] for v in node.operands}
    bounds = bounded(alone(node), {**given, _IMAGES.name: _images(n)}, {})
    for value in node.results:
        name = value.name
        actual = program.peek(value, n)
        reference, bound = bounds.outputs[name], bounds.output_bounds[name]
        if not within(actual, reference, bound):
            reason = explain(f"%{name}", actual, reference, bound)
            yield Fault("result", node, name, reason)
            return
        yield Compared(node, value, units(actual, reference, bound), actual.size)


def _noted(program: Program, node: Node, known: State, n: int, whole: bool) -> None:
    """Note what the results are; among whole numbers let them be such, too."""
    home = {value.name: target.name for target, value in program.graph.updates}
    for value in node.results:
        name, made = value.name, program.peek(value, n)
        if whole and value.type.dtype.is_float and name not in home:
            program.poke(value, np.sign(made) * np.abs(sample(value, n)).clip(1), n)
            made = program.peek(value, n)
        known[name] = known[home.get(name, name)] = made.copy()


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
