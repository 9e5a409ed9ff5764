"""What training does and evaluation does not: dropout and batch statistics.

1. ``apply_mask(x, dropout_mask)`` becomes x: inverted dropout needs no scaling.
2. A batch statistic that feeds a moving average is replaced by that average.
3. No parameter or state is updated.
"""

from dataclasses import replace

from convc.ir.graph import Graph, Value, rename_uses
from convc.passes.canonicalize import drop_dead
from convc.passes.evaluation_check import check_evaluation
from convc.passes.manager import Context, Pass


def evaluate_only(graph: Graph, context: Context) -> Graph:
    """Apply the cases above."""
    producers = graph.producers()
    table: dict[str, Value] = {}
    for node in graph.nodes:
        if node.op == "moving_average":
            average, sample = node.operands
            table[sample.name] = average  # case 2
    for node in graph.nodes:
        mask = producers.get(node.operands[1].name) if len(node.operands) > 1 else None
        if node.op == "apply_mask" and mask is not None and mask.op == "dropout_mask":
            x = node.operands[0]
            table[node.name] = table.get(x.name, x)  # case 1
    return drop_dead(replace(rename_uses(graph, table), updates=()))  # case 3


EVALUATE_ONLY = Pass("remove-dropout", evaluate_only, check=check_evaluation)
