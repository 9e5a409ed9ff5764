"""The optimizer: one kernel for all updates of a kind, whatever the gradients are."""

import pytest
from fusion_bench import STEP, fused, kernels

from convc.passes.fuse_optimizer import FUSE_OPTIMIZER


def test_updates_of_one_kind_are_one_kernel() -> None:
    """Another weight decay is another kind."""
    stage = fused(FUSE_OPTIMIZER, STEP)
    counts = sorted(ops.count("sgd") for ops in kernels(stage.graph))
    assert counts == [1, 2]
    (refusal,) = stage.refusals
    assert str(refusal) == (
        "optimizer_2: apart from optimizer: sgd {weight_decay=0.5}, not sgd "
        "{weight_decay=0.0}"
    )


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


def test_a_counter_that_is_read_when_it_has_been_raised_stays_outside() -> None:
    """As by a learning rate that counts from one."""
    text = STEP.replace("%rate: f32[]", "%x2: f32[2]").replace(
        "  %gp =",
        "  %one = constant() {value=1.0, dtype=i64} : i64[]\n"
        "  %4 = add(%step, %one) : i64[]\n  %rate = cast(%4) {dtype=f32} : f32[]\n"
        "  %gp =",
    )
    lines = text.split("  %3 = sgd")
    lines[1] = lines[1].replace(
        "  %one = constant() {value=1.0, dtype=i64} : i64[]\n", ""
    )
    lines[1] = lines[1].replace("  %4 = add(%step, %one) : i64[]\n", "")
    stage = fused(FUSE_OPTIMIZER, "  %3 = sgd".join(lines))
    assert not any("add" in ops for ops in kernels(stage.graph))


def test_a_gradient_is_made_among_the_others_not_in_place() -> None:
    """Though what it is made of dies there, and its op could work in place."""
    text = STEP.replace("%gp = exp(%p)", "%e = exp(%x) : f32[2]\n  %gp = negate(%e)")
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
