"""Check mode for differentiation: gradients against differences of the loss.

Along a random direction u the loss changes by <g, u>. Each parameter's share of u is
divided by the length of its gradient, so that every parameter matters alike.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.interpreter import interpret
from convc.ir.ops.base import Array
from convc.passes.canonicalize import drop_dead
from convc.passes.certificate import Verdict
from convc.passes.check import Checker
from convc.passes.differences import Loss, direction
from convc.passes.samples import State

GRADIENT = "gradient/"
"""What the name of an output that is a gradient begins with."""
SHORTEST = (2.0**-12, 1.0)
"""Lengths by which directions are divided at least, one tried after the other. A
gradient that is nothing but rounding would else send them far from where they start."""
DIRECTIONS = 2
"""Random directions in which a loss is followed."""


def check_gradients(checker: Checker, before: Graph, after: Graph) -> Verdict:
    """CompileError unless the gradients in ``after`` are those of the loss.

    What both graphs have must be equal bit for bit.
    """
    checker.equal(before, after)
    chosen = tuple(o for o in after.outputs if o[0].startswith(GRADIENT))
    backward = replace(after, outputs=chosen, updates=())
    data = checker.data(before, after, whole=False)
    return compare_gradients(before, drop_dead(backward), *data)


def compare_gradients(
    forward: Graph, backward: Graph, inputs: State, parameters: State
) -> Verdict:
    """CompileError unless the outputs of ``backward`` are the gradients of the loss.

    ``forward`` has the output ``loss``, ``backward`` an output ``gradient/x`` for each
    parameter x. Where the loss of the data is no number, their magnitudes are taken:
    a logarithm wants positive ones.
    """
    losing = (("loss", forward.output("loss")),)
    forward = drop_dead(replace(forward, outputs=losing, updates=()))
    loss = Loss(forward, "loss", inputs, parameters)
    if not np.isfinite(loss.value):
        parameters = {name: np.asarray(np.abs(a)) for name, a in parameters.items()}
        loss = Loss(forward, "loss", inputs, parameters)
    found = interpret(backward, inputs, parameters, float64=True).outputs
    gradients = {name.removeprefix(GRADIENT): g for name, g in found.items()}
    worst = [_follow(loss, gradients, number) for number in range(DIRECTIONS)]
    decided = [w for w in worst if w is not None]
    note = f"{len(gradients)} gradients along {len(decided)} directions"
    return Verdict("gradients", len(decided), max(decided, default=0.0), note)


def _follow(loss: Loss, gradients: Mapping[str, Array], number: int) -> float | None:
    """The error of <g, u> in units of its bound; None where nothing can be said.

    CompileError, with the parameter that is to blame, for more than 1.
    """
    for shortest in SHORTEST:
        moved = {
            name: direction(name, g, number) / max(float(np.linalg.norm(g)), shortest)
            for name, g in gradients.items()
        }
        units = _error(loss, gradients, moved)
        if units is not None:
            break
    if units is None or units[0] <= 1:
        return units and units[0]
    for name, share in moved.items():
        alone = _error(loss, gradients, {name: share})
        if alone is not None and alone[0] > 1:
            raise CompileError(f"the gradient of {name} is wrong: {alone[1]}")
    raise CompileError(f"the gradients are wrong: {units[1]}")


def _error(
    loss: Loss, gradients: Mapping[str, Array], moved: Mapping[str, Array]
) -> tuple[float, str] | None:
    """The error in units of its bound, and both sides for people."""
    parts = [float(np.vdot(gradients[name], u)) for name, u in moved.items()]
    size = float(np.linalg.norm([1.0, *parts]))
    slope = loss.slope(moved, size)
    if slope is None:
        return None
    claimed = sum(parts)
    lost = np.finfo(np.float64).eps * sum(
        float(np.abs(gradients[name] * u).sum()) * u.size for name, u in moved.items()
    )
    error, allowed = abs(claimed - slope.value), slope.bound + lost
    units = 0.0 if not error else error / allowed if allowed else np.inf
    return units, (
        f"along a random direction it says {claimed:.9g}, central differences of the "
        f"loss say {slope.value:.9g} within {slope.bound:.2g}"
    )
