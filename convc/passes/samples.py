"""Small data for running a graph: whole numbers, or real ones as networks have."""

from math import prod, sqrt

import numpy as np

from convc.ir import philox
from convc.ir.graph import Graph, Value
from convc.ir.interpreter import fed
from convc.ir.ops.base import Array, ints
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


def sample(
    value: Value, batch: int, classes: int = MANY, whole: bool = True, taps: int = MANY
) -> Array:
    """A small array for ``value``, the same in every run.

    Floats are whole numbers, or else between -1 and 1, in a filter divided by the
    square root of the terms that it sums. Labels (i32) are 0 or 1 if there are two
    ``classes``, places in a pool's window (u8) below ``taps``, counters and seeds (i64)
    small.
    """
    t, stream = value.type, philox.stream_of(value.name)
    drawn = philox.bits(7, stream, 0, min(t.elements(batch), PERIOD))
    kind = t.dtype.numpy
    if not t.dtype.is_float:
        most = {DType.I64: 5, DType.U8: min(taps, 5)}
        span = most.get(t.dtype, min(2, classes))
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
        self._drawn: dict[tuple[Value, bool, int, int], Array] = {}
        self._fed: dict[tuple[str, float], Array] = {}

    def of(self, *graphs: Graph) -> tuple[State, State]:
        """Inputs and parameters for all of ``graphs``.

        Among real numbers, states are positive, as variances are. Inputs that a graph
        feeds hold what it says.
        """
        few = min(map(fewest_classes, graphs)), min(map(fewest_taps, graphs))
        inputs = [v for g in graphs for v in g.inputs]
        parameters = [p for g in graphs for p in g.parameters]
        drawn = {v.name: self._draw(v, False, *few) for v in inputs}
        known = {name: array for g in graphs for name, array in fed(g).items()}
        return (
            {
                **drawn,
                **{name: self._kept(name, array) for name, array in known.items()},
            },
            {
                p.value.name: self._draw(p.value, not p.trainable, *few)
                for p in parameters
            },
        )

    def _kept(self, name: str, array: Array) -> Array:
        """``array``, or the equal one that was given out for the name before."""
        key = name, float(array)
        return self._fed.setdefault(key, array)

    def _draw(self, value: Value, state: bool, classes: int, taps: int) -> Array:
        key = value, state, classes, taps
        if key not in self._drawn:
            array = sample(value, self._batch, classes, self._whole, taps)
            positive = state and not self._whole
            self._drawn[key] = np.asarray(np.abs(array) if positive else array)
        return self._drawn[key]


def fewest_classes(graph: Graph) -> int:
    """The classes of the loss that has the fewest; many if there is no loss."""
    losses = (n for n in graph.ops() if n.op.startswith("softmax_cross_entropy"))
    return min((n.operands[0].type.inner[-1] for n in losses), default=MANY)


def fewest_taps(graph: Graph) -> int:
    """The elements of the smallest window whose gradient goes to one; many if none."""
    pools = (n for n in graph.ops() if n.op == "max_pool2d_grad")
    return min((prod(ints(n.attrs["window"])) for n in pools), default=MANY)
