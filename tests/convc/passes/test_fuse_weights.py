"""Arithmetic on parameters alone shares a kernel, and what else there is does not."""

import pytest
from fusion_bench import fused, kernels
from pass_bench import stage_after

import convc as cc
from convc.networks import NETWORKS
from convc.passes.fuse_weights import FUSE_WEIGHTS
from convc.schedules import CosineDecay, Warmup

FOLD = """
graph g(%x: f32[N,4]) -> (y=%7) {
  param %w : f32[3,4] = ones()   @ net.py:1 fc
  param %v : f32[4] = ones()   @ net.py:1 fc
  %1 = constant() {value=0.5} : f32[]
  %2 = add(%v, %1) : f32[4]   @ net.py:2 bn1
  %3 = sqrt(%2) : f32[4]   @ net.py:2 bn1
  %4 = divide(%w, %3) : f32[3,4]   @ net.py:2 bn1
  %5 = matmul(%x, %4) {transpose_b=true} : f32[N,3]
  %6 = matmul(%5, %w) : f32[N,4]
  %7 = multiply(%6, %3) : f32[N,4]
}
"""


def test_ops_on_parameters_are_one_kernel_named_after_their_layer() -> None:
    graph = fused(FUSE_WEIGHTS, FOLD).graph
    assert kernels(graph) == [["constant", "add", "sqrt", "divide"]]
    (kernel,) = (n for n in graph.nodes if n.region)
    assert kernel.attrs["name"] == "bn1_weights"
    assert [v.name for v in kernel.results] == ["3", "4"]


def test_results_that_nobody_reads_inside_are_shared_among_workers() -> None:
    text = FOLD.replace("multiply(%6, %3)", "exp(%6)")
    (kernel,) = (n for n in fused(FUSE_WEIGHTS, text).graph.nodes if n.region)
    assert [v.name for v in kernel.results] == ["4"]


@pytest.mark.parametrize("op", ["tanh", "sigmoid", "negate", "log"])
def test_a_chain_of_functions(op: str) -> None:
    text = FOLD.replace("sqrt(", f"{op}(")
    assert kernels(fused(FUSE_WEIGHTS, text).graph)


def test_an_update_is_left_to_the_end() -> None:
    text = FOLD.replace("\n}", "\n  update %v = %8\n}").replace(
        "  %5 =", "  %8 = multiply(%3, %1) : f32[4]\n  %5 ="
    )
    (ops,) = kernels(fused(FUSE_WEIGHTS, text).graph)
    assert "multiply" not in ops


def test_what_has_a_batch_is_no_weight() -> None:
    text = """
    graph g(%x: f32[N,4]) -> (y=%2) {
      param %v : f32[4] = ones()
      %1 = multiply(%x, %v) : f32[N,4]
      %2 = tanh(%1) : f32[N,4]
    }
    """
    assert kernels(stage_after(FUSE_WEIGHTS, of=text).graph) == []


def test_large_weights_are_not_passed_on_inside() -> None:
    """They would lie in the scratch of every worker."""
    text = """
    graph g(%x: f32[N,4]) -> (y=%3) {
      param %w : f32[4,4] = ones()
      %1 = tanh(%w) : f32[4,4]
      %2 = exp(%1) : f32[4,4]
      %3 = matmul(%x, %2) : f32[N,4]
    }
    """
    assert kernels(fused(FUSE_WEIGHTS, text).graph) == []


def test_a_learning_rate_is_one_kernel() -> None:
    rate = Warmup(CosineDecay(0.1, 100), 10)
    step = cc.Model(NETWORKS["strided"], image="f32[N,8,8,1]").training_step(
        optimizer=cc.SGD(rate)
    )
    program = step.compile(batch=4, threads=1, check=True)
    names = [str(n.attrs["name"]) for n in program.graph.nodes if n.region]
    assert names.count("scalars") == 1
    assert not {"cast", "multiply", "cos", "minimum"} & {*names}


def test_all_weights_that_are_stored_in_16_bits_are_so_in_one_kernel() -> None:
    """Whatever their layers and shapes, as one launch; images are none of them."""
    text = """
    graph g(%x: f32[N,3]) -> (y=%5) {
      param %v : f32[3,4] = ones()   @ net.py:1 fc1
      param %w : f32[4,5] = ones()   @ net.py:2 fc2
      %1 = cast(%x) {dtype=bf16} : bf16[N,3]
      %2 = cast(%v) {dtype=bf16} : bf16[3,4]   @ net.py:1 fc1
      %3 = matmul(%1, %2) : bf16[N,4]   @ net.py:1 fc1
      %4 = cast(%w) {dtype=bf16} : bf16[4,5]   @ net.py:2 fc2
      %5 = matmul(%3, %4) : bf16[N,5]   @ net.py:2 fc2
    }
    """
    graph = stage_after(FUSE_WEIGHTS, of=text).graph
    (kernel,) = (n for n in graph.nodes if n.region)
    assert kernel.attrs["name"] == "weights_in_bf16"
    assert [v.name for v in kernel.results] == ["2", "4"]
