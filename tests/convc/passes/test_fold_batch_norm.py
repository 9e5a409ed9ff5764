"""Batch normalization at inference: folded into weights, or refused with a reason."""

import numpy as np
import pytest
from compiled import State, agrees, compiled, inputs_for
from pass_bench import graph_of, same, stage_after

import convc as cc
from convc.ir.graph import Graph
from convc.passes.fold_batch_norm import FOLD_BATCH_NORM
from convc.passes.manager import Stage
from convc.pipeline import LOWERING
from convc.tracing import Tensor

CONV = """
graph g(%x: f32[N,5,5,2]) -> (y=%3) {
  param %w : f32[3,3,2,4] = zeros()   @ net.py:1 conv1
  param %b : f32[4] = zeros()   @ net.py:1 conv1
  param %gamma : f32[4] = ones()   @ net.py:2 bn1
  param %beta : f32[4] = zeros()   @ net.py:2 bn1
  state %mean : f32[4] = zeros()   @ net.py:2 bn1
  state %variance : f32[4] = ones()   @ net.py:2 bn1
  %1 = conv2d(%x, %w) {padding=same} : f32[N,5,5,4]   @ net.py:1 conv1
  %2 = bias_add(%1, %b) : f32[N,5,5,4]   @ net.py:1 conv1
  %3 = batch_norm(%2, %gamma, %beta, %mean, %variance) : f32[N,5,5,4]   @ net.py:2 bn1
}
"""
BARE = CONV.replace(
    "  %2 = bias_add(%1, %b) : f32[N,5,5,4]   @ net.py:1 conv1\n", ""
).replace("batch_norm(%2", "batch_norm(%1")
DENSE = (
    BARE.replace("f32[N,5,5,2]", "f32[N,2]")
    .replace("f32[3,3,2,4]", "f32[2,4]")
    .replace("conv2d(%x, %w) {padding=same}", "matmul(%x, %w)")
    .replace("f32[N,5,5,4]", "f32[N,4]")
)


def state_for(graph: Graph) -> State:
    """Parameters with distinct values, variances above 0."""
    rng = np.random.default_rng(5)
    return {
        p.value.name: rng.uniform(0.25, 2, p.value.type.bind(1)).astype(np.float32)
        for p in graph.parameters
    }


def folded(text: str) -> Stage:
    """The stage after the pass; what it leaves is compiled and gives the numbers."""
    graph = graph_of(text)
    stage = stage_after(FOLD_BATCH_NORM, of=graph)
    for threads in (1, 3):
        program = compiled(graph, 4, threads, (FOLD_BATCH_NORM, *LOWERING), check=True)
        program.load(state_for(graph))
        _, wrong = agrees(graph, inputs_for(graph, 3), program)
        assert not wrong
    return stage


def test_the_weights_of_a_convolution_take_it_up() -> None:
    stage = folded(CONV)
    assert stage.refusals == ()
    params = CONV[CONV.index("  param") : CONV.index("  %1")]
    assert same(
        stage.graph,
        f"""graph g(%x: f32[N,5,5,2]) -> (y=%3) {{
{params}  %4 = constant() {{value=0.001}} : f32[]   @ net.py:2 bn1
  %5 = add(%variance, %4) : f32[4]   @ net.py:2 bn1
  %6 = sqrt(%5) : f32[4]   @ net.py:2 bn1
  %7 = divide(%gamma, %6) : f32[4]   @ net.py:2 bn1
  %8 = multiply(%w, %7) : f32[3,3,2,4]   @ net.py:2 bn1
  %1 = conv2d(%x, %8) {{padding=same}} : f32[N,5,5,4]   @ net.py:1 conv1
  %9 = subtract(%b, %mean) : f32[4]   @ net.py:2 bn1
  %10 = multiply(%9, %7) : f32[4]   @ net.py:2 bn1
  %11 = add(%10, %beta) : f32[4]   @ net.py:2 bn1
  %3 = bias_add(%1, %11) : f32[N,5,5,4]   @ net.py:1 conv1; net.py:2 bn1
}}
""",
    )


@pytest.mark.parametrize("text", [BARE, DENSE], ids=["conv", "dense"])
def test_without_a_bias_one_is_made(text: str) -> None:
    ops = [n.op for n in folded(text).graph.nodes]
    assert ops.count("subtract") == 1
    assert ops[-1] == "bias_add"
    assert "batch_norm" not in ops


REFUSED = {
    "it follows relu, not a convolution or a product": CONV.replace(
        "bias_add(%1, %b)", "relu(%1)"
    ),
    "it follows an input, not a convolution or a product": CONV.replace(
        "f32[N,5,5,2]", "f32[N,5,5,4]"
    )
    .replace("f32[3,3,2,4]", "f32[3,3,4,4]")
    .replace("batch_norm(%2", "batch_norm(%x")
    .replace("(y=%3)", "(y=%3, z=%2)"),
    "conv2d's result is read elsewhere too": CONV.replace("(y=%3)", "(y=%3, z=%1)"),
    "bias_add's result is read elsewhere too": CONV.replace("(y=%3)", "(y=%3, z=%2)"),
    "its statistics are those of the batch": CONV.replace(
        "  %3 =", "  %m = reduce_mean(%x2) {axes=[0]} : f32[4]\n  %3 ="
    )
    .replace("(%x: f32[N,5,5,2])", "(%x: f32[N,5,5,2], %x2: f32[N,4])")
    .replace("%mean, %variance)", "%m, %variance)"),
    "the second operand of conv2d is no matrix of weights [in, out]": CONV.replace(
        "(%x: f32[N,5,5,2])", "(%x: f32[N,5,5,2], %v: f32[3,3,2,4])"
    ).replace("conv2d(%x, %w)", "conv2d(%x, %v)"),
    "its bias depends on an input": CONV.replace(
        "(%x: f32[N,5,5,2])", "(%x: f32[N,5,5,2], %v: f32[4])"
    ).replace("bias_add(%1, %b)", "bias_add(%1, %v)"),
    "the second operand of matmul is no matrix of weights [in, out]": DENSE.replace(
        "matmul(%x, %w)", "matmul(%x, %w) {transpose_b=true}"
    ).replace("f32[2,4]", "f32[4,2]"),
    "96 weights are more than the 16 results of a batch": DENSE.replace(
        "f32[N,2]", "f32[N,24]"
    ).replace("f32[2,4]", "f32[24,4]"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_normalization_that_stays_says_why(why: str) -> None:
    graph = graph_of(REFUSED[why])
    stage = stage_after(FOLD_BATCH_NORM, of=graph)
    assert stage.graph == graph
    (refusal,) = stage.refusals
    assert str(refusal) == (
        f"bn1_batch_norm: batch_norm is not folded into weights: {why}"
    )


def normed(image: Tensor) -> Tensor:
    """Two convolutions and a dense layer, each normalized."""
    x = image
    for i in (1, 2):
        x = cc.conv2d(x, 4, 3, padding="same", use_bias=i == 1, name=f"conv{i}")
        x = cc.relu(cc.batch_norm(x, name=f"bn{i}"))
    x = cc.dense(cc.flatten(cc.max_pool2d(x, 2, name="pool")), 8, name="fc")
    return cc.dense(cc.relu(cc.batch_norm(x, name="bn3")), 5, name="logits")


def test_a_normalized_network_runs_as_one_without_and_its_weights_may_change() -> None:
    """Each layer is a kernel with its relu, and one for its weights of the moment."""
    step = cc.Model(normed, image="f32[N,8,8,1]").inference()
    program = step.compile(batch=100, threads=2, check=True)
    names = [str(n.attrs["name"]) for n in program.graph.nodes if n.region]
    assert [n for n in names if not n.endswith("_weights")] == [
        *("image_stored", "conv1_conv_bias_relu", "conv2_conv_bias_pool_relu"),
        *("fc_dense_bias_relu", "logits_dense_bias"),
    ]
    assert sorted(n for n in names if n.endswith("_weights")) == [
        *("bn1_weights", "bn2_weights", "bn3_weights"),
    ]
    meant = program.stages[1].graph  # with moving averages for the batch's statistics
    given, image = state_for(meant), inputs_for(meant, 100)
    outputs = []
    for factor in (1, 0.5):
        weights = {k: v * np.float32(factor) for k, v in given.items()}
        program.load(weights)
        result, wrong = agrees(meant, image, program, weights)
        assert not wrong
        outputs.append(result.outputs["output"])
    assert not np.array_equal(*outputs)
