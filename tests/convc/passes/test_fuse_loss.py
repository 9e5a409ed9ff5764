"""The loss, its gradient and the count of hits: one kernel, the same numbers."""

import pytest
from fusion_bench import LOSS, fused, kernels
from pass_bench import stage_after

from convc.ir.errors import CompileError
from convc.passes.fuse_loss import FUSE_LOSS
from convc.passes.schedule import CHOOSE_SCHEDULE


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


def test_a_loss_that_is_written_twice_is_one_kernel() -> None:
    """As it is before common expressions are merged."""
    text = LOSS.replace("mean(%e)", "mean(%f)").replace(
        "  %l =", "  %f = softmax_cross_entropy(%x, %labels) : f32[N]\n  %l ="
    )
    (ops,) = kernels(fused(FUSE_LOSS, text.replace("(loss", "(e=%e, loss")).graph)
    assert ops.count("softmax_cross_entropy") == 2


def test_a_sum_of_logits_is_none_of_its_business() -> None:
    text = LOSS.replace("(loss", "(sum=%s, loss").replace(
        "  %e =", "  %s = reduce_sum(%x) {axes=[1]} : f32[N]\n  %e ="
    )
    (ops,) = kernels(fused(FUSE_LOSS, text).graph)
    assert ops.count("reduce_sum") == 1


def test_what_the_labels_are_made_of_stays_outside() -> None:
    """As of a network that learns from its own answers, at once or by a detour."""
    text = """
    graph g(%x: f32[N,3], %labels: i32[N]) -> (loss=%l) {
      %a = argmax(%x) : i32[N]
      %b = multiply(%a, %labels) : i32[N]
      %e = softmax_cross_entropy(%x, LABELS) : f32[N]
      %l = reduce_mean(%e) {axes=[0]} : f32[]
    }
    """
    for labels in ("%a", "%b"):
        stage = fused(FUSE_LOSS, text.replace("LABELS", labels))
        assert kernels(stage.graph) == [["softmax_cross_entropy", "reduce_mean"]]
        assert tuple(map(str, stage.refusals)) == (
            "loss: argmax stays outside: logits or labels are made of it",
        )


def test_a_kernel_that_makes_its_own_labels_is_refused() -> None:
    """As in a stage that was edited by hand."""
    text = """
    graph g(%x: f32[N,3]) -> (loss=%l) stage kernel {
      %l = kernel loss(%x) : f32[N] {
        %a = argmax(%0) : i32[N]
        %b = softmax_cross_entropy(%0, %a) : f32[N]
        yield %b
      }
    }
    """
    with pytest.raises(CompileError, match="one loss, whose logits and labels are op"):
        stage_after(CHOOSE_SCHEDULE, of=text)


def test_a_gradient_that_goes_on_in_16_bits_is_cast_in_the_kernel() -> None:
    text = LOSS.replace("d=%d)", "d=%b)").replace(
        "\n}", "\n  %b = cast(%d) {dtype=bf16} : bf16[N,3]\n}"
    )
    (ops,) = kernels(stage_after(FUSE_LOSS, of=text).graph)
    assert ops[-1] == "cast"
    wide = text.replace("bf16", "f64")
    (ops,) = kernels(stage_after(FUSE_LOSS, of=wide).graph)
    assert ops[-1] == "softmax_cross_entropy_grad"
