"""Lower precision is where it was asked for, nowhere else, and within its bounds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fusion_bench import kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_bench import context, graph_of, same, stage_after
from random_graphs import Example, graphs

from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.interpreter import Result, interpret
from convc.ir.ops.base import Array
from convc.ir.rounding import bounded
from convc.ir.types import DType
from convc.layers import (
    add,
    batch_norm,
    conv2d,
    dense,
    flatten,
    gelu,
    max_pool2d,
    softmax,
)
from convc.model import Model
from convc.networks import two_conv
from convc.optimizers import SGD
from convc.passes.check import Checker
from convc.passes.choose_precision import (
    HALVES,
    KEEP_SUMS,
    PRECISIONS,
    choose_precision,
)
from convc.passes.differentiate import DIFFERENTIATE
from convc.passes.fuse_optimizer import FUSE_OPTIMIZER
from convc.passes.manager import Pass, Stage, run_passes
from convc.passes.samples import Samples
from convc.pipeline import inference, training
from convc.tracing import Tensor

F32 = np.dtype(np.float32)
BEFORE = """
graph g(%x: f32[N,4,4,1], %labels: i32[N]) -> (loss=%6, y=%4) {
  param %k : f32[3,3,1,2] = zeros()   @ net.py:1 conv1
  param %b : f32[2] = zeros()   @ net.py:1 conv1
  %1 = conv2d(%x, %k) : f32[N,2,2,2]   @ net.py:1 conv1
  %2 = bias_add(%1, %b) : f32[N,2,2,2]   @ net.py:1 conv1
  %c = constant() {value=0.1} : f32[]
  %3 = multiply(%2, %c) : f32[N,2,2,2]   @ net.py:2 scale
  %4 = reduce_mean(%3) {axes=[1,2]} : f32[N,2]   @ net.py:3 mean
  %5 = softmax_cross_entropy(%4, %labels) : f32[N]   @ net.py:4 loss
  %6 = reduce_mean(%5) {axes=[0]} : f32[]   @ net.py:4 loss
}
"""
IN_BF16 = """
graph g(%x: f32[N,4,4,1], %labels: i32[N]) -> (loss=%6, y=%4) {
  param %k : f32[3,3,1,2] = zeros()   @ net.py:1 conv1
  param %b : f32[2] = zeros()   @ net.py:1 conv1
  %7 = cast(%x) {dtype=bf16} : bf16[N,4,4,1]   @ net.py:1 conv1
  %8 = cast(%k) {dtype=bf16} : bf16[3,3,1,2]   @ net.py:1 conv1
  %1 = conv2d(%7, %8) : bf16[N,2,2,2]   @ net.py:1 conv1
  %9 = cast(%b) {dtype=bf16} : bf16[2]   @ net.py:1 conv1
  %2 = bias_add(%1, %9) : bf16[N,2,2,2]   @ net.py:1 conv1
  %10 = constant() {value=0.1, dtype=bf16} : bf16[]   @ net.py:2 scale
  %3 = multiply(%2, %10) : bf16[N,2,2,2]   @ net.py:2 scale
  %11 = cast(%3) {dtype=f32} : f32[N,2,2,2]   @ net.py:3 mean
  %4 = reduce_mean(%11) {axes=[1,2]} : f32[N,2]   @ net.py:3 mean
  %5 = softmax_cross_entropy(%4, %labels) : f32[N]   @ net.py:4 loss
  %6 = reduce_mean(%5) {axes=[0]} : f32[]   @ net.py:4 loss
}
"""


def varied(image: Tensor) -> Tensor:
    """A residual, two normalizations, activations with and without 16 bits."""
    x = conv2d(image, 4, 3, padding="same", name="conv1")
    x = batch_norm(x, name="norm1")
    y = conv2d(gelu(x), 4, 3, padding="same", activation="elu", name="conv2")
    x = max_pool2d(add(x, y), 2)
    x = batch_norm(dense(flatten(x), 6, name="fc"), name="norm2")
    return dense(softmax(x), 3, activation="sigmoid", name="logits")


VARIED = Model(varied, image="f32[N,6,6,2]")


def chosen(precision: str, of: str | Graph = BEFORE) -> Stage:
    return stage_after(choose_precision(precision), of=of)


def test_values_are_stored_in_16_bits_from_the_first_product_on() -> None:
    """Each is cast once; the loss and reductions are in f32."""
    assert same(chosen("bf16").graph, IN_BF16)
    assert same(chosen("fp16").graph, IN_BF16.replace("bf16", "f16"))


def test_tf32_is_said_at_every_product_and_nothing_else_changes() -> None:
    expected = BEFORE.replace("conv2d(%x, %k)", "conv2d(%x, %k) {precision=tf32}")
    assert same(chosen("tf32").graph, expected)


def test_fp32_changes_nothing() -> None:
    stage = chosen("fp32")
    assert stage.graph == graph_of(BEFORE)
    assert stage.verdict.method == "equal"


def test_f64_stays_f64() -> None:
    text = BEFORE.replace("f32[N,4,4,1]", "f64[N,4,4,1]").replace("f32[3,", "f64[3,")
    text = text.replace("f32[2]", "f64[2]").replace("f32[N,2,2,2]", "f64[N,2,2,2]")
    text = text.replace("{value=0.1} : f32", "{value=0.1, dtype=f64} : f64")
    text = text.replace("f32[N,2]", "f64[N,2]").replace(": f32[N] ", ": f64[N] ")
    text = text.replace(" : f32[] ", " : f64[] ")
    for precision in PRECISIONS:
        assert chosen(precision, text).graph == graph_of(text)


@pytest.mark.parametrize("precision", HALVES)
def test_a_normalization_is_computed_in_f32_and_stored_in_16_bits(
    precision: str,
) -> None:
    half = HALVES[precision]
    graph = chosen(precision, VARIED.graph).graph
    users = graph.users()
    norms = [n for n in graph.nodes if n.op == "batch_norm"]
    assert len(norms) == 2
    for norm in norms:
        assert {v.type.dtype.value for v in norm.operands} == {"f32"}
    readers = [[(u.op, u.result.type.dtype) for u in users[n.name]] for n in norms]
    assert readers == [[("cast", half)], [("softmax", DType.F32)]]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_parameters_outputs_and_updates_stay_f32(precision: str) -> None:
    before = VARIED.training_step().graph
    after = chosen(precision, before).graph
    assert after.parameters == before.parameters
    assert after.inputs == before.inputs
    for old, new in ((before.outputs, after.outputs), (before.updates, after.updates)):
        assert [(k, v.type) for k, v in old] == [(k, v.type) for k, v in new]


@pytest.mark.parametrize("precision", HALVES)
def test_no_value_is_cast_twice_to_one_type(precision: str) -> None:
    graph = chosen(precision, VARIED.graph).graph
    nodes = [n for n in graph.nodes if n.op == "cast"]
    casts = [(n.operands[0], n.attrs["dtype"]) for n in nodes]
    assert len(set(casts)) == len(casts)
    assert {v for v, _ in casts}.isdisjoint(n.result for n in nodes)


def wrong() -> Pass:
    """``choose-precision`` for bf16 that changes a constant a little."""
    item = choose_precision("bf16")

    def rewrite(before: Graph, _: object) -> Graph:
        after = item.rewrite(before, context())
        nodes = tuple(
            replace(n, attrs={**n.attrs, "value": 0.1001}) if n.name == "10" else n
            for n in after.nodes
        )
        return replace(after, nodes=nodes)

    return replace(item, rewrite=rewrite)


def test_a_pass_that_changes_more_than_the_precision_is_caught() -> None:
    """Though 0.1001 is within bf16's rounding of 0.1, in float64 it is not."""
    with pytest.raises(CompileError, match=r"output loss changed: 1 of 1 elements"):
        stage_after(wrong(), of=BEFORE)


def test_a_run_that_rounds_more_than_it_may_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def coarse(checker: Checker, graph: Graph, *data: Any) -> Result:
        result = plain(checker, graph, *data)
        return replace(result, outputs={k: a * 1.5 for k, a in result.outputs.items()})

    plain = Checker.run
    monkeypatch.setattr(Checker, "run", coarse)
    with pytest.raises(CompileError, match="rounding does not allow this: loss: 1 of"):
        chosen("bf16")


# ---- gradients ---------------------------------------------------------------


def test_gradients_of_parameters_are_not_rounded_to_16_bits() -> None:
    """The sums that make them stay in f32, the gradients between layers do not."""
    stage = stage_after(choose_precision("bf16"), DIFFERENTIATE, KEEP_SUMS, of=BEFORE)
    producers = stage.graph.producers()
    for name in ("k", "b"):
        maker = producers[stage.graph.output(f"gradient/{name}").name]
        assert maker.op == {"k": "conv2d_filter_grad", "b": "reduce_sum"}[name]
        assert maker.attrs["out"] == "f32"
        assert {v.type.dtype.value for v in maker.operands} == {"bf16"}


def test_a_sum_that_is_read_in_16_bits_too_is_rounded() -> None:
    text = """
    graph g(%x: bf16[N,3]) -> (y=%2, z=%1) {
      %1 = reduce_sum(%x) {axes=[0]} : bf16[3]
      %2 = cast(%1) {dtype=f32} : f32[3]
    }
    """
    assert stage_after(KEEP_SUMS, of=text).graph == graph_of(text)
    alone = stage_after(KEEP_SUMS, of=text.replace(", z=%1", ""))
    assert same(
        alone.graph,
        """
        graph g(%x: bf16[N,3]) -> (y=%2) {
          %2 = reduce_sum(%x) {axes=[0], out=f32} : f32[3]
        }
        """,
    )


def to_kernels(
    model: Model, precision: str, scale: float = 1.0, check: bool = True
) -> list[Stage]:
    """A training step up to form-kernels: what a backend makes its code of."""
    passes = training(SGD(0.1), precision=precision, loss_scale=scale)
    names = [p.name for p in passes]
    kept = passes[: names.index("form-kernels") + 1]
    return run_passes(model.training_step().graph, kept, context(), check)


def within_bounds(graph: Graph) -> Result:
    """What the interpreter gives, which must be within the bounds derived."""
    data = Samples(whole=False).of(graph)
    bounds, result = bounded(graph, *data), interpret(graph, *data)
    assert not bounds.faults(result)
    assert np.isfinite(bounds.output_bounds["loss"])
    return result


@pytest.mark.parametrize(("precision", "scale"), [("bf16", 1.0), ("fp16", 1024.0)])
def test_the_training_step_of_two_conv_in_16_bits(precision: str, scale: float) -> None:
    """In bf16 each pass is checked; in both the kernels are within bounds."""
    graph = to_kernels(Model(two_conv), precision, scale, precision == "bf16")[-1].graph
    found = kernels(graph)
    casts = [k for k in found if set(k) == {"cast"}]
    assert sorted(map(len, casts)) == [1, 8]  # the image, and all weights at once
    assert len(found) - len(casts) == 11
    names = {str(n.attrs["name"]) for n in graph.nodes if n.region}
    stored = f"weights_in_{HALVES[precision].value}"
    assert {stored, "logits_dense_bias_cast", "optimizer"} <= names
    updates = within_bounds(graph).updates
    assert {a.dtype for k, a in updates.items() if "/step" not in k} == {F32}


def test_the_training_step_of_two_conv_in_tf32() -> None:
    graph = to_kernels(Model(two_conv), "tf32", check=False)[-1].graph
    products = [n for n in graph.ops() if "precision" in n.attrs]
    assert len(products) == 2 + 3 + 2 + 4  # of convolutions and dense layers
    assert {n.attrs["precision"] for n in products} == {"tf32"}
    within_bounds(graph)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_of_many_kinds_of_layers_is_lowered(precision: str) -> None:
    """Forward, backward and evaluated, each pass checked."""
    to_kernels(VARIED, precision)
    passes = inference(precision)
    kept = passes[: [p.name for p in passes].index("form-kernels") + 1]
    run_passes(VARIED.evaluation_step().graph, kept, context(), check=True)


# ---- loss scaling ------------------------------------------------------------


def small(image: Tensor) -> Tensor:
    x = conv2d(image, 2, 3, name="conv1")
    return dense(flatten(x), 2, name="fc")


SMALL = Model(small, image="f32[N,4,4,1]")


def fc_gradient(precision: str, scale: float) -> Array:
    """That of the biases, when the network is sure of what is right by 2 to the 27."""
    passes = training(SGD(0.1), True, precision, scale)
    kept = passes[: [p.name for p in passes].index("simplify") + 1]
    graph = run_passes(SMALL.training_step().graph, kept, context())[-1].graph
    state = {p.value.name: np.zeros(p.value.type.bind(1)) for p in graph.parameters}
    state["fc/biases"] = np.array([19.0, 0.0])
    state["training/step"] = np.zeros((), np.int64)
    image, labels = np.ones((1, 4, 4, 1)), np.array([0])
    result = interpret(graph, {"image": image, "labels": labels}, state)
    return result.outputs["gradient/fc/biases"]


def test_scaling_the_loss_keeps_gradients_that_f16_has_no_numbers_for() -> None:
    """They are in f32 again before they are divided, which is exact."""
    exact, lost, kept = (
        fc_gradient(*asked)
        for asked in (("fp32", 1.0), ("fp16", 1.0), ("fp16", 1024.0))
    )
    assert 2.0**-29 < exact[1] < 2.0**-26
    assert lost[1] == 0
    assert abs(kept[1] - exact[1]) <= 2.0**-25 / 1024
    assert kept.dtype == np.float32


def test_the_scale_is_multiplied_and_divided_in_the_graph() -> None:
    """The division joins the optimizer's kernel."""
    stages = {s.name: s.graph for s in to_kernels(SMALL, "fp16", 512.0)}
    constants = {
        n.attrs["value"] for n in stages["differentiate"].nodes if n.op == "constant"
    }
    assert {512.0, 1 / 512} <= constants
    (optimizer,) = (k for k in kernels(stages["form-kernels"]) if "sgd" in k)
    assert optimizer.count("multiply") == optimizer.count("sgd") == 4


def test_a_scaled_gradient_that_is_shown_is_divided_outside() -> None:
    passes = training(SGD(0.1), True, "fp16", 512.0)
    kept = passes[: [p.name for p in passes].index("form-kernels") + 1]
    graph = run_passes(SMALL.training_step().graph, kept, context(), True)[-1].graph
    (optimizer,) = (k for k in kernels(graph) if "sgd" in k)
    assert "multiply" not in optimizer


def test_a_gradient_that_is_a_product_in_f32_stays_outside_the_optimizer() -> None:
    """There it is part of the network, and a backend may not know it there."""
    text = """
    graph g(%x: f32[2], %rate: f32[]) -> () {
      param %p : f32[2] = zeros()
      %1 = exp(%x) : f32[2]
      %c = constant() {value=0.5} : f32[]
      %2 = multiply(%1, %c) : f32[2]
      %3 = sgd(%p, %2, %rate) : f32[2]
      update %p = %3
    }
    """
    assert kernels(stage_after(FUSE_OPTIMIZER, of=text).graph) == [["sgd"]]


# ---- any graph ---------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(example=graphs(), precision=st.sampled_from(PRECISIONS[1:]))
def test_any_graph_may_be_asked_for_in_less(example: Example, precision: str) -> None:
    """It is legal and within its bounds; its gradients are gradients."""
    passes = [choose_precision(precision)]
    if example.loss is not None and example.trainable:
        passes += [DIFFERENTIATE, KEEP_SUMS]
    graph = stage_after(*passes, of=example.graph).graph
    data = example.inputs, example.parameters
    assert not bounded(graph, *data).faults(interpret(graph, *data))


def test_a_share_that_is_fed_is_not_rounded() -> None:
    """Neither where the mask is drawn nor where 16-bit numbers are divided by it."""
    text = """
    graph g(%x: f32[N,4], %p: f32[] = 0.7) -> (y=%d) {
      param %w : f32[4,4] = ones()
      state %s : i64[] = seed()
      state %t : i64[] = zeros()
      %m = keep_mask(%s, %t, %p) {shape=[N,4], stream=3} : bool[N,4]
      %1 = matmul(%x, %w) : f32[N,4]
      %d = apply_keep(%1, %m, %p) : f32[N,4]
    }
    """
    graph = stage_after(choose_precision("bf16"), of=text).graph
    applied = next(n for n in graph.nodes if n.op == "apply_keep")
    kinds = [v.type.dtype for v in (*applied.operands, applied.result)]
    assert kinds == [DType.BF16, DType.BOOL, DType.F32, DType.BF16]
