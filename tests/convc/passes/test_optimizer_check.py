"""Check mode holds updates to the optimizers' formulas."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pass_bench import stage_after

from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Node
from convc.optimizers import SGD, Adam, AdamW, Momentum, Optimizer
from convc.passes.differentiate import DIFFERENTIATE, apply_optimizer
from convc.passes.manager import Context
from convc.schedules import CosineDecay

FORWARD = """
graph g(%x: f32[N,4]) -> (loss=%l) {
  param %w : f32[4,3] = zeros()
  param %b : f32[3] = zeros()
  %1 = matmul(%x, %w) : f32[N,3]
  %2 = bias_add(%1, %b) : f32[N,3]
  %3 = tanh(%2) : f32[N,3]
  %l = reduce_mean(%3) {axes=[0,1]} : f32[]
}
"""
ALL: list[Optimizer] = [
    SGD(0.1),
    SGD("runtime"),
    SGD(0.1, weight_decay=0.2),
    Momentum(0.1),
    Momentum(0.1, nesterov=True, weight_decay=0.3),
    Adam(),
    Adam(CosineDecay(0.1, 10), weight_decay=0.1),
    AdamW(0.1, decay_biases=False),
]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("optimizer", ALL, ids=str)
def test_the_formula_of_every_optimizer_is_met(
    optimizer: Optimizer, keep: bool
) -> None:
    last = apply_optimizer(optimizer, keep)
    verdict = stage_after(DIFFERENTIATE, last, of=FORWARD).verdict
    assert str(verdict).startswith(f"the formula of {type(optimizer).__name__}: ")
    assert verdict.worst < 0.2


Change = Callable[[Node], Node]


def _attr(**changes: Any) -> Change:
    return lambda n: replace(n, attrs={**n.attrs, **changes})


def _swap(i: int, j: int) -> Change:
    def change(node: Node) -> Node:
        operands = list(node.operands)
        operands[i], operands[j] = operands[j], operands[i]
        return replace(node, operands=tuple(operands))

    return change


@pytest.mark.parametrize(
    ("optimizer", "change", "said"),
    [
        (SGD(0.1), _attr(weight_decay=0.01), "the update of w is wrong"),
        (SGD(0.1), _swap(0, 1), "the update of w is wrong"),
        (Momentum(0.1), _attr(momentum=0.91), "the update of w is wrong"),
        (Momentum(0.1), _attr(nesterov=True), "the update of w is wrong"),
        (Adam(), _attr(beta1=0.99), "the update of w is wrong"),
        (Adam(), _attr(beta2=0.99), "the update of w is wrong"),
        (Adam(), _attr(epsilon=1e-6), "the update of w is wrong"),
        (Adam(), _swap(2, 3), "the update of w is wrong"),
        (AdamW(), _attr(decoupled=False), "the update of w is wrong"),
    ],
)
def test_another_formula_is_noticed(
    optimizer: Optimizer, change: Change, said: str
) -> None:
    good = apply_optimizer(optimizer)

    def wrong(graph: Graph, context: Context) -> Graph:
        done = good.rewrite(graph, context)
        nodes = (change(n) if n.op == optimizer.op else n for n in done.nodes)
        return replace(done, nodes=tuple(nodes))

    with pytest.raises(CompileError, match=said):
        stage_after(DIFFERENTIATE, replace(good, rewrite=wrong), of=FORWARD)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ("w", "w is not updated"),
        ("optimizer/m/b", "optimizer/m/b is not updated"),
        ("training/step", "after step ., training/step must be ."),
    ],
)
def test_an_update_that_is_left_out_is_noticed(left: str, said: str) -> None:
    good = apply_optimizer(Adam())

    def wrong(graph: Graph, context: Context) -> Graph:
        done = good.rewrite(graph, context)
        updates = tuple(u for u in done.updates if u[0].name != left)
        return replace(done, updates=updates)

    with pytest.raises(CompileError, match=said):
        stage_after(DIFFERENTIATE, replace(good, rewrite=wrong), of=FORWARD)
