"""IR text that uses every part of the grammar, and what was built to print as it."""

# ruff: noqa: E501
TENSOR = """\
graph two_layers(%image: f32[N,4,4,1], %labels: i32[N]) -> (loss=%7, "the logits"=%4) {
  param %conv1/kernel : f32[3,3,1,2] = truncated_normal(stddev=0.1, seed=3)   @ net.py:4 conv1
  param %fc/kernel : f32[8,3] = he_normal()
  state %training/step : i64[] = zeros()
  state %training/seed : i64[] = seed()
  %1 = conv2d(%image, %conv1/kernel) {strides=[2,2], padding=same} : f32[N,2,2,2]   @ net.py:4 conv1
  %2 = relu(%1) : f32[N,2,2,2]   @ net.py:4 conv1; "a file.py":7 "odd layer"
  %flat = reshape(%2) {shape=[N,8]} : f32[N,8]   @ net.py:5
  %mask = dropout_mask(%training/seed, %training/step) {shape=[N,8], keep=0.75, stream=9} : bool[N,8]
  %3 = apply_mask(%flat, %mask) {scale=1.3333333333333333} : f32[N,8]
  %4 = matmul(%3, %fc/kernel) : f32[N,3]   @ net.py:6 fc
  %5 = softmax_cross_entropy(%4, %labels) : f32[N]
  %one = constant() {value=1.0, dtype=i64} : i64[]
  %6 = add(%training/step, %one) : i64[]
  %7 = reduce_mean(%5) {axes=[0]} : f32[]
  update %training/step = %6
}
"""

KERNEL = """\
graph fused(%x: f32[N,3]{1,0}) -> (y=%b) stage kernel {
  param %w : f32[3,2] = zeros()
  state %m : f32[3,2] = zeros()
  state %v : f32[3,2] = zeros()
  %a = kernel dense_relu(%x, %w) : f32[N,2]{1,0} {
    %2 = matmul(%0, %1) : f32[N,2]
    %3 = relu(%2) : f32[N,2]   @ net.py:6 fc
    yield %3
  } schedule {algorithm=gemm, tile=[2,[4,8]], rate=1e-08, exact=true, note="true"}   @ net.py:6 fc; net.py:7
  %b = reshape(%a) {shape=[N,1,2]} : f32[N,1,2]
  %c, %d = kernel "two results"(%w, %m) : f32[3,2], f32[3,2] {
    %2 = add(%0, %1) : f32[3,2]
    %3 = negate(%2) : f32[3,2]
    yield %2, %3
  } schedule {}
  update %m = %c
  update %v = %d
}
"""

PLANNED = """\
graph planned(%x: f32[N,4]) -> (y=%b) stage planned {
  %a = kernel act(%x) : f32[N,4] {
    %1 = relu(%0) : f32[N,4]
    yield %1
  }
  %b = reshape(%a) {shape=[N,2,2]} : f32[N,2,2]
  arena 96 batch 2 threads 1 {
    %x 0 32 live 0 2
    %a 32 32 live 0 2
    %b 32 32 live 0 2
    %a!scratch 64 32 live 0 0
  }
}
"""

SAMPLES = {"tensor": TENSOR, "kernel": KERNEL, "planned": PLANNED}
