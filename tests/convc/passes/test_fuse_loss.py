"""The loss, its gradient and the count of hits: one kernel, the same numbers."""

from fusion_bench import LOSS, fused, kernels

from convc.passes.fuse_loss import FUSE_LOSS


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
