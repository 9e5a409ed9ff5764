"""Check mode: the graph before and after a pass, run on small random inputs."""

from collections.abc import Iterator, Mapping

import numpy as np

from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.interpreter import Memo, Result, interpret
from convc.ir.ops.base import Array
from convc.ir.rounding import Bounds, bounded
from convc.ir.rounding_base import DOUBLE
from convc.passes.certificate import Verdict
from convc.passes.samples import Samples, State

Pair = tuple[str, Array, Array]


class Checker:
    """Runs graphs on small data, one pass after another.

    The graph after a pass is the one before the next, and most operations stay what
    they were: what was evaluated on the same arrays is not evaluated again.
    """

    def __init__(self) -> None:
        self._data = {whole: Samples(whole) for whole in (True, False)}
        self._memos = {whole: Memo() for whole in (True, False)}

    def equal(self, before: Graph, after: Graph) -> Verdict:
        """CompileError unless common outputs and updates are equal bit for bit.

        Such a pass only regroups, renames or drops operations, so the interpreter
        evaluates the same operations on the same numbers and even inexact ones must
        agree: on whole numbers, and on real ones, where no softmax is saturated.
        """
        count = 0
        for whole in (True, False):
            data = self.data(before, after, whole=whole)
            old, new = (self.run(graph, *data, whole) for graph in (before, after))
            count += compare_equal(old, new).values
        return Verdict("equal", count)

    def close(self, before: Graph, after: Graph) -> Verdict:
        """CompileError unless common outputs and updates are equal up to rounding.

        Both graphs run in float64, on whole numbers and on real ones. They may differ
        by what running error analysis allows the one and the other.
        """
        count, worst = 0, 0.0
        for whole in (True, False):
            data = self.data(before, after, whole=whole)
            old, new = (bounded(graph, *data, unit=DOUBLE) for graph in (before, after))
            verdict = compare_close(old, new)
            count, worst = count + verdict.values, max(worst, verdict.worst)
        return Verdict("bound", count, worst)

    def data(self, *graphs: Graph, whole: bool = True) -> tuple[State, State]:
        """Inputs and parameters for all of ``graphs``; they must not be written to."""
        return self._data[whole].of(*graphs)

    def run(
        self,
        graph: Graph,
        inputs: Mapping[str, Array],
        parameters: Mapping[str, Array],
        whole: bool = True,
    ) -> Result:
        """What ``graph`` gives in the precision it says."""
        return interpret(graph, inputs, parameters, memo=self._memos[whole])


def compare_equal(old: Result, new: Result) -> Verdict:
    """CompileError unless common outputs and updates are equal bit for bit."""
    count = 0
    for what, a, b in _pairs(old, new):
        if a is b:
            count += a.size
            continue
        _same_shape(what, a, b)
        wrong = (a != b) & ~((a != a) & (b != b))  # NaN is equal to NaN
        if np.any(wrong):
            raise CompileError(_difference(what, a, b, wrong))
        count += a.size
    return Verdict("equal", count)


def compare_bounds(result: Result, bounds: Bounds) -> Verdict:
    """CompileError unless outputs and updates are within what was derived for them."""
    faults = bounds.faults(result)
    if faults:
        raise CompileError(f"rounding does not allow this: {faults[0]}")
    count, worst = 0, 0.0
    reference = Result(bounds.outputs, bounds.updates)
    allowed = Result(bounds.output_bounds, bounds.update_bounds)
    errors = {what: bound for what, bound, _ in _pairs(allowed, result)}
    for what, a, b in _pairs(reference, result):
        with np.errstate(all="ignore"):
            error = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
            units = np.where(error == 0, 0.0, error / errors[what])
        finite = units[np.isfinite(units)]
        count, worst = count + a.size, max(worst, float(finite.max(initial=0.0)))
    return Verdict("bound", count, worst)


def compare_close(old: Bounds, new: Bounds) -> Verdict:
    """CompileError unless common outputs and updates are within both bounds' sum."""
    count, worst = 0, 0.0
    errors = Result(old.output_bounds, old.update_bounds)
    others = Result(new.output_bounds, new.update_bounds)
    allowed = {what: a + b for what, a, b in _pairs(errors, others)}
    for what, a, b in _pairs(
        Result(old.outputs, old.updates), Result(new.outputs, new.updates)
    ):
        _same_shape(what, a, b)
        with np.errstate(all="ignore"):
            error = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
            alike = (a == b) | ((a != a) & (b != b))
            wrong = ~alike & ~(error <= allowed[what]) & ~np.isposinf(allowed[what])
            units = np.where(alike, 0.0, error / allowed[what])
        if wrong.any():
            raise CompileError(
                f"{_difference(what, a, b, wrong)}, {units[wrong].max():.3g} times "
                "what rounding allows"
            )
        finite = units[np.isfinite(units)]
        count, worst = count + a.size, max(worst, float(finite.max(initial=0.0)))
    return Verdict("bound", count, worst)


def _pairs(old: Result, new: Result) -> Iterator[Pair]:
    """What both results have, with a name for people; CompileError for none."""
    found = False
    for kind, a, b in (
        ("output", old.outputs, new.outputs),
        ("update of", old.updates, new.updates),
    ):
        for name in (k for k in a if k in b):
            found = True
            yield f"{kind} {name}", a[name], b[name]
    if old.outputs and not found:
        raise CompileError("the pass kept none of the outputs")


def _same_shape(what: str, a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise CompileError(f"{what} changed its shape from {a.shape} to {b.shape}")


def _difference(what: str, a: Array, b: Array, wrong: Array) -> str:
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{what} changed: {np.sum(wrong)} of {a.size} elements differ, first at "
        f"{where}: {a[where].item()!r} before, {b[where].item()!r} after"
    )
