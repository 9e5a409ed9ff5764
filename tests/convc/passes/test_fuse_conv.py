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
    "an output on the way": (
        CONV.replace("(y=%4)", "(y=%4, z=%2)"),
        ["conv2d", "bias_add"],
        "max_pool2d stays outside: bias_add's result is read elsewhere too",
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


def test_a_gradient_that_is_shown_is_made_outside() -> None:
    """The pool's gradient is an output, so it must exist in memory."""
    stage = fused(FUSE_CONV_BACKWARD, BACKWARD.replace("(dw=", "(dz=%g, dw="))
    assert [set(ops) for ops in kernels(stage.graph)] == [
        {"reduce_sum", "conv2d_filter_grad", "conv2d_input_grad"}
    ]
    assert any("max_pool2d_grad stays outside" in str(note) for note in stage.refusals)


def test_convolutions_of_one_gradient_but_two_geometries_stay_apart() -> None:
    text = """
    graph g(%x: f32[N,4,4,1], %g: f32[N,4,4,2]) -> (dw=%w, dx=%i) {
      param %k : f32[1,1,1,2] = zeros()
      %w = conv2d_filter_grad(%x, %g) {padding=same, kernel=[3,3]} : f32[3,3,1,2]
      %i = conv2d_input_grad(%g, %k) {size=[4,4]} : f32[N,4,4,1]
    }
    """
    assert kernels(fused(FUSE_CONV_BACKWARD, text).graph) == []


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
