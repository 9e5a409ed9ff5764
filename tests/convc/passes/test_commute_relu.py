"""ReLU moves behind max-pool, and nothing changes: values, gradients, ties."""

import numpy as np
import pytest
from pass_bench import graph_of, same, stage_after

from convc.autodiff import add_gradients
from convc.ir.builder import GraphBuilder
from convc.ir.graph import Graph
from convc.ir.interpreter import interpret
from convc.passes.commute_relu import COMMUTE_RELU

BEFORE = """
graph g(%x: f32[N,4,4,1]) -> (y=%p) {
  param %k : f32[3,3,1,2] = zeros()   @ net.py:1 conv1
  %c = conv2d(%x, %k) {padding=same} : f32[N,4,4,2]   @ net.py:1 conv1
  %r = relu(%c) : f32[N,4,4,2]   @ net.py:1 conv1
  %p = max_pool2d(%r) {window=[2,2], strides=[2,2]} : f32[N,2,2,2]   @ net.py:2 pool1
}
"""
AFTER = """
graph g(%x: f32[N,4,4,1]) -> (y=%p) {
  param %k : f32[3,3,1,2] = zeros()   @ net.py:1 conv1
  %c = conv2d(%x, %k) {padding=same} : f32[N,4,4,2]   @ net.py:1 conv1
  %r = max_pool2d(%c) {window=[2,2], strides=[2,2]} : f32[N,2,2,2]   @ net.py:2 pool1
  %p = relu(%r) : f32[N,2,2,2]   @ net.py:1 conv1
}
"""


def test_relu_and_the_pool_change_places() -> None:
    stage = stage_after(COMMUTE_RELU, of=BEFORE)
    assert same(stage.graph, AFTER)
    assert stage.refusals == ()


def test_two_pairs_in_a_row_change_places_each() -> None:
    text = """
    graph g(%x: f32[N,8,8,1]) -> (y=%q) {
      %r = relu(%x) : f32[N,8,8,1]
      %p = max_pool2d(%r) {window=[2,2], strides=[2,2]} : f32[N,4,4,1]
      %s = negate(%p) : f32[N,4,4,1]
      %t = relu(%s) : f32[N,4,4,1]
      %q = max_pool2d(%t) {window=[3,3], strides=[2,2], padding=same} : f32[N,2,2,1]
    }
    """
    graph = stage_after(COMMUTE_RELU, of=text).graph
    ops = ["max_pool2d", "relu", "negate", "max_pool2d", "relu"]
    assert [n.op for n in graph.nodes] == ops


@pytest.mark.parametrize("why", ["another reader", "an output", "an update"])
def test_a_relu_that_is_used_elsewhere_stays_and_the_reason_is_noted(why: str) -> None:
    text = """
    graph g(%x: f32[2,4,4,1]) -> (y=%p) {
      param %w : f32[2,4,4,1] = zeros()
      %r = relu(%x) : f32[2,4,4,1]
      %p = max_pool2d(%r) {window=[2,2], strides=[2,2]} : f32[2,2,2,1]
    }
    """
    if why == "another reader":
        text = text.replace("y=%p", "y=%p, z=%e").replace(
            "  %p =", "  %e = exp(%r) : f32[2,4,4,1]\n      %p ="
        )
    elif why == "an output":
        text = text.replace("y=%p", "y=%p, z=%r")
    else:
        text = text.replace("1]\n    }", "1]\n      update %w = %r\n    }")
    graph = graph_of(text)
    stage = stage_after(COMMUTE_RELU, of=graph)
    assert stage.graph == graph
    assert tuple(map(str, stage.refusals)) == (
        "pool: relu stays before the pool: its result is used elsewhere too",
    )


def test_a_pool_that_leaves_as_many_elements_saves_nothing() -> None:
    text = BEFORE.replace(
        "{window=[2,2], strides=[2,2]} : f32[N,2,2,2]",
        "{window=[3,3], strides=[1,1], padding=same} : f32[N,4,4,2]",
    )
    stage = stage_after(COMMUTE_RELU, of=text)
    assert same(stage.graph, text)
    assert tuple(map(str, stage.refusals)) == (
        "pool1_pool: relu stays before the pool: there are as many windows as elements",
    )


def test_an_average_pool_is_left_alone() -> None:
    text = BEFORE.replace("max_pool2d", "avg_pool2d")
    stage = stage_after(COMMUTE_RELU, of=text)
    assert same(stage.graph, text)


def _with_gradient(graph: Graph) -> Graph:
    """``graph`` with the gradient of sum(y · weights) in x as its output."""
    b = GraphBuilder(graph.name, graph)
    y = graph.output("y")
    weights = b.input("weights", y.type)
    total = b("reduce_sum", b("multiply", y, weights), axes=(0, 1, 2, 3))
    (gradient,) = add_gradients(b, total, [graph.inputs[0]])
    assert gradient is not None
    b.output("dx", gradient)
    return b.finish()


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((2, 2), (2, 2), "valid"),
        ((3, 3), (2, 2), "same"),
        ((2, 3), (1, 2), "valid"),
        ((1, 2), (3, 3), "same"),
    ],
)
def test_gradients_are_the_same_bits_even_at_ties(
    window: tuple[int, int], strides: tuple[int, int], padding: str
) -> None:
    """On data of -1, 0 and 1 nearly every window is tied, many of them at zero."""
    b = GraphBuilder("tied")
    x = b.input("x", graph_of("graph g(%x: f32[N,7,6,2]) -> () {}").inputs[0].type)
    b.output(
        "y",
        b("max_pool2d", b("relu", x), window=window, strides=strides, padding=padding),
    )
    before = b.finish()
    after = stage_after(COMMUTE_RELU, of=before).graph
    assert [n.op for n in after.nodes] == ["max_pool2d", "relu"]
    rng = np.random.default_rng(5)
    feeds = {"x": rng.integers(-1, 2, (5, 7, 6, 2)).astype(np.float32)}
    y = interpret(before, feeds, {}).outputs["y"]
    feeds["weights"] = rng.normal(size=y.shape).astype(np.float32)
    old, new = (
        interpret(_with_gradient(g), feeds, {}).outputs for g in (before, after)
    )
    assert np.array_equal(old["y"], new["y"])
    assert np.array_equal(old["dx"], new["dx"])
    assert np.count_nonzero(new["dx"])
