"""Check mode holds gradients to the differences of the loss."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from pass_bench import graph_of, stage_after
from random_graphs import Example, graphs

from convc.ir.builder import GraphBuilder
from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Value
from convc.passes.differentiate import DIFFERENTIATE
from convc.passes.gradient_check import DIRECTIONS, GRADIENT
from convc.passes.manager import Context

FORWARD = """
graph g(%x: f32[N,4], %labels: i32[N]) -> (loss=%l) {
  param %w : f32[4,5] = zeros()
  param %v : f32[5,3] = zeros()
  state %training/seed : i64[] = seed()
  state %training/step : i64[] = zeros()
  %1 = matmul(%x, %w) : f32[N,5]
  %2 = tanh(%1) : f32[N,5]
  %mask = dropout_mask(%training/seed, %training/step) {shape=[N,5], keep=0.5, stream=3} : bool[N,5]
  %d = apply_mask(%2, %mask) {scale=2.0} : f32[N,5]
  %3 = matmul(%d, %v) : f32[N,3]
  %e = softmax_cross_entropy(%3, %labels) : f32[N]
  %l = reduce_mean(%e) {axes=[0]} : f32[]
}
"""  # noqa: E501


def test_right_gradients_are_said_to_be_right() -> None:
    verdict = stage_after(DIFFERENTIATE, of=FORWARD).verdict
    assert str(verdict).startswith("2 gradients along 2 directions: within bound on 2")
    assert 0 < verdict.worst < 1


@pytest.mark.parametrize("name", ["w", "v"])
@pytest.mark.parametrize("factor", [0.0, -1.0, 3.0, 1.001, 1 + 1e-5])
def test_a_gradient_that_is_off_by_a_factor_is_named(name: str, factor: float) -> None:
    def wrong(graph: Graph, context: Context) -> Graph:
        return _scaled(DIFFERENTIATE.rewrite(graph, context), name, factor)

    expected = (
        f"pass differentiate failed after trace: the gradient of {name} is wrong: "
        "along a random direction it says .*, central differences of the loss say"
    )
    with pytest.raises(CompileError, match=expected):
        stage_after(replace(DIFFERENTIATE, rewrite=wrong), of=FORWARD)


def test_gradients_must_not_be_exchanged() -> None:
    text = FORWARD.replace("%v : f32[5,3]", "%v : f32[5,5]").replace(
        "f32[N,3]", "f32[N,5]"
    )
    text = text.replace("%w : f32[4,5]", "%w : f32[5,5]").replace(
        "f32[N,4]", "f32[N,5]"
    )
    assert stage_after(DIFFERENTIATE, of=text).checked

    def swapped(graph: Graph, context: Context) -> Graph:
        done = DIFFERENTIATE.rewrite(graph, context)
        (loss, (w, a), (v, b)) = done.outputs
        return replace(done, outputs=(loss, (w, b), (v, a)))

    with pytest.raises(CompileError, match="the gradient of . is wrong"):
        stage_after(replace(DIFFERENTIATE, rewrite=swapped), of=text)


def test_the_loss_itself_must_stay() -> None:
    def wrong(graph: Graph, context: Context) -> Graph:
        done = DIFFERENTIATE.rewrite(graph, context)
        b = GraphBuilder(done.name, done)
        twice = b("add", done.output("loss"), done.output("loss"))
        b.outputs[0] = ("loss", twice)
        return b.finish()

    with pytest.raises(CompileError, match="output loss changed"):
        stage_after(replace(DIFFERENTIATE, rewrite=wrong), of=FORWARD)


def _scaled(graph: Graph, name: str, factor: float) -> Graph:
    """``graph`` with one gradient multiplied, in float64 where it is run so."""
    b = GraphBuilder(graph.name, graph)

    def scaled(value: Value) -> Value:
        return b("multiply", value, b.constant(factor, value.type))

    b.outputs = [
        (k, scaled(v) if k == f"gradient/{name}" else v) for k, v in graph.outputs
    ]
    return b.finish()


def test_a_gradient_that_is_0_but_for_rounding_is_decided() -> None:
    """A sum of normalized numbers does not depend on a bias before the norm."""
    text = """
    graph g(%x: f32[N,4]) -> (loss=%l) {
      param %bias : f32[4] = zeros()
      param %gamma : f32[4] = ones()
      param %beta : f32[4] = zeros()
      %1 = bias_add(%x, %bias) : f32[N,4]
      %mean = reduce_mean(%1) {axes=[0]} : f32[4]
      %variance = reduce_variance(%1) {axes=[0]} : f32[4]
      %2 = batch_norm(%1, %gamma, %beta, %mean, %variance) : f32[N,4]
      %l = reduce_sum(%2) {axes=[0,1]} : f32[]
    }
    """
    assert stage_after(DIFFERENTIATE, of=text).verdict.values == DIRECTIONS


@settings(max_examples=40, deadline=None)
@given(graphs(loss=True))
def test_no_right_gradient_is_called_wrong(example: Example) -> None:
    try:
        graph = stage_after(DIFFERENTIATE, of=example.graph, check=False).graph
    except CompileError:  # the loss does not depend on a parameter
        return
    if any(name.startswith(GRADIENT) for name, _ in graph.outputs):
        verdict = stage_after(DIFFERENTIATE, of=example.graph).verdict
        assert verdict.values == DIRECTIONS


def test_a_graph_is_needed_that_has_a_loss() -> None:
    text = FORWARD.replace("(loss=%l)", "(other=%l)")
    assert graph_of(text).outputs[0][0] == "other"
    with pytest.raises(CompileError, match="needs an output called loss"):
        stage_after(DIFFERENTIATE, of=text)


def test_a_loss_without_parameters_has_nothing_to_be_wrong() -> None:
    """All is zero, the bound too: that is agreement, not a division by zero."""
    text = """
    graph g(%x: f32[N,4]) -> (loss=%l) {
      %l = reduce_sum(%x) {axes=[0,1]} : f32[]
    }
    """
    assert str(stage_after(DIFFERENTIATE, of=text).verdict).startswith("0 gradients")
