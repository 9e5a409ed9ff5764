"""Small data for running a graph: whole numbers, or real ones as networks have."""

from math import prod, sqrt

import numpy as np

from convc.ir import philox
from convc.ir.graph import Graph, Value
from convc.ir.ops.base import Array
from convc.ir.types import DType

BATCH = 3
"""Images in a check: odd, and more than one."""
LARGEST = 2
"""Whole inputs and parameters lie between -LARGEST and LARGEST, so that convolution,
pooling, bias and ReLU have no rounding."""
MANY = 1000
"""Classes enough for any label that is drawn."""
PERIOD = 65537
"""Numbers that are drawn for one array; a longer one repeats them. A prime, so that no
axis is as long as the period."""

State = dict[str, Array]


def sample(value: Value, batch: int, classes: int = MANY, whole: bool = True) -> Array:
    """A small array for ``value``, the same in every run.

    Floats are whole numbers, or else between -1 and 1, in a filter divided by the
    square root of the terms that it sums. Labels (i32) are 0 or 1 if there are two
    ``classes``, counters and seeds (i64) small.
    """
    t, stream = value.type, philox.stream_of(value.name)
    drawn = philox.bits(7, stream, 0, min(t.elements(batch), PERIOD))
    kind = t.dtype.numpy
    if not t.dtype.is_float:
        span = 5 if t.dtype is DType.I64 else min(2, classes)
        array = (drawn % np.uint32(span)).astype(kind)
    elif whole:
        numbers = (drawn % np.uint32(2 * LARGEST + 1)).astype(kind)
        array = numbers - kind.type(LARGEST)
    else:
        terms = 1 if t.batched else prod(t.inner[:-1])
        array = ((drawn * 2.0**-31 - 1) / sqrt(terms)).astype(kind)
    return np.asarray(np.resize(array, t.bind(batch)))


class Samples:
    """Draws data for graphs, the very same array for the same value every time."""

    def __init__(self, whole: bool = True, batch: int = BATCH) -> None:
        self._whole, self._batch = whole, batch
        self._drawn: dict[tuple[Value, bool, int], Array] = {}

    def of(self, *graphs: Graph) -> tuple[State, State]:
        """Inputs and parameters for all of ``graphs``.

        Among real numbers, states are positive, as variances are.
        """
        classes = min(fewest_classes(g) for g in graphs)
        inputs = [v for g in graphs for v in g.inputs]
        parameters = [p for g in graphs for p in g.parameters]
        return (
            {v.name: self._draw(v, False, classes) for v in inputs},
            {
                p.value.name: self._draw(p.value, not p.trainable, classes)
                for p in parameters
            },
        )

    def _draw(self, value: Value, state: bool, classes: int) -> Array:
        key = value, state, classes
        if key not in self._drawn:
            array = sample(value, self._batch, classes, self._whole)
            positive = state and not self._whole
            self._drawn[key] = np.asarray(np.abs(array) if positive else array)
        return self._drawn[key]


def fewest_classes(graph: Graph) -> int:
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
