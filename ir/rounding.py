"""How far from the float64 reference any evaluation in less may be.

Running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, 2nd
ed., section 3.3): next to each value runs an array of bounds, derived from the data
and the lengths of the sums, that hold for every order of evaluation. Where integer
data make all partial sums representable the bound is 0: results must be equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from convc.ir.graph import Attrs, Graph, Node, Value
from convc.ir.interpreter import Result, batch_of, interpret
from convc.ir.ops import OPS
from convc.ir.ops.base import Array
from convc.ir.rounding_base import Rounded, Site, storage_of
from convc.ir.rounding_rules import RULES
from convc.ir.rounding_schedules import scheduled
from convc.ir.rounding_storage import stored
from convc.ir.types import DType

State = dict[str, Rounded]


@dataclass(frozen=True)
class Bounds:
    """Float64 references by name, and for each an array of absolute error bounds.

    A bound is inf where nothing can be said (a possible overflow or NaN). Integers and
    booleans have 0 where they are decided, else how far they may be off.
    """

    outputs: dict[str, Array]
    updates: dict[str, Array]
    output_bounds: dict[str, Array]
    update_bounds: dict[str, Array]

    def faults(self, result: Result) -> list[str]:
        """One explanation for each output and update of ``result`` out of bounds."""
        return [
            explain(name, actual[name], reference[name], bounds[name])
            for actual, reference, bounds in (
                (result.outputs, self.outputs, self.output_bounds),
                (result.updates, self.updates, self.update_bounds),
            )
            for name in reference
            if not within(actual[name], reference[name], bounds[name])
        ]


def bounded(
    graph: Graph,
    inputs: Mapping[str, Array],
    parameters: Mapping[str, Array],
    unit: float = 2.0**-24,
) -> Bounds:
    """Run ``graph`` in float64, as ``interpret`` does, and bound its rounding errors.

    The bounds hold for arithmetic of unit roundoff ``unit`` and float32's range: sums
    in any order, fused multiply-add or not, a bias first or last, division by a
    constant or multiplication by its reciprocal, exp, log, tanh and cos to 4 units in
    the last place. Where types have 16 bits or products are in tf32, they hold for
    what that rounds too. They do not cover other algebra, such as a variance as the
    mean of squares less the square of the mean, but for convolutions by Winograd's or
    Fourier's transforms in kernels that are scheduled so. RunError as ``interpret``
    raises it.

    Worst cases multiply from layer to layer, so that for a whole network in float32
    the bounds hold but say little. ``unit=2**-53`` bounds float64 runs (``interpret``
    with ``float64``) instead, 2**28 times tighter: the way to compare two graphs.
    """
    batch, state = batch_of(graph, inputs), _given(graph, inputs, parameters, unit)
    with np.errstate(all="ignore"):
        _run(graph.nodes, state, batch, unit)
    outputs = {name: state[v.name] for name, v in graph.outputs}
    updates = {target.name: state[v.name] for target, v in graph.updates}
    return Bounds(
        {name: item.value for name, item in outputs.items()},
        {name: item.value for name, item in updates.items()},
        {name: item.error for name, item in outputs.items()},
        {name: item.error for name, item in updates.items()},
    )


def _given(
    graph: Graph,
    inputs: Mapping[str, Array],
    parameters: Mapping[str, Array],
    unit: float,
) -> State:
    """Inputs and parameters with what storing them in their type loses."""
    given = [*graph.inputs, *(p.value for p in graph.parameters)]
    echo = replace(
        graph, nodes=(), outputs=tuple((v.name, v) for v in given), updates=()
    )
    values = interpret(echo, inputs, parameters, float64=True).outputs
    return {v.name: _stored(v, values[v.name], unit) for v in given}


def _stored(value: Value, array: Array, unit: float) -> Rounded:
    error = np.zeros(array.shape)
    if value.type.dtype.is_float:
        with np.errstate(all="ignore"):
            kept = array.astype(storage_of(value.type.dtype, unit))
            lost = np.abs(array - kept.astype(np.float64))
        error = np.where(np.isnan(lost), 0.0, lost)  # inf and NaN stay what they are
    return Rounded(array, error)


def _run(
    nodes: Sequence[Node],
    state: State,
    batch: int,
    unit: float,
    schedule: Attrs = MappingProxyType({}),
) -> None:
    for node in nodes:
        args = tuple(state[v.name] for v in node.operands)
        if node.region is not None:
            local = dict(zip((v.name for v in node.region.inputs), args, strict=True))
            _run(node.region.nodes, local, batch, unit, node.schedule or {})
            results = tuple(local[v.name] for v in node.region.yields)
        else:
            results = _run_op(node, args, batch, unit, schedule)
        state.update(zip((v.name for v in node.results), results, strict=True))


def _run_op(
    node: Node, args: tuple[Rounded, ...], batch: int, unit: float, schedule: Attrs
) -> tuple[Rounded, ...]:
    out = OPS[node.op].evaluate([a.value for a in args], node.attrs, batch)
    values = tuple(
        np.asarray(array).astype(_wide(value))
        for value, array in zip(
            node.results, out if isinstance(out, tuple) else (out,), strict=True
        )
    )
    site = Site(node, args, values, batch, unit)
    return stored(site, site.settle(scheduled(site, RULES[node.op](site), schedule)))


def _wide(value: Value) -> "np.dtype[np.generic]":
    kind = value.type.dtype
    return DType.F64.numpy if kind.is_float else kind.numpy


def within(actual: Array, reference: Array, bound: Array) -> bool:
    """Whether every element of ``actual`` is within ``bound`` of ``reference``.

    Equal infinities and two NaN agree; an infinite bound allows anything. False if
    the shapes differ.
    """
    if np.shape(actual) != np.shape(reference):
        return False
    return not _excess(actual, reference, bound).any()


def units(actual: Array, reference: Array, bound: Array) -> float:
    """The largest error as a multiple of its bound; inf where it must be none.

    0 where both are one infinity or NaN, or where the bound allows anything.
    """
    a, r = (np.asarray(x, np.float64) for x in (actual, reference))
    with np.errstate(all="ignore"):
        same = (a == r) | (np.isnan(a) & np.isnan(r)) | np.isposinf(bound)
        found = np.where(same, 0.0, np.abs(a - r) / bound)
    return float(np.where(np.isnan(found), np.inf, found).max(initial=0.0))


def _excess(actual: Array, reference: Array, bound: Array) -> Array:
    """Where ``actual`` is out of bounds."""
    a, r = (np.asarray(x, np.float64) for x in (actual, reference))
    with np.errstate(invalid="ignore"):
        near = np.abs(a - r) <= bound
    same = (a == r) | (np.isnan(a) & np.isnan(r))
    return np.asarray(~(near | same | np.isposinf(bound)))


def explain(name: str, actual: Array, reference: Array, bound: Array) -> str:
    """One line on ``actual``: how many elements are out of bounds, and the worst.

    Its error is given in units of its bound.
    """
    if np.shape(actual) != np.shape(reference):
        return (
            f"{name}: the result must have shape {np.shape(reference)}, "
            f"has {np.shape(actual)}"
        )
    a, r = (np.asarray(x, np.float64) for x in (actual, reference))
    wrong = _excess(a, r, bound)
    with np.errstate(all="ignore"):
        error = np.where(a == r, 0.0, np.abs(a - r))
        units = np.where(error == 0, 0.0, error / bound)
    units = np.where(wrong & np.isnan(units), np.inf, units)
    units = np.where(np.isnan(units), 0.0, units)
    if not a.size:
        return f"{name}: no elements"
    worst = np.unravel_index(np.argmax(np.where(wrong, units + 1, units)), a.shape)
    place = f"[{', '.join(str(int(i)) for i in worst)}]"
    count = f"{np.count_nonzero(wrong)} of {wrong.size} elements are out of bounds"
    return (
        f"{name}: {count}; worst at {place}: {a[worst]:.9g} for {r[worst]:.9g}, "
        f"error {error[worst]:.3g} is {units[worst]:.3g} times the bound "
        f"{np.asarray(bound)[worst]:.3g}"
    )
