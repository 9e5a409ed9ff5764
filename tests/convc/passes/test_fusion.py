"""What is fused, what is not, and why: numbers never change."""

import pytest
from compiled import agrees, compiled, inputs_for, parameters_for
from pass_bench import context, graph_of, stage_after

from convc.ir.graph import Graph
from convc.passes.fusion import (
    FUSE_CONV,
    FUSE_CONV_BACKWARD,
    FUSE_DENSE,
    FUSE_DENSE_BACKWARD,
    FUSE_LOSS,
    FUSE_OPTIMIZER,
)
from convc.passes.manager import Pass, Stage, run_passes
from convc.passes.outline import is_convex, outline

FUSIONS = (
    FUSE_CONV,
    FUSE_CONV_BACKWARD,
    FUSE_DENSE_BACKWARD,
    FUSE_DENSE,
    FUSE_LOSS,
    FUSE_OPTIMIZER,
)
CONV = """
graph g(%x: f32[N,6,6,1]) -> (y=%4) {
  param %k : f32[3,3,1,2] = zeros()   @ net.py:1 conv1
  param %b : f32[2] = zeros()   @ net.py:1 conv1
  %1 = conv2d(%x, %k) {padding=same} : f32[N,6,6,2]   @ net.py:1 conv1
  %2 = bias_add(%1, %b) : f32[N,6,6,2]   @ net.py:1 conv1
  %3 = max_pool2d(%2) {window=[2,2], strides=[2,2]} : f32[N,3,3,2]   @ net.py:2 pool1
  %4 = relu(%3) : f32[N,3,3,2]   @ net.py:1 conv1
}
"""
DENSE = """
graph g(%x: f32[N,3], %mask: bool[N,2]) -> (y=%4) {
  param %k : f32[3,2] = zeros()   @ net.py:1 fc
  param %b : f32[2] = zeros()   @ net.py:1 fc
  %1 = matmul(%x, %k) : f32[N,2]   @ net.py:1 fc
  %2 = bias_add(%1, %b) : f32[N,2]   @ net.py:1 fc
  %3 = relu(%2) : f32[N,2]   @ net.py:1 fc
  %4 = apply_mask(%3, %mask) {scale=2.0} : f32[N,2]   @ net.py:2 drop
}
"""


def kernels(graph: Graph) -> list[list[str]]:
    """The ops of each kernel, in order."""
    return [[n.op for n in k.region.nodes] for k in graph.nodes if k.region]


def fused(item: Pass, text: str) -> Stage:
    """The stage after ``item``, its meaning checked; the whole must still run right."""
    graph = graph_of(text)
    program = compiled(graph, 4, 2, check=True)
    program.load(parameters_for(graph))
    _, wrong = agrees(graph, inputs_for(graph, 3), program)
    assert not wrong
    return stage_after(item, of=graph)


def test_a_convolution_takes_bias_pool_and_relu() -> None:
    graph = fused(FUSE_CONV, CONV).graph
    assert kernels(graph) == [["conv2d", "bias_add", "max_pool2d", "relu"]]
    (kernel,) = graph.nodes
    assert [str(v) for v in kernel.operands] == ["%x", "%k", "%b"]
    assert [str(loc) for loc in kernel.locs] == ["net.py:1 conv1", "net.py:2 pool1"]


def test_a_product_takes_bias_relu_and_dropout() -> None:
    graph = fused(FUSE_DENSE, DENSE).graph
    assert kernels(graph) == [["matmul", "bias_add", "relu", "apply_mask"]]


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


BACKWARD = """
graph g(%x: f32[N,4,4,1], %d: f32[N,2,2,2]) -> (dw=%w, db=%s, dx=%i) {
  param %k : f32[3,3,1,2] = zeros()
  %c = conv2d(%x, %k) {padding=same} : f32[N,4,4,2]   @ net.py:1 conv1
  %p = max_pool2d(%c) {window=[2,2], strides=[2,2]} : f32[N,2,2,2]
  %a = max_pool2d_argmax(%c) {window=[2,2], strides=[2,2]} : u8[N,2,2,2]
  %y = relu(%p) : f32[N,2,2,2]
  %r = relu_grad(%y, %d) : f32[N,2,2,2]
  %g = max_pool2d_grad(%a, %r) {window=[2,2], strides=[2,2], size=[4,4]} : f32[N,4,4,2]
  %s = reduce_sum(%g) {axes=[0,1,2]} : f32[2]
  %w = conv2d_filter_grad(%x, %g) {padding=same, kernel=[3,3]} : f32[3,3,1,2]
  %i = conv2d_input_grad(%g, %k) {padding=same, size=[4,4]} : f32[N,4,4,1]
}
"""


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


def test_the_gradients_of_a_dense_layer_share_one_kernel() -> None:
    text = """
    graph g(%x: f32[N,3], %dy: f32[N,2]) -> (dw=%w, db=%s, dx=%i) {
      param %k : f32[3,2] = zeros()   @ net.py:1 fc
      %w = matmul(%x, %dy) {transpose_a=true} : f32[3,2]   @ net.py:1 fc
      %i = matmul(%dy, %k) {transpose_b=true} : f32[N,3]   @ net.py:1 fc
      %s = reduce_sum(%dy) {axes=[0]} : f32[2]   @ net.py:1 fc
    }
    """
    (ops,) = kernels(fused(FUSE_DENSE_BACKWARD, text).graph)
    assert sorted(ops) == ["matmul", "matmul", "reduce_sum"]


LOSS = """
graph g(%x: f32[N,3], %labels: i32[N]) -> (loss=%l, correct=%c, d=%d) {
  %e = softmax_cross_entropy(%x, %labels) : f32[N]
  %l = reduce_mean(%e) {axes=[0]} : f32[]
  %a = argmax(%x) : i32[N]
  %h = equal(%a, %labels) : bool[N]
  %i = cast(%h) {dtype=i32} : i32[N]
  %c = reduce_sum(%i) {axes=[0]} : i32[]
  %1 = constant() {value=1.0} : f32[]
  %m = reduce_mean_grad(%1) {shape=[N], axes=[0]} : f32[N]
  %d = softmax_cross_entropy_grad(%x, %labels, %m) : f32[N,3]
}
"""


def test_the_loss_its_gradient_and_the_count_are_one_kernel() -> None:
    (ops,) = kernels(fused(FUSE_LOSS, LOSS).graph)
    assert {"softmax_cross_entropy", "softmax_cross_entropy_grad", "argmax"} <= {*ops}


def test_two_losses_of_one_network() -> None:
    """Two heads, each with a loss of its own."""
    text = """
    graph g(%x: f32[N,3], %y: f32[N,4], %labels: i32[N]) -> (loss=%s, a=%l, b=%m) {
      %e = softmax_cross_entropy(%x, %labels) : f32[N]
      %l = reduce_mean(%e) {axes=[0]} : f32[]
      %f = softmax_cross_entropy(%y, %labels) : f32[N]
      %m = reduce_mean(%f) {axes=[0]} : f32[]
      %s = add(%l, %m) : f32[]
    }
    """
    assert fused(FUSE_LOSS, text).graph.stage == "fusing"


STEP = """
graph g(%x: f32[2], %rate: f32[]) -> (y=%x) {
  param %p : f32[2] = zeros()
  param %q : f32[2] = zeros()
  param %r : f32[2] = zeros()
  state %step : i64[] = zeros()
  %gp = exp(%p) : f32[2]
  %gq = exp(%q) : f32[2]
  %gr = exp(%r) : f32[2]
  %1 = sgd(%p, %gp, %rate) : f32[2]
  %2 = sgd(%q, %gq, %rate) {weight_decay=0.5} : f32[2]
  %3 = sgd(%r, %gr, %rate) : f32[2]
  %one = constant() {value=1.0, dtype=i64} : i64[]
  %4 = add(%step, %one) : i64[]
  update %p = %1
  update %q = %2
  update %r = %3
  update %step = %4
}
"""


def test_updates_of_one_kind_are_one_kernel() -> None:
    """Another weight decay is another kind."""
    stage = fused(FUSE_OPTIMIZER, STEP)
    counts = sorted(ops.count("sgd") for ops in kernels(stage.graph))
    assert counts == [1, 2]


def test_parameters_with_one_gradient_are_updated_alike() -> None:
    """Common subexpressions make it one value: a bias after another bias."""
    text = STEP.replace("sgd(%r, %gr", "sgd(%r, %gp").replace(
        "sgd(%q, %gq", "sgd(%q, %gp"
    )
    assert fused(FUSE_OPTIMIZER, text).graph.stage == "fusing"


@pytest.mark.parametrize("gradient", ["%q", "%x", "%p", "%view"])
def test_a_gradient_may_be_a_parameter_an_input_or_a_view(gradient: str) -> None:
    """As of sum(p * q), where each is the other's gradient."""
    text = STEP.replace("sgd(%p, %gp", f"sgd(%p, {gradient}").replace(
        "  %gq =",
        "  %wide = reshape(%x) {shape=[2,1]} : f32[2,1]\n"
        "  %view = reshape(%wide) {shape=[2]} : f32[2]\n"
        "  %gq =",
    )
    assert fused(FUSE_OPTIMIZER, text).graph.stage == "fusing"


def test_a_gradient_may_be_a_constant() -> None:
    text = """
    graph g(%x: f32[N]) -> (y=%p) {
      param %p : f32[] = zeros()
      %rate = constant() {value=0.5} : f32[]
      %one = constant() {value=1.0} : f32[]
      %1 = sgd(%p, %one, %rate) : f32[]
      update %p = %1
    }
    """
    assert fused(FUSE_OPTIMIZER, text).graph.stage == "fusing"


@pytest.mark.parametrize("item", FUSIONS, ids=lambda item: item.name)
def test_a_graph_without_the_pattern_is_left_alone(item: Pass) -> None:
    text = "graph g(%x: f32[N,4]) -> (y=%1) { %1 = exp(%x) : f32[N,4] }"
    stage = stage_after(item, of=text)
    assert stage.refusals == ()
    assert stage.graph.nodes == graph_of(text).nodes


@pytest.mark.parametrize("item", FUSIONS, ids=lambda item: item.name)
def test_a_fusion_says_the_stage_it_leaves(item: Pass) -> None:
    for text in (CONV, DENSE, BACKWARD, LOSS, STEP):
        assert stage_after(item, of=text).graph.stage == "fusing"


@pytest.mark.parametrize("text", [CONV, DENSE, BACKWARD, LOSS, STEP])
def test_all_fusions_in_any_order_mean_the_same(text: str) -> None:
    graph = graph_of(text)
    for order in (FUSIONS, FUSIONS[::-1]):
        assert run_passes(graph, order, context(), check=True)[-1].checked


# -- outline

DIAMOND = """
graph g(%x: f32[N,4]) -> (y=%4) {
  %1 = relu(%x) : f32[N,4]   @ net.py:1 a
  %2 = exp(%1) : f32[N,4]   @ net.py:2 b
  %3 = negate(%1) : f32[N,4]   @ net.py:3 c
  %4 = add(%2, %3) : f32[N,4]   @ net.py:4 d
}
"""


def test_nodes_with_a_path_around_are_not_convex() -> None:
    graph = graph_of(DIAMOND)
    assert is_convex(graph, ["1", "2"])
    assert is_convex(graph, ["1", "2", "3", "4"])
    assert is_convex(graph, ["2", "3"])
    assert not is_convex(graph, ["1", "4"])
    assert not is_convex(graph, ["1", "2", "4"])


@pytest.mark.parametrize("names", [["1"], ["1", "2"], ["2", "3", "4"], ["3", "2"]])
def test_what_is_outlined_means_the_same(names: list[str]) -> None:
    def rewrite(graph: Graph, _: object) -> Graph:
        from dataclasses import replace

        return outline(replace(graph, stage="fusing"), names)

    item = Pass("outline", rewrite, ensures="fusing")
    graph = stage_after(item, of=DIAMOND).graph
    (kernel,) = (n for n in graph.nodes if n.region)
    assert len(kernel.region.nodes) == len(names)
    assert len(kernel.locs) == len(names)
