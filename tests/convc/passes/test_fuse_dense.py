"""Matrix products: what joins them; numbers never change."""

from fusion_bench import DENSE, fused, kernels

from convc.passes.fuse_dense import FUSE_DENSE, FUSE_DENSE_BACKWARD


def test_a_product_takes_bias_relu_and_dropout() -> None:
    graph = fused(FUSE_DENSE, DENSE).graph
    assert kernels(graph) == [["matmul", "bias_add", "relu", "apply_mask"]]


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
