"""From a loss to a training step: what is added, and what is refused."""

import numpy as np
import pytest
from pass_bench import equal, graph_of, same, stage_after

from convc.ir.errors import CompileError
from convc.ir.interpreter import interpret
from convc.optimizers import SGD, Adam, AdamW, Momentum, Optimizer
from convc.passes.differentiate import DIFFERENTIATE, apply_optimizer

FORWARD = """
graph g(%x: f32[N,2], %labels: i32[N]) -> (loss=%l) {
  param %fc/kernel : f32[2,3] = zeros()   @ net.py:3 fc
  %m = matmul(%x, %fc/kernel) : f32[N,3]   @ net.py:3 fc
  %e = softmax_cross_entropy(%m, %labels) : f32[N]
  %l = reduce_mean(%e) {axes=[0]} : f32[]
}
"""
DIFFERENTIATED = """
graph g(%x: f32[N,2], %labels: i32[N]) -> (loss=%l, gradient/fc/kernel=%5) {
  param %fc/kernel : f32[2,3] = zeros()   @ net.py:3 fc
  %m = matmul(%x, %fc/kernel) : f32[N,3]   @ net.py:3 fc
  %e = softmax_cross_entropy(%m, %labels) : f32[N]
  %l = reduce_mean(%e) {axes=[0]} : f32[]
  %1 = constant() {value=1.0} : f32[]
  %2 = reduce_mean_grad(%1) {shape=[N], axes=[0]} : f32[N]
  %3 = softmax_cross_entropy_grad(%m, %labels, %2) : f32[N,3]
  %4 = matmul(%3, %fc/kernel) {transpose_b=true} : f32[N,2]   @ net.py:3 fc
  %5 = matmul(%x, %3) {transpose_a=true} : f32[2,3]   @ net.py:3 fc
}
"""
TRAINED = """
graph g(%x: f32[N,2], %labels: i32[N]) -> (loss=%l) {
  param %fc/kernel : f32[2,3] = zeros()   @ net.py:3 fc
  state %training/step : i64[] = zeros()
  %m = matmul(%x, %fc/kernel) : f32[N,3]   @ net.py:3 fc
  %e = softmax_cross_entropy(%m, %labels) : f32[N]
  %l = reduce_mean(%e) {axes=[0]} : f32[]
  %1 = constant() {value=1.0} : f32[]
  %2 = reduce_mean_grad(%1) {shape=[N], axes=[0]} : f32[N]
  %3 = softmax_cross_entropy_grad(%m, %labels, %2) : f32[N,3]
  %4 = matmul(%3, %fc/kernel) {transpose_b=true} : f32[N,2]   @ net.py:3 fc
  %5 = matmul(%x, %3) {transpose_a=true} : f32[2,3]   @ net.py:3 fc
  %6 = constant() {value=0.5} : f32[]
  %7 = sgd(%fc/kernel, %5, %6) : f32[2,3]   @ net.py:3 fc
  %8 = constant() {value=1.0, dtype=i64} : i64[]
  %9 = add(%training/step, %8) : i64[]
  update %fc/kernel = %7
  update %training/step = %9
}
"""


def test_a_gradient_is_added_for_each_trainable_parameter() -> None:
    assert same(stage_after(DIFFERENTIATE, of=FORWARD).graph, DIFFERENTIATED)


def test_the_optimizer_updates_parameters_and_counts_the_step() -> None:
    stage = stage_after(DIFFERENTIATE, apply_optimizer(SGD(0.5)), of=FORWARD)
    assert same(stage.graph, TRAINED)


@pytest.mark.parametrize("optimizer", [SGD(0.1), Momentum(0.1), Adam(), AdamW()])
def test_gradients_are_kept_as_outputs_on_demand(optimizer: Optimizer) -> None:
    last = apply_optimizer(optimizer, keep_gradients=True)
    graph = stage_after(DIFFERENTIATE, last, of=FORWARD).graph
    assert [name for name, _ in graph.outputs] == ["loss", "gradient/fc/kernel"]
    names = [f"optimizer/{slot}/fc/kernel" for slot in optimizer.slots]
    assert [p.value.name for p in graph.parameters if not p.trainable] == [
        "training/step",
        *names,
    ]
    assert {p.name for p, _ in graph.updates} == {
        "fc/kernel",
        "training/step",
        *names,
    }


def test_a_step_counter_that_dropout_reads_is_not_declared_again() -> None:
    text = FORWARD.replace(
        "  %m =",
        "  state %training/step : i64[] = zeros()\n"
        "  state %training/seed : i64[] = seed()\n"
        "  %mask = dropout_mask(%training/seed, %training/step) "
        "{shape=[N,2], keep=0.5, stream=1} : bool[N,2]\n"
        "  %d = apply_mask(%x, %mask) {scale=2.0} : f32[N,2]\n"
        "  %m =",
    ).replace("matmul(%x,", "matmul(%d,")
    graph = stage_after(DIFFERENTIATE, apply_optimizer(SGD(0.5)), of=text).graph
    names = [p.value.name for p in graph.parameters]
    assert names == ["fc/kernel", "training/step", "training/seed"]


def test_a_learning_rate_set_at_run_time_is_an_input() -> None:
    """Check mode is on: it must find data for the input that the pass adds."""
    stage = stage_after(DIFFERENTIATE, apply_optimizer(SGD("runtime")), of=FORWARD)
    assert str(stage.graph.inputs[-1]) == "%learning_rate"
    assert stage.checked


def test_states_get_no_gradient() -> None:
    text = FORWARD.replace(
        "  %m = matmul(%x,",
        "  state %mean : f32[2] = zeros()\n"
        "  %c = subtract(%x, %mean) : f32[N,2]\n"
        "  %m = matmul(%c,",
    )
    graph = stage_after(DIFFERENTIATE, of=text).graph
    assert [name for name, _ in graph.outputs] == ["loss", "gradient/fc/kernel"]


def test_the_loss_is_what_it_was() -> None:
    before = graph_of(FORWARD)
    after = stage_after(DIFFERENTIATE, apply_optimizer(Adam()), of=before).graph
    rng = np.random.default_rng(2)
    feeds = {"x": rng.normal(size=(3, 2)), "labels": np.array([0, 2, 1], np.int32)}
    state = {p.value.name: np.zeros(p.value.type.bind(1)) for p in after.parameters}
    state["training/step"] = np.zeros((), np.int64)
    state["fc/kernel"] = rng.normal(size=(2, 3))
    old, new = (interpret(g, feeds, state).outputs for g in (before, after))
    assert equal(old, new)


def test_a_graph_without_a_loss_is_refused() -> None:
    text = FORWARD.replace("loss=", "cost=")
    with pytest.raises(CompileError, match="needs an output called loss"):
        stage_after(DIFFERENTIATE, of=text)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    text = FORWARD.replace("loss=%l", "loss=%e")
    with pytest.raises(CompileError, match=r"only a float scalar .* %e is f32.N."):
        stage_after(DIFFERENTIATE, of=text)


def test_a_parameter_that_the_loss_does_not_see_is_named_with_its_line() -> None:
    text = FORWARD.replace(
        "  %m =", "  param %lost/kernel : f32[2] = zeros()   @ net.py:9 lost\n  %m ="
    )
    expected = "does not depend on %lost/kernel; .* at net.py:9 lost"
    with pytest.raises(CompileError, match=expected):
        stage_after(DIFFERENTIATE, of=text)


def test_an_op_without_a_gradient_is_named_with_its_line() -> None:
    text = FORWARD.replace(
        "  %e = softmax_cross_entropy(%m,",
        "  %c = cos(%m) : f32[N,3]   @ net.py:4 wave\n  %e = softmax_cross_entropy(%c,",
    )
    with pytest.raises(CompileError, match="no gradient through cos at net.py:4 wave"):
        stage_after(DIFFERENTIATE, of=text)


def test_an_optimizer_without_gradients_is_refused() -> None:
    """The pass says which one must run before it."""
    expected = "no output gradient/fc/kernel; run differentiate first"
    with pytest.raises(CompileError, match=expected):
        stage_after(apply_optimizer(SGD(0.5)), of=FORWARD)


def test_a_state_that_has_the_optimizers_name_is_refused() -> None:
    text = FORWARD.replace(
        "  %m =", "  state %optimizer/v/fc/kernel : f32[2,3] = zeros()\n  %m ="
    )
    expected = "apply-optimizer failed .* %optimizer/v/fc/kernel is taken"
    with pytest.raises(CompileError, match=expected):
        stage_after(DIFFERENTIATE, apply_optimizer(Momentum(0.5)), of=text)
