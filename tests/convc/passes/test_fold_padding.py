"""Pads move into the windows that read them, and values and gradients stay."""

import numpy as np
import pytest
from compiled import agrees, compiled, inputs_for, parameters_for
from pass_bench import graph_of, same, stage_after

from convc.autodiff import add_gradients
from convc.ir.builder import GraphBuilder
from convc.ir.graph import Attr, Graph
from convc.ir.interpreter import interpret
from convc.ir.types import DType, TensorType
from convc.passes.fold_padding import FOLD_PADDING

CONV = """
graph g(%x: f32[N,5,6,1]) -> (y=%2) {
  param %k : f32[3,3,1,2] = zeros()   @ net.py:1 conv1
  %1 = pad(%x) {pads=[0,0,1,2,0,3,0,0]} : f32[N,8,9,1]   @ net.py:2 pad
  %2 = conv2d(%1, %k) {strides=[2,2], padding=same} : f32[N,4,5,2]   @ net.py:3 conv1
}
"""
POOL = """
graph g(%x: f32[N,5,5,1]) -> (y=%3) {
  %1 = relu(%x) : f32[N,5,5,1]
  %2 = pad(%1) {pads=[0,0,1,1,1,1,0,0]} : f32[N,7,7,1]
  %3 = max_pool2d(%2) {window=[3,3], strides=[2,2]} : f32[N,3,3,1]
}
"""


def test_a_convolution_pads_by_itself() -> None:
    """SAME is resolved on the padded size: one more row after, one more column."""
    stage = stage_after(FOLD_PADDING, of=CONV)
    assert stage.checked
    assert same(
        stage.graph,
        """
        graph g(%x: f32[N,5,6,1]) -> (y=%2) {
          param %k : f32[3,3,1,2] = zeros()   @ net.py:1 conv1
          %2 = conv2d(%x, %k) {strides=[2,2], padding=[[1,3],[1,4]]} : f32[N,4,5,2]   @ net.py:2 pad; net.py:3 conv1
        }
        """,  # noqa: E501
    )


@pytest.mark.parametrize("padding", ["same", "valid", ((1, 0), (0, 2))])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 2, 0, 3), (4, 0, 0, 5)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_the_numbers_stay(
    padding: Attr, pads: tuple[int, ...], strides: tuple[int, int]
) -> None:
    b = GraphBuilder("padded")
    x = b.input("x", TensorType(DType.F32, ("N", 5, 6, 1)))
    k = b.parameter("k", TensorType(DType.F32, (3, 2, 1, 2)))
    wide = b("pad", x, pads=(0, 0, *pads, 0, 0))
    b.output("y", b("conv2d", wide, k, strides=strides, padding=padding))
    before = b.finish()
    after = stage_after(FOLD_PADDING, of=before).graph
    assert [n.op for n in after.nodes] == ["conv2d"]
    program = compiled(after, 4, 2)
    program.load(parameters_for(before))
    _, wrong = agrees(before, inputs_for(before, 3), program)
    assert not wrong


def test_a_max_pool_pads_by_itself_where_nothing_is_negative() -> None:
    stage = stage_after(FOLD_PADDING, of=POOL)
    assert stage.refusals == ()
    assert same(
        stage.graph,
        """
        graph g(%x: f32[N,5,5,1]) -> (y=%3) {
          %1 = relu(%x) : f32[N,5,5,1]
          %3 = max_pool2d(%1) {window=[3,3], strides=[2,2], padding=[[1,1],[1,1]]} : f32[N,3,3,1]
        }
        """,  # noqa: E501
    )


REFUSED = {
    "negative elements": (
        POOL.replace("relu", "tanh"),
        "its zeros could win, as tanh may give negative elements",
    ),
    "an average": (
        POOL.replace("max_pool2d", "avg_pool2d"),
        "its zeros are averaged, padding of a pool is not",
    ),
    "a window of zeros": (
        POOL.replace("[0,0,1,1,1,1,0,0]", "[0,0,3,0,1,1,0,0]").replace("7,7", "8,7"),
        "a window would lie in the padding alone",
    ),
    "channels": (
        POOL.replace("[0,0,1,1,1,1,0,0]", "[0,0,1,1,1,1,0,1]")
        .replace("7,7,1", "7,7,2")
        .replace("3,3,1]\n", "3,3,2]\n"),
        "it pads channels or images too",
    ),
    "images": (
        """
        graph g(%x: f32[2,5,5,1]) -> (y=%2) {
          param %k : f32[3,3,1,2] = zeros()
          %1 = pad(%x) {pads=[1,0,0,0,0,0,0,0]} : f32[3,5,5,1]
          %2 = conv2d(%1, %k) : f32[3,3,3,2]
        }
        """,
        "it pads channels or images too",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_pad_that_means_more_stays_with_the_reason(why: str) -> None:
    text, reason = REFUSED[why]
    graph = graph_of(text)
    stage = stage_after(FOLD_PADDING, of=graph)
    assert stage.graph == graph
    (refusal,) = stage.refusals
    assert refusal.reason == f"the pad before it stays: {reason}"


def test_a_pad_with_another_reader_is_there_for_that_one_only() -> None:
    text = CONV.replace("(y=%2)", "(y=%2, z=%1)")
    graph = stage_after(FOLD_PADDING, of=text).graph
    assert [(n.op, n.operands[0].name) for n in graph.nodes] == [
        ("pad", "x"),
        ("conv2d", "x"),
    ]


def _with_gradient(graph: Graph) -> Graph:
    """``graph`` with the gradient of sum(y · weights) in x as its output."""
    b = GraphBuilder(graph.name, graph)
    y = graph.output("y")
    total = b("multiply", y, b.input("weights", y.type))
    total = b("reduce_sum", total, axes=(0, 1, 2, 3))
    (gradient,) = add_gradients(b, total, [graph.inputs[0]])
    assert gradient is not None
    b.output("dx", gradient)
    return b.finish()


@pytest.mark.parametrize("text", [CONV, POOL], ids=["conv", "pool"])
def test_gradients_are_the_same_even_at_ties(text: str) -> None:
    """On data of -1, 0 and 1 most windows of the pool tie with the zeros around."""
    before = graph_of(text)
    after = stage_after(FOLD_PADDING, of=before).graph
    rng = np.random.default_rng(5)
    feeds = {
        v.name: rng.integers(-1, 2, v.type.bind(4)).astype(np.float32)
        for v in _with_gradient(before).inputs
    }
    k = {"k": rng.integers(-1, 2, (3, 3, 1, 2)).astype(np.float32)}
    old, new = (
        interpret(_with_gradient(g), feeds, k if before.parameters else {}).outputs
        for g in (before, after)
    )
    assert np.array_equal(old["y"], new["y"])
    assert np.array_equal(old["dx"], new["dx"])
    assert np.count_nonzero(new["dx"])
