"""What holds for every fusion: contracts, and numbers that never change."""

import pytest
from fusion_bench import SAMPLES
from pass_bench import context, graph_of, stage_after

from convc.passes.fuse_conv import FUSE_CONV, FUSE_CONV_BACKWARD
from convc.passes.fuse_dense import FUSE_DENSE, FUSE_DENSE_BACKWARD
from convc.passes.fuse_loss import FUSE_LOSS
from convc.passes.fuse_optimizer import FUSE_OPTIMIZER
from convc.passes.manager import Pass, run_passes

FUSIONS = (
    FUSE_CONV,
    FUSE_CONV_BACKWARD,
    FUSE_DENSE_BACKWARD,
    FUSE_DENSE,
    FUSE_LOSS,
    FUSE_OPTIMIZER,
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
