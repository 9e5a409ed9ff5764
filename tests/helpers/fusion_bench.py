"""One fusion alone: samples, the stage it leaves, and a run of what becomes of it."""

from compiled import agrees, compiled, inputs_for, parameters_for
from pass_bench import graph_of, stage_after

from convc.ir.graph import Graph
from convc.passes.manager import Pass, Stage

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
SAMPLES = (CONV, DENSE, BACKWARD, LOSS, STEP)


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
