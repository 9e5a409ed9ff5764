"""Check mode for optimizers: updates against the papers' formulas, in other algebra.

Adam as Kingma and Ba (2015) put it at the end of section 2, with both corrections in
the rate; momentum with its recursion written out once. All in float64 NumPy, nothing
of it shared with the ops.
"""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

import numpy as np

from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.interpreter import interpret
from convc.ir.ops import OPS
from convc.ir.ops.base import Array
from convc.ir.rounding_base import DOUBLE
from convc.optimizers import SGD, Adam, AdamW, Momentum, Optimizer
from convc.passes.certificate import Verdict
from convc.passes.check import Checker
from convc.passes.gradient_check import GRADIENT
from convc.passes.samples import PERIOD, State
from convc.tracing import STEP

ROUNDINGS = 64
"""More than the ops' references and the formulas here make on the way to a number."""

Moments = dict[str, Array]
"""A parameter ``p`` and what its optimizer keeps of it, ``m`` or ``v``."""
Expected = dict[str, tuple[Array, Array]]
"""What these become, and the sizes of what is summed for it."""


def check_updates(
    optimizer: Optimizer,
) -> Callable[[Checker, Graph, Graph], Verdict]:
    """The check that a pass has added what ``optimizer`` says, and nothing else.

    What both graphs have must be equal bit for bit; every trainable parameter and its
    moments must take the values of the formula, and the counter must count.
    """

    def check(checker: Checker, before: Graph, after: Graph) -> Verdict:
        same = checker.equal(before, after)
        added = _added(before, after)
        inputs, parameters = checker.data(added, whole=False)
        found = interpret(added, inputs, parameters, float64=True)
        step = int(parameters[STEP])
        if found.updates.get(STEP) != step + 1:
            raise CompileError(f"after step {step}, {STEP} must be {step + 1}")
        count, worst = same.values, 0.0
        for p in (p for p in before.parameters if p.trainable):
            name = p.value.name
            gradient = _thin(inputs[before.output(GRADIENT + name).name])
            rate = float(found.outputs.get(f"rate {name}", 0.0))
            old = _moments(optimizer, name, parameters)
            new = _moments(optimizer, name, found.updates)
            decays = optimizer.decay_biases or p.value.type.rank > 1
            decay = optimizer.weight_decay if decays else 0.0
            formula = FORMULAS[type(optimizer)]
            expected = formula(optimizer, old, gradient, rate, decay, step + 1)
            worst = max(worst, _compare(name, new, expected))
            count += len(new) * gradient.size
        note = f"the formula of {type(optimizer).__name__}"
        return Verdict("optimizer", count, worst, note)

    return check


def _added(before: Graph, after: Graph) -> Graph:
    """What ``after`` has in addition, with gradients as inputs and rates as outputs."""
    known = {v.name for n in before.nodes for v in n.results}
    nodes = tuple(n for n in after.nodes if n.name not in known)
    gradients = (v for name, v in before.outputs if name.startswith(GRADIENT))
    rates = tuple(
        (f"rate {n.operands[0].name}", n.operands[OPS[n.op].operands.index("lr")])
        for n in nodes
        if "lr" in OPS[n.op].operands
    )
    earlier = {target.name for target, _ in before.updates}
    return replace(
        after,
        inputs=tuple(dict.fromkeys((*after.inputs, *gradients))),
        nodes=nodes,
        outputs=rates,
        updates=tuple(u for u in after.updates if u[0].name not in earlier),
    )


def _moments(optimizer: Optimizer, name: str, arrays: State) -> Moments:
    """The parameter and its state among ``arrays``; CompileError if one is missing."""
    names = {"p": name, **{s: f"optimizer/{s}/{name}" for s in optimizer.slots}}
    for wanted in names.values():
        if wanted not in arrays:
            raise CompileError(f"{wanted} is not updated")
    return {slot: _thin(arrays[wanted]) for slot, wanted in names.items()}


def _thin(array: Array) -> Array:
    """At most about PERIOD of the elements: an update is elementwise."""
    return array.ravel()[:: 1 + array.size // PERIOD].astype(np.float64)


def _compare(name: str, new: Moments, expected: Expected) -> float:
    """The largest error in units of its bound; CompileError for more than 1."""
    worst = 0.0
    for slot, (value, size) in expected.items():
        units = np.abs(new[slot] - value) / (ROUNDINGS * DOUBLE * size + 2.0**-1022)
        at = int(np.argmax(units))
        if not units[at] <= 1:
            what = "the update" if slot == "p" else f"the state {slot}"
            raise CompileError(
                f"{what} of {name} is wrong: {new[slot][at]:.9g} where the formula "
                f"gives {value[at]:.9g}"
            )
        worst = max(worst, float(units[at]))
    return worst


def _sgd(
    o: Optimizer, old: Moments, g: Array, rate: float, decay: float, t: int
) -> Expected:
    p = old["p"]
    size = np.abs(p) + rate * (np.abs(g) + decay * np.abs(p))
    return {"p": ((1 - rate * decay) * p - rate * g, size)}


def _momentum(
    o: Optimizer, old: Moments, g: Array, rate: float, decay: float, t: int
) -> Expected:
    assert isinstance(o, Momentum)
    p, v, mu = old["p"], old["v"], o.momentum
    d, d_size = g + decay * p, np.abs(g) + decay * np.abs(p)
    v_size = mu * np.abs(v) + d_size
    ahead, share = (mu * mu, 1 + mu) if o.nesterov else (mu, 1.0)
    moved = p - rate * ahead * v - rate * share * d
    return {
        "p": (moved, np.abs(p) + rate * (1 + mu) * (v_size + d_size)),
        "v": (mu * v + d, v_size),
    }


def _adam(
    o: Optimizer, old: Moments, g: Array, rate: float, decay: float, t: int
) -> Expected:
    assert isinstance(o, Adam)
    p, m, v = old["p"], old["m"], old["v"]
    added = 0.0 if o.decoupled else decay
    d, d_size = g + added * p, np.abs(g) + added * np.abs(p)
    first, second = m + (1 - o.beta1) * (d - m), v + (1 - o.beta2) * (d * d - v)
    m_size = np.abs(m) + d_size
    v_size = v + d_size * d_size
    root = sqrt(1 - o.beta2**t)
    scaled = rate * root / (1 - o.beta1**t) / (np.sqrt(second) + o.epsilon * root)
    shrunk = p - rate * decay * p if o.decoupled else p
    return {
        "p": (
            shrunk - scaled * first,
            np.abs(p) * (1 + rate * decay) + scaled * m_size * (1 + v_size / second),
        ),
        "m": (first, m_size),
        "v": (second, v_size),
    }


FORMULAS = {SGD: _sgd, Momentum: _momentum, Adam: _adam, AdamW: _adam}
"""The formula of each optimizer: what becomes of a parameter and its moments."""
