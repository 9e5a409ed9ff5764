"""Slopes of a loss by central differences in float64, with derived bounds.

At a kink there are two slopes, and steps across one mean nothing. So decisions are
held: ReLU lets through what it lets through at the start, a maximum stays where it is.
Of the smooth function that this leaves, D(h) = (f(h) - f(-h)) / 2h misses the slope by
f'''h²/6, and D(h/2) by a third of |D(h) - D(h/2)|; rounding adds what running error
analysis says of f, divided by h. Should an op not known here have a kink at a distance
a, across which the slope changes by d, then D(h/2) misses d(h/2 - a)/h of it. The
second differences S(h) = f(h) - 2 f(0) + f(-h) show that: 4 S(h/2) = S(h) up to h⁴
where f is smooth, and |D(h) - D(h/2)| + |S(h) - 4 S(h/2)| / h is never less than what
the kink adds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from convc.ir import philox
from convc.ir.graph import Graph, Node
from convc.ir.interpreter import Memo, interpret
from convc.ir.ops.base import Array
from convc.ir.ops.pool import pool_axes
from convc.ir.ops.window import pad_input, taps
from convc.ir.rounding import bounded
from convc.ir.rounding_base import DOUBLE
from convc.passes.samples import PERIOD, State

SHARP = 1e-3
"""How well a slope must be known, as a part of what it is made of."""
STEPS = (2.0**-8, 2.0**-10, 2.0**-12, 2.0**-15, 2.0**-18)
"""Steps that are tried, largest first, along directions that move the loss by about 1
a step."""


class Held(Memo):
    """Runs a graph again with the decisions of its first run."""

    def __init__(self) -> None:
        super().__init__()
        self._start: dict[str, list[Array]] = {}

    def results(
        self, node: Node, operands: list[Array], batch: int, float64: bool
    ) -> list[Array]:
        """What ``node`` makes of ``operands``, deciding as it did at first."""
        if node.op not in _HOLD:
            return super().results(node, operands, batch, float64)
        start = self._start.setdefault(node.name, operands)
        return [_HOLD[node.op](node, start, operands)]


def _hold_relu(node: Node, start: list[Array], now: list[Array]) -> Array:
    return np.where(start[0] > 0, now[0], 0.0)


def _hold_maximum(node: Node, start: list[Array], now: list[Array]) -> Array:
    return np.where(start[0] >= start[1], *now)


def _hold_minimum(node: Node, start: list[Array], now: list[Array]) -> Array:
    return np.where(start[0] <= start[1], *now)


def _hold_max_pool2d(node: Node, start: list[Array], now: list[Array]) -> Array:
    axes = pool_axes(node.op, now[0].shape[1:3], node.attrs)
    windows = [
        np.stack([pad_input(x, axes, -np.inf)[where] for _, where in taps(axes)])
        for x in (start[0], now[0])
    ]
    winner = windows[0].argmax(axis=0)[None]
    return np.asarray(np.take_along_axis(windows[1], winner, axis=0)[0])


_HOLD: Mapping[str, Callable[[Node, list[Array], list[Array]], Array]] = {
    "relu": _hold_relu,
    "maximum": _hold_maximum,
    "minimum": _hold_minimum,
    "max_pool2d": _hold_max_pool2d,
}


@dataclass(frozen=True)
class Slope:
    """A directional derivative, and how far from it the true one may be."""

    value: float
    bound: float


class Loss:
    """A scalar output of a tensor-level graph as a function of its parameters."""

    def __init__(
        self, graph: Graph, output: str, inputs: State, parameters: State
    ) -> None:
        self._graph, self._output, self._inputs = graph, output, inputs
        self._parameters = {
            p.value.name: parameters[p.value.name] for p in graph.parameters
        }
        near = {name: _beside(name, a) for name, a in self._parameters.items()}
        bounds = bounded(graph, inputs, near, unit=DOUBLE).output_bounds
        # twice, for moving a parameter rounds it, and bounds vary from place to place
        self._rounding = 2 * float(bounds[output])
        self._held = Held()
        self.value = self.at({}, 0.0)

    def at(self, moved: Mapping[str, Array], step: float) -> float:
        """The output where parameters are moved by ``step`` times a direction."""
        known = {
            name: self._parameters[name].astype(np.float64) + step * u
            for name, u in moved.items()
        }
        given = {**self._parameters, **known}
        held = self._held
        result = interpret(self._graph, self._inputs, given, True, held)
        return float(result.outputs[self._output])

    def slope(self, moved: Mapping[str, Array], size: float) -> Slope | None:
        """The derivative along a direction, known to SHARP times ``size``.

        None where rounding or a kink is in the way of every step.
        """
        best = Slope(0.0, np.inf)
        for step in STEPS:
            found = differences(
                lambda t: self.at(moved, t), self.value, step, self._rounding
            )
            best = min(best, found, key=lambda s: s.bound)
            if found.bound <= SHARP**2 * size or found is not best:
                break
        return best if best.bound <= SHARP * size else None


def differences(
    f: Callable[[float], float], here: float, step: float, rounding: float
) -> Slope:
    """The slope at 0 of ``f``, which is ``here`` there, and a bound on its error.

    ``rounding`` bounds the error of each value of ``f``.
    """
    up, down, half_up, half_down = (f(step * t) for t in (1.0, -1.0, 0.5, -0.5))
    wide, near = (up - down) / (2 * step), (half_up - half_down) / step
    bend = (up - 2 * here + down) - 4 * (half_up - 2 * here + half_down)
    lost = 25 * rounding / step  # as often are values of f in all of these together
    return Slope(near, abs(wide - near) + abs(bend) / step + lost)


def _beside(name: str, array: Array) -> Array:
    """A place near ``array`` where sums round, as they may not at simple numbers."""
    if array.dtype.kind != "f":
        return array
    return np.asarray(array * (1 + direction(name, array, 0) / 3e6))


def direction(name: str, like: Array, number: int) -> Array:
    """Random numbers between -1 and 1 in the shape of ``like``, as float64."""
    count = min(like.size, PERIOD)
    drawn = philox.uniform(13, philox.stream_of(name), number, count)
    return np.resize(2.0 * drawn.astype(np.float64) - 1.0, like.shape)
