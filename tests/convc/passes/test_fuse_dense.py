"""Matrix products: what joins them; numbers never change."""

import pytest
from fusion_bench import DENSE, fused, kernels
from pass_bench import stage_after

from convc.passes.fuse_dense import FUSE_DENSE, FUSE_DENSE_BACKWARD


def test_a_product_takes_bias_relu_and_dropout() -> None:
    graph = fused(FUSE_DENSE, DENSE).graph
    assert kernels(graph) == [["matmul", "bias_add", "relu", "apply_mask"]]


@pytest.mark.parametrize("op", ["tanh", "sigmoid"])
def test_any_activation_of_one_op_is_taken(op: str) -> None:
    graph = fused(FUSE_DENSE, DENSE.replace("relu", op)).graph
    assert kernels(graph) == [["matmul", "bias_add", op, "apply_mask"]]


@pytest.mark.parametrize("op", ["relu", "tanh", "sigmoid"])
def test_what_is_read_elsewhere_is_a_result_of_the_kernel(op: str) -> None:
    """As a gradient reads the activation's result, or what goes into it."""
    text = DENSE.replace("relu", op).replace("(y=%4)", "(y=%4, before=%2, after=%3)")
    graph = fused(FUSE_DENSE, text).graph
    (kernel,) = (n for n in graph.nodes if n.region)
    assert [v.name for v in kernel.results] == ["2", "3", "4"]


REFUSED = {
    "relu stays outside: it comes too late, after apply_mask": (
        DENSE.replace("relu(%2)", "apply_mask(%2, %mask) {scale=2.0}").replace(
            "apply_mask(%3, %mask) {scale=2.0}", "relu(%3)"
        )
    ),
    "apply_mask stays outside: another path leads from the kernel to it": (
        DENSE.replace(
            "  %4 = apply_mask(%3, %mask)",
            "  %m = greater_equal(%3, %2) : bool[N,2]\n  %4 = apply_mask(%3, %m)",
        )
    ),
    "add stays outside: a sum joins a convolution's kernel only": (
        DENSE.replace("relu(%2)", "add(%2, %b)")
    ),
    "batch_norm stays outside: what is not folded into weights stands alone": (
        DENSE.replace("relu(%2)", "batch_norm(%2, %b, %b, %b, %b)")
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refusal_has_a_reason(why: str) -> None:
    stage = stage_after(FUSE_DENSE, of=REFUSED[why])
    assert tuple(map(str, stage.refusals)) == (f"fc_dense: {why}",)


def test_gradients_of_which_one_needs_another_stay_apart() -> None:
    text = """
    graph g(%x: f32[N,3], %dy: f32[N,2]) -> (dw=%w, dx=%i) {
      %w = matmul(%x, %dy) {transpose_a=true} : f32[3,2]   @ net.py:1 fc
      %l = exp(%w) : f32[3,2]   @ net.py:1 fc
      %i = matmul(%dy, %l) {transpose_b=true} : f32[N,3]   @ net.py:1 fc
    }
    """
    stage = fused(FUSE_DENSE_BACKWARD, text)
    assert kernels(stage.graph) == []
    assert tuple(map(str, stage.refusals)) == (
        "fc_dense: gradients stay apart: a path leads from one gradient to another",
    )


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
    text = text.replace("{axes=[0]} : f32[2]", "{axes=[1]} : f32[N]")  # no bias has it
    assert kernels(fused(FUSE_DENSE_BACKWARD, text).graph) == [["matmul", "matmul"]]


def test_what_leaves_16_bits_at_the_end_is_cast_in_the_kernel() -> None:
    """As logits are for the loss; a cast of what is f32 stands alone."""
    text = DENSE.replace("f32", "bf16").replace("(y=%4)", "(y=%5)")
    text = text.replace("\n}", "\n  %5 = cast(%4) {dtype=f32} : f32[N,2]\n}")
    graph = stage_after(FUSE_DENSE, of=text).graph
    assert kernels(graph) == [["matmul", "bias_add", "relu", "apply_mask", "cast"]]
    wide = text.replace("bf16", "f32").replace("{dtype=f32} : f32", "{dtype=f64} : f64")
    stage = stage_after(FUSE_DENSE, of=wide)
    assert kernels(stage.graph) == [["matmul", "bias_add", "relu", "apply_mask"]]
    (refusal,) = stage.refusals
    assert refusal.reason == "cast stays outside: f32[N,2] is cast alone"
