"""Check mode for evaluation: what a training graph means without the training.

When moving averages happen to be the statistics of the batch, evaluation must give
what training gives with dropout that keeps everything.
"""

from collections.abc import Mapping
from dataclasses import replace

from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Node, Value, rename_uses
from convc.ir.interpreter import interpret
from convc.ir.rounding import bounded
from convc.ir.rounding_base import DOUBLE
from convc.passes.canonicalize import drop_dead
from convc.passes.certificate import Verdict
from convc.passes.check import Checker, compare_close, compare_equal


def check_evaluation(checker: Checker, before: Graph, after: Graph) -> Verdict:
    """CompileError unless ``after`` evaluates what ``before`` trains, bit for bit.

    A norm that is applied twice has one average for both; there the statistics of its
    first use serve the others, and the results may differ by rounding.
    """
    if after.updates:
        raise CompileError("an evaluation must update nothing")
    first, shared = _statistics(before)
    makers = before.producers()
    nodes = tuple(n for node in before.nodes for n in _keeping(node, makers))
    kept = rename_uses(replace(before, nodes=nodes, updates=()), shared)
    trained = drop_dead(kept)
    _require_averages(trained, after, first)
    outputs = tuple((f"average {name}", value) for name, value in first.items())
    probe = replace(kept, outputs=outputs)
    inputs, parameters = checker.data(before, after)
    if shared:  # in float64, with bounds
        found = interpret(probe, inputs, parameters, float64=True).outputs
    else:
        found = checker.run(probe, inputs, parameters).outputs
    given = {**parameters, **{name: found[f"average {name}"] for name in first}}
    if shared:
        old, new = (bounded(g, inputs, given, unit=DOUBLE) for g in (kept, after))
        verdict = compare_close(old, new)
    else:
        sides = (checker.run(g, inputs, given) for g in (kept, after))
        verdict = compare_equal(*sides)
    return replace(verdict, method="evaluation", note="as trained, without dropout")


def _require_averages(
    trained: Graph, after: Graph, statistics: Mapping[str, Value]
) -> None:
    """CompileError for an average that is not read where its statistic was."""
    used = {v.name for node in trained.nodes for v in node.operands}
    read = {v.name for node in drop_dead(after).nodes for v in node.operands}
    for average, sample in statistics.items():
        if sample.name in used and average not in read:
            raise CompileError(
                f"%{average} is not read, which stands for the statistic {sample}"
            )


def _statistics(graph: Graph) -> tuple[dict[str, Value], dict[str, Value]]:
    """What the first batch statistic for each average is, and stands in for others.

    The first by the average's name, the second by the name of another statistic.
    """
    averages = [n for n in graph.nodes if n.op == "moving_average"]
    source: dict[str, str] = {}  # of what any moving average has grown from
    first: dict[str, Value] = {}
    shared: dict[str, Value] = {}
    for node in averages:
        average, sample = node.operands
        origin = source.get(average.name, average.name)
        source[node.name] = origin
        if first.setdefault(origin, sample) != sample:
            shared[sample.name] = first[origin]
    return first, shared


def _keeping(node: Node, makers: dict[str, Node]) -> list[Node]:
    """``node`` with dropout that keeps everything: a mask of its own, and no scale."""
    mask = makers.get(node.operands[1].name) if node.operands[1:] else None
    if node.op != "apply_mask" or mask is None or mask.op != "dropout_mask":
        return [node]
    full = Value(f"{node.name}.full", mask.result.type)
    return [
        replace(mask, attrs={**mask.attrs, "keep": 1.0}, results=(full,)),
        replace(
            node,
            attrs={**node.attrs, "scale": 1.0},
            operands=(node.operands[0], full),
        ),
    ]
