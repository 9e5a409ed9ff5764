"""The optimizer: one kernel for all updates of a kind, whatever the gradients are."""

import pytest
from fusion_bench import STEP, fused, kernels

from convc.passes.fuse_optimizer import FUSE_OPTIMIZER


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
