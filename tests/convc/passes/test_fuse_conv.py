"""Convolutions: what joins them, what does not and why; numbers never change."""

import pytest
from fusion_bench import BACKWARD, CONV, fused, kernels

from convc.passes.fuse_conv import FUSE_CONV, FUSE_CONV_BACKWARD


def test_a_convolution_takes_bias_pool_and_relu() -> None:
    graph = fused(FUSE_CONV, CONV).graph
    assert kernels(graph) == [["conv2d", "bias_add", "max_pool2d", "relu"]]
    (kernel,) = graph.nodes
    assert [str(v) for v in kernel.operands] == ["%x", "%k", "%b"]
    assert [str(loc) for loc in kernel.locs] == ["net.py:1 conv1", "net.py:2 pool1"]


RESIDUAL = """
graph g(%x: f32[N,6,6,2]) -> (y=%4) {
  param %k : f32[3,3,2,2] = zeros()   @ net.py:1 conv1
  param %b : f32[2] = zeros()   @ net.py:1 conv1
  %1 = conv2d(%x, %k) {padding=same} : f32[N,6,6,2]   @ net.py:1 conv1
  %2 = bias_add(%1, %b) : f32[N,6,6,2]   @ net.py:1 conv1
  %3 = add(%x, %2) : f32[N,6,6,2]   @ net.py:2
  %4 = relu(%3) : f32[N,6,6,2]   @ net.py:3
}
"""


def test_a_residual_is_added_in_the_kernel_before_it() -> None:
    """It is read tile by tile; which operand of the sum it is does not matter."""
    for text in (RESIDUAL, RESIDUAL.replace("add(%x, %2)", "add(%2, %x)")):
        stage = fused(FUSE_CONV, text)
        assert kernels(stage.graph) == [["conv2d", "bias_add", "add", "relu"]]
        assert stage.refusals == ()


@pytest.mark.parametrize("op", ["tanh", "sigmoid"])
def test_any_activation_of_one_op_ends_the_kernel(op: str) -> None:
    graph = fused(FUSE_CONV, CONV.replace("relu", op)).graph
    assert kernels(graph) == [["conv2d", "bias_add", "max_pool2d", op]]


def test_of_two_convolutions_that_are_added_the_first_has_the_sum() -> None:
    text = RESIDUAL.replace("add(%x, %2)", "add(%5, %2)").replace(
        "  %3 =",
        "  %5 = conv2d(%x, %l) : f32[N,6,6,2]   @ net.py:4 shortcut\n  %3 =",
    )
    text = text.replace("  param %b", "  param %l : f32[1,1,2,2] = zeros()\n  param %b")
    stage = fused(FUSE_CONV, text)
    assert sorted(map(len, kernels(stage.graph))) == [4]
    assert tuple(map(str, stage.refusals)) == (
        "shortcut_conv: add stays outside: conv1_conv_bias_add_relu has it already",
    )


REFUSED = {
    "overlapping windows": (
        CONV.replace(
            "window=[2,2], strides=[2,2]", "window=[2,2], strides=[1,1]"
        ).replace("f32[N,3,3,2]", "f32[N,5,5,2]"),
        ["conv2d", "bias_add"],
        "max_pool2d stays outside: its windows overlap or leave gaps",
    ),
    "windows of one element": (
        CONV.replace(
            "window=[2,2], strides=[2,2]", "window=[1,1], strides=[1,1]"
        ).replace("f32[N,3,3,2]", "f32[N,6,6,2]"),
        ["conv2d", "bias_add"],
        "max_pool2d stays outside: a window of one element pools nothing",
    ),
    "windows in the padding": (
        CONV.replace(
            "window=[2,2], strides=[2,2]", "window=[4,4], strides=[4,4], padding=same"
        ).replace("f32[N,3,3,2]", "f32[N,2,2,2]"),
        ["conv2d", "bias_add"],
        "max_pool2d stays outside: its windows reach into the padding of axis 1",
    ),
    "windows that begin in the padding": (
        CONV.replace("strides=[2,2]", "strides=[2,2], padding=[[0,0],[1,0]]"),
        ["conv2d", "bias_add"],
        "max_pool2d stays outside: its windows reach into the padding of axis 2",
    ),
    "an output on the way": (
        CONV.replace("(y=%4)", "(y=%4, z=%2)"),
        ["conv2d", "bias_add"],
        "max_pool2d stays outside: bias_add's result is read elsewhere too",
    ),
    "a sum with something smaller": (
        RESIDUAL.replace(
            "(%x: f32[N,6,6,2])", "(%x: f32[N,6,6,2], %v: f32[2])"
        ).replace("add(%x, %2)", "add(%v, %2)"),
        ["conv2d", "bias_add"],
        "add stays outside: its other operand is f32[2], not f32[N,6,6,2]",
    ),
    "a sum with itself": (
        RESIDUAL.replace("add(%x, %2)", "add(%2, %2)"),
        ["conv2d", "bias_add"],
        "add stays outside: it reads it twice",
    ),
    "a pool after a sum": (
        RESIDUAL.replace(
            "relu(%3) : f32[N,6,6,2]",
            "max_pool2d(%3) {window=[2,2], strides=[2,2]} : f32[N,3,3,2]",
        ),
        ["conv2d", "bias_add", "add"],
        "max_pool2d stays outside: it comes too late, after add",
    ),
    "a sum after the activation": (
        RESIDUAL.replace("add(%x, %2)", "relu(%2)").replace("relu(%3)", "add(%x, %3)"),
        ["conv2d", "bias_add", "relu"],
        "add stays outside: it comes too late, after relu",
    ),
    "an average": (
        CONV.replace("max_pool2d", "avg_pool2d"),
        ["conv2d", "bias_add"],
        "avg_pool2d stays outside: windows are pooled by their maximum only",
    ),
    "a dropout": (
        RESIDUAL.replace("(%x: f32[N,6,6,2])", "(%x: f32[N,6,6,2], %m: bool[N,6,6,2])")
        .replace("add(%x, %2)", "relu(%2)")
        .replace("relu(%3)", "apply_mask(%3, %m)"),
        ["conv2d", "bias_add", "relu"],
        "apply_mask stays outside: a mask joins a dense layer's kernel only",
    ),
    "a normalization": (
        RESIDUAL.replace("add(%x, %2)", "batch_norm(%2, %b, %b, %b, %b)"),
        ["conv2d", "bias_add"],
        "batch_norm stays outside: what is not folded into weights stands alone",
    ),
    "another path": (
        RESIDUAL.replace("add(%x, %2)", "add(%5, %2)").replace(
            "  %3 =", "  %5 = exp(%2) : f32[N,6,6,2]\n  %3 ="
        ),
        ["conv2d", "bias_add"],
        "add stays outside: bias_add's result is read elsewhere too",
    ),
    "another reader": (
        CONV.replace("(y=%4)", "(y=%4, z=%5)").replace(
            "  %4 =", "  %5 = exp(%1) : f32[N,6,6,2]\n  %4 ="
        ),
        None,
        "bias_add stays outside: conv2d's result is read elsewhere too",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refusal_has_a_reason_and_the_rest_is_fused(why: str) -> None:
    text, ops, reason = REFUSED[why]
    stage = fused(FUSE_CONV, text)
    assert kernels(stage.graph) == ([ops] if ops else [])
    (refusal,) = stage.refusals
    assert refusal.subject.startswith("conv1")
    assert reason in refusal.reason


def test_all_gradients_of_a_convolution_are_one_kernel() -> None:
    graph = fused(FUSE_CONV_BACKWARD, BACKWARD).graph
    assert [set(ops) for ops in kernels(graph)] == [
        {
            *("relu_grad", "max_pool2d_grad", "reduce_sum"),
            *("conv2d_filter_grad", "conv2d_input_grad"),
        }
    ]


GRADIENTS = {
    "the outputs read it": (
        BACKWARD.replace("(dw=", "(dz=%g, dw="),
        "max_pool2d_grad stays outside: the outputs read it too",
    ),
    "a residual reads it": (
        BACKWARD.replace("(dw=", "(e=%e, dw=").replace(
            "  %g =", "  %e = exp(%r) : f32[N,2,2,2]\n  %g ="
        ),
        "relu_grad stays outside: exp reads it too",
    ),
    "an average": (
        BACKWARD.replace("max_pool2d_grad(%a, %r)", "avg_pool2d_grad(%r)").replace(
            "(dw=", "(index=%a, dw="
        ),
        "avg_pool2d_grad stays outside: a tile undoes max-pools only",
    ),
    "a dropout": (
        BACKWARD.replace(
            "%d: f32[N,2,2,2])", "%d: f32[N,2,2,2], %m: bool[N,2,2,2])"
        ).replace("relu_grad(%y, %d)", "apply_mask(%d, %m)"),
        "apply_mask stays outside: a tile undoes no dropout",
    ),
    "overlapping windows": (
        BACKWARD.replace(
            "strides=[2,2]", "strides=[1,1], padding=[[0,0],[0,0]]"
        ).replace("N,2,2,2", "N,3,3,2"),
        (
            "max_pool2d_grad stays outside: its windows overlap or leave gaps (window "
            "(2, 2), strides (1, 1))"
        ),
    ),
    "windows that begin in the padding": (
        BACKWARD.replace("strides=[2,2]", "strides=[2,2], padding=[[1,0],[0,0]]"),
        "max_pool2d_grad stays outside: its windows reach into the padding of axis 1",
    ),
    "a ReLU before the pool": (
        BACKWARD.replace("relu_grad(%y, %d)", "identity")
        .replace("  %r = identity : f32[N,2,2,2]\n", "")
        .replace("max_pool2d_grad(%a, %r)", "max_pool2d_grad(%a, %d)")
        .replace("  %g = max", "  %h = max")
        .replace("  %s =", "  %g = relu_grad(%c, %h) : f32[N,4,4,2]\n  %s ="),
        (
            "max_pool2d_grad stays outside: a tile undoes a ReLU after the pool, here "
            "it was before it"
        ),
    ),
}


@pytest.mark.parametrize("why", GRADIENTS)
def test_a_gradient_that_stays_outside_says_why(why: str) -> None:
    text, reason = GRADIENTS[why]
    stage = fused(FUSE_CONV_BACKWARD, text)
    (refusal,) = stage.refusals
    assert str(refusal) == f"dw: {reason}"
    (ops,) = kernels(stage.graph)
    assert {"conv2d_filter_grad", "conv2d_input_grad", "reduce_sum"} <= {*ops}


def test_frozen_filters_leave_an_input_gradient_with_what_is_before_it() -> None:
    """Nobody wants the gradient of the filter or of the bias."""
    text = BACKWARD.replace("(dw=%w, db=%s, dx=%i)", "(dx=%i)")
    lines = text.splitlines(keepends=True)
    text = "".join(x for x in lines if "%s =" not in x and "%w =" not in x)
    (ops,) = kernels(fused(FUSE_CONV_BACKWARD, text).graph)
    assert ops == ["relu_grad", "max_pool2d_grad", "conv2d_input_grad"]


def test_gradients_of_which_one_needs_another_stay_apart() -> None:
    text = """
    graph g(%x: f32[N,4,4,1], %g: f32[N,4,4,1]) -> (dw=%w, dx=%i) {
      param %k : f32[3,3,1,1] = zeros()
      %w = conv2d_filter_grad(%x, %g) {padding=same, kernel=[3,3]} : f32[3,3,1,1]
      %l = exp(%w) : f32[3,3,1,1]
      %i = conv2d_input_grad(%g, %l) {padding=same, size=[4,4]} : f32[N,4,4,1]
    }
    """
    stage = fused(FUSE_CONV_BACKWARD, text)
    assert kernels(stage.graph) == []
    (refusal,) = stage.refusals
    assert refusal.reason == (
        "gradients stay apart: a path leads from one gradient to another"
    )


def test_convolutions_of_one_gradient_but_two_geometries_stay_apart() -> None:
    text = """
    graph g(%x: f32[N,4,4,1], %g: f32[N,4,4,2]) -> (dw=%w, dx=%i) {
      param %k : f32[1,1,1,2] = zeros()
      %w = conv2d_filter_grad(%x, %g) {padding=same, kernel=[3,3]} : f32[3,3,1,2]
      %i = conv2d_input_grad(%g, %k) {size=[4,4]} : f32[N,4,4,1]
    }
    """
    assert kernels(fused(FUSE_CONV_BACKWARD, text).graph) == []


def test_gradients_of_two_dilations_stay_apart() -> None:
    """With padding to the same size all shapes agree."""
    text = """
    graph g(%x: f32[N,4,4,1], %g: f32[N,4,4,2]) -> (dw=%w, dx=%i) {
      param %k : f32[3,3,1,2] = zeros()
      %w = conv2d_filter_grad(%x, %g) {padding=same, kernel=[3,3]} : f32[3,3,1,2]
      %i = conv2d_input_grad(%g, %k) {padding=same, size=[4,4], dilations=[2,2]}
        : f32[N,4,4,1]
    }
    """
    assert kernels(fused(FUSE_CONV_BACKWARD, text).graph) == []


def test_a_sum_over_other_axes_is_no_bias_gradient() -> None:
    text = BACKWARD.replace("axes=[0,1,2]", "axes=[1,2]").replace(
        ": f32[2]\n  %w", ": f32[N,2]\n  %w"
    )
    stage = fused(FUSE_CONV_BACKWARD, text)
    assert kernels(stage.graph) == [["conv2d_filter_grad", "conv2d_input_grad"]]
    assert tuple(map(str, stage.refusals)) == (
        "dw: max_pool2d_grad stays outside: reduce_sum reads it too",
    )


def test_a_kernel_takes_one_of_two_equal_sums() -> None:
    """Before common expressions are merged; each kernel has one gradient of a kind."""
    text = BACKWARD.replace("db=%s", "db=%s, dc=%t").replace(
        "  %w =", "  %t = reduce_sum(%g) {axes=[0,1,2]} : f32[2]\n  %w ="
    )
    (ops,) = kernels(fused(FUSE_CONV_BACKWARD, text).graph)
    assert ops.count("reduce_sum") == 1


def test_filters_of_two_sizes_over_one_gradient_stay_apart() -> None:
    """Geometry is the filter's size too, not only strides and padding."""
    text = """
    graph g(%x: f32[N,4,4,1], %g: f32[N,4,4,2]) -> (dw=%w, dx=%i) {
      param %k : f32[5,5,1,2] = zeros()
      %w = conv2d_filter_grad(%x, %g) {padding=same, kernel=[3,3]} : f32[3,3,1,2]
      %i = conv2d_input_grad(%g, %k) {padding=same, size=[4,4]} : f32[N,4,4,1]
    }
    """
    assert kernels(fused(FUSE_CONV_BACKWARD, text).graph) == []


def test_two_filters_over_one_gradient() -> None:
    """As in a sum of two convolutions: y = conv(a) + conv(b)."""
    text = """
    graph g(%x: f32[N,4,4,1], %z: f32[N,4,4,3], %g: f32[N,4,4,2])
        -> (dw=%w, dv=%v, dx=%i, dz=%j, db=%s) {
      param %k : f32[3,3,1,2] = zeros()
      param %l : f32[3,3,3,2] = zeros()
      %w = conv2d_filter_grad(%x, %g) {padding=same, kernel=[3,3]} : f32[3,3,1,2]
      %v = conv2d_filter_grad(%z, %g) {padding=same, kernel=[3,3]} : f32[3,3,3,2]
      %i = conv2d_input_grad(%g, %k) {padding=same, size=[4,4]} : f32[N,4,4,1]
      %j = conv2d_input_grad(%g, %l) {padding=same, size=[4,4]} : f32[N,4,4,3]
      %s = reduce_sum(%g) {axes=[0,1,2]} : f32[2]
    }
    """
    assert fused(FUSE_CONV_BACKWARD, text).graph.stage == "fusing"
