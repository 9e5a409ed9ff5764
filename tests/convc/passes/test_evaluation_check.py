"""Check mode knows what an evaluation is: training without what only training does."""

from dataclasses import replace

import pytest
from pass_bench import stage_after

from convc.ir.errors import CompileError
from convc.ir.graph import Graph, rename_uses
from convc.passes.inference import EVALUATE_ONLY
from convc.passes.manager import Context

NORMED = """
graph g(%x: f32[N,4]) -> (y=%b) {
  param %gamma : f32[4] = ones()
  param %beta : f32[4] = zeros()
  state %mean : f32[4] = zeros()
  state %variance : f32[4] = ones()
  state %training/seed : i64[] = seed()
  state %training/step : i64[] = zeros()
  %mask = dropout_mask(%training/seed, %training/step) {shape=[N,4], keep=0.5, stream=3} : bool[N,4]
  %d = apply_mask(%x, %mask) {scale=2.0} : f32[N,4]
  %m = reduce_mean(%d) {axes=[0]} : f32[4]
  %v = reduce_variance(%d) {axes=[0]} : f32[4]
  %b = batch_norm(%d, %gamma, %beta, %m, %v) : f32[N,4]
  %m1 = moving_average(%mean, %m) {momentum=0.9} : f32[4]
  %v1 = moving_average(%variance, %v) {momentum=0.9} : f32[4]
  update %mean = %m1
  update %variance = %v1
}
"""  # noqa: E501
TWICE = """
graph g(%x: f32[N,4]) -> (y=%2) {
  state %mean : f32[4] = zeros()
  %a = reduce_mean(%x) {axes=[0]} : f32[4]
  %1 = subtract(%x, %a) : f32[N,4]
  %m1 = moving_average(%mean, %a) {momentum=0.9} : f32[4]
  %s = multiply(%1, %x) : f32[N,4]
  %c = reduce_mean(%s) {axes=[0]} : f32[4]
  %2 = subtract(%s, %c) : f32[N,4]
  %m2 = moving_average(%m1, %c) {momentum=0.9} : f32[4]
  update %mean = %m2
}
"""


def test_a_norm_that_is_used_twice_is_checked_within_rounding() -> None:
    verdict = stage_after(EVALUATE_ONLY, of=TWICE).verdict
    assert verdict.method == "evaluation"
    assert verdict.worst < 1


def test_a_mask_that_others_read_stays_a_mask() -> None:
    """Only what it drops is kept: so a part of a graph can be checked alone."""
    shown = NORMED.replace("(y=%b)", "(y=%b, mask=%mask)")
    assert stage_after(EVALUATE_ONLY, of=shown).verdict.method == "evaluation"


def _rewritten(change: str) -> None:
    def wrong(graph: Graph, context: Context) -> Graph:
        values = {v.name: v for v in graph.values()}
        if change == "updates":
            return graph
        if change == "keeps masks":
            table = {"m": values["mean"], "v": values["variance"]}
        elif change == "keeps statistics":
            table = {"d": values["x"]}
        else:
            table = {"d": values["x"], "m": values["variance"], "v": values["mean"]}
        return replace(rename_uses(graph, table), updates=())

    stage_after(replace(EVALUATE_ONLY, rewrite=wrong), of=NORMED)


@pytest.mark.parametrize("change", ["keeps masks", "swaps averages"])
def test_what_is_no_evaluation_is_refused(change: str) -> None:
    with pytest.raises(CompileError, match="output y changed"):
        _rewritten(change)


def test_an_evaluation_updates_nothing() -> None:
    with pytest.raises(CompileError, match="an evaluation must update nothing"):
        _rewritten("updates")


def test_statistics_must_come_from_the_averages() -> None:
    """One image must not depend on the others of its batch."""
    with pytest.raises(CompileError, match="%mean is not read, which stands for"):
        _rewritten("keeps statistics")
