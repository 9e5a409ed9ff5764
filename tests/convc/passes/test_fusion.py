"""What holds for every fusion: contracts, and numbers that never change."""

import pytest
from compiled import agrees, inputs_for
from fusion_bench import SAMPLES
from pass_bench import context, graph_of, stage_after

import convc as cc
from convc.ir.graph import Graph
from convc.networks import NETWORKS
from convc.passes.fuse_conv import FUSE_CONV, FUSE_CONV_BACKWARD
from convc.passes.fuse_dense import FUSE_DENSE, FUSE_DENSE_BACKWARD
from convc.passes.fuse_loss import FUSE_LOSS
from convc.passes.fuse_optimizer import FUSE_OPTIMIZER
from convc.passes.fuse_weights import FUSE_WEIGHTS
from convc.passes.manager import Pass, run_passes
from convc.program import Program
from convc.tracing import Tensor

FUSIONS = (
    FUSE_CONV,
    FUSE_CONV_BACKWARD,
    FUSE_DENSE_BACKWARD,
    FUSE_DENSE,
    FUSE_LOSS,
    FUSE_OPTIMIZER,
    FUSE_WEIGHTS,
)


@pytest.mark.parametrize("item", FUSIONS, ids=lambda item: item.name)
def test_a_graph_without_the_pattern_is_left_alone(item: Pass) -> None:
    text = "graph g(%x: f32[N,4]) -> (y=%1) { %1 = exp(%x) : f32[N,4] }"
    stage = stage_after(item, of=text)
    assert stage.refusals == ()
    assert stage.graph.nodes == graph_of(text).nodes


@pytest.mark.parametrize("item", FUSIONS, ids=lambda item: item.name)
def test_a_fusion_says_the_stage_it_leaves(item: Pass) -> None:
    for text in SAMPLES:
        assert stage_after(item, of=text).graph.stage == "fusing"


@pytest.mark.parametrize("text", SAMPLES)
def test_all_fusions_in_any_order_mean_the_same(text: str) -> None:
    graph = graph_of(text)
    for order in (FUSIONS, FUSIONS[::-1]):
        assert run_passes(graph, order, context(), check=True)[-1].checked


def residual(image: Tensor) -> Tensor:
    """Two blocks with a shortcut: the first the identity, the second a convolution."""
    x = cc.conv2d(image, 4, 3, padding="same", activation="relu", name="stem")
    for block, strides in (("one", 1), ("two", 2)):
        with cc.variable_scope(block):
            y = cc.conv2d(
                x, 4 * strides, 3, strides, "same", activation="tanh", name="a"
            )
            y = cc.conv2d(y, 4 * strides, 3, padding="same", name="b")
            if strides > 1:
                x = cc.conv2d(x, 4 * strides, 1, strides, name="c")
            x = cc.relu(y + x)
    return cc.dense(cc.global_avg_pool2d(x), 5, name="logits")


def names(graph: Graph) -> list[str]:
    """The names of all kernels in order."""
    return [str(n.attrs["name"]) for n in graph.nodes if n.region]


def refusals(program: Program, item: str) -> list[str]:
    (stage,) = (s for s in program.stages if s.name == item)
    return list(map(str, stage.refusals))


def test_a_residual_network_is_a_kernel_for_each_layer() -> None:
    step = cc.Model(residual, image="f32[N,6,6,2]").inference()
    program = step.compile(batch=4, threads=2, check=True)
    assert names(program.graph) == [
        *("image_stored", "stem_conv_bias_relu"),
        *("one_a_conv_bias_tanh", "one_b_conv_bias_add_relu"),
        *("two_a_conv_bias_tanh", "two_c_conv_bias", "two_b_conv_bias_add_relu"),
        *("global_avg_pool2d_reduce_mean", "logits_dense_bias"),
    ]
    assert refusals(program, "fuse-conv") == [
        "two_c_conv: add stays outside: two_b_conv_bias_add_relu has it already"
    ]


def test_a_residual_network_trains_as_the_oracle_does() -> None:
    """The gradient of a sum goes two ways, so it exists in memory."""
    step = cc.Model(residual, image="f32[N,6,6,2]").training_step(
        optimizer=cc.SGD(0.125)
    )
    program = step.compile(batch=4, threads=2, check=True)
    program.initialize(3)
    assert "one_b_conv_bias_add_relu" in names(program.graph)
    assert "one_b_dw: relu_grad stays outside: add reads it too" in refusals(
        program, "fuse-conv-backward"
    )
    meant = next(s.graph for s in program.stages if s.name == "apply-optimizer")
    _, wrong = agrees(meant, inputs_for(meant, 3), program)
    assert not wrong


def test_a_training_step_of_two_conv_is_at_most_16_kernels() -> None:
    step = cc.Model(NETWORKS["two_conv"], image="f32[N,28,28,1]").training_step(
        optimizer=cc.Adam(0.001)
    )
    assert len(step.compile(batch=128, threads=2).kernels) <= 16
