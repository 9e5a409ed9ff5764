"""Check mode: the graph before and after a pass, run on small random inputs."""

from typing import Any

import numpy as np

from convc.ir import philox
from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Value
from convc.ir.interpreter import interpret
from convc.ir.types import DType

BATCH = 3
"""Images in a check: odd, and more than one."""
LARGEST = 2
"""Inputs and parameters are whole numbers from -LARGEST to LARGEST, so that
convolution, pooling, bias and ReLU have no rounding."""
MANY = 1000
"""Classes enough for any label that is drawn."""


def check_same_meaning(before: Graph, after: Graph) -> None:
    """CompileError unless common outputs and updates are equal bit for bit.

    The passes only regroup, rename or drop operations, so the interpreter evaluates
    the same operations on the same numbers and even inexact ones must agree.
    """
    graphs, classes = (before, after), _fewest_classes(before)
    inputs = {v.name: sample(v, BATCH, classes) for g in graphs for v in g.inputs}
    parameters = {
        p.value.name: sample(p.value, BATCH) for g in graphs for p in g.parameters
    }
    with np.errstate(all="ignore"):
        old = interpret(before, inputs, parameters)
        new = interpret(after, inputs, parameters)
    compared = 0
    for kind, a, b in (
        ("output", old.outputs, new.outputs),
        ("update of", old.updates, new.updates),
    ):
        for name in (k for k in a if k in b):
            compared += 1
            if a[name].shape != b[name].shape or _differ(a[name], b[name]).any():
                raise CompileError(_difference(f"{kind} {name}", a[name], b[name]))
    if old.outputs and not compared:
        raise CompileError("the pass kept none of the outputs")


def _fewest_classes(graph: Graph) -> int:
    """The classes of the loss that has the fewest; many if there is no loss."""
    bodies = (n.region.nodes if n.region else (n,) for n in graph.nodes)
    return min(
        (
            n.operands[0].type.inner[-1]
            for body in bodies
            for n in body
            if n.op.startswith("softmax_cross_entropy")
        ),
        default=MANY,
    )


def sample(value: Value, batch: int, classes: int = MANY) -> Any:
    """A small whole-numbered array for ``value``, the same in every run.

    Labels (i32) are 0 or 1 if there are two ``classes``, counters and seeds (i64)
    small.
    """
    t, stream = value.type, philox.stream_of(value.name)
    words = philox.bits(7, stream, 0, t.elements(batch)).reshape(t.bind(batch))
    if t.dtype.is_float:
        whole = words % np.uint32(2 * LARGEST + 1)
        return whole.astype(t.dtype.numpy) - t.dtype.numpy.type(LARGEST)
    span = 5 if t.dtype is DType.I64 else min(2, classes)
    return (words % np.uint32(span)).astype(t.dtype.numpy)


def _differ(a: Any, b: Any) -> Any:
    """Where two arrays are not equal; NaN is equal to NaN."""
    return np.asarray((a != b) & ~((a != a) & (b != b)))


def _difference(what: str, a: Any, b: Any) -> str:
    if a.shape != b.shape:
        return f"{what} changed its shape from {a.shape} to {b.shape}"
    differ = _differ(a, b)
    where = tuple(int(i) for i in np.argwhere(differ)[0])
    return (
        f"{what} changed: {np.sum(differ)} of {a.size} elements differ, first at "
        f"{where}: {a[where].item()!r} before, {b[where].item()!r} after"
    )
