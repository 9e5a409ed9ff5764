"""Every node is forward, backward or part of the update, at every stage."""

import pytest

from convc.ir.parser import parse
from convc.model import Model
from convc.networks import NETWORKS, strided
from convc.optimizers import SGD
from convc.report.lanes import LANES, lanes


def by_name(text: str) -> dict[str, str]:
    graph = parse(text)
    return dict(zip((n.name for n in graph.nodes), lanes(graph), strict=True))


STEP = """
graph g(%x: f32[N,4]) -> (loss=%2) {
  param %w : f32[4,1] = zeros()
  state %average : f32[] = zeros()
  %1 = matmul(%x, %w) : f32[N,1]
  %2 = reduce_mean(%1) {axes=[0,1]} : f32[]
  %3 = constant() {value=1.0} : f32[]
  %4 = reduce_mean_grad(%3) {shape=[N,1], axes=[0,1]} : f32[N,1]
  %5 = matmul(%x, %4) {transpose_a=true} : f32[4,1]
  %6 = constant() {value=0.1} : f32[]
  %7 = sgd(%w, %5, %6) : f32[4,1]
  %8 = add(%average, %2) : f32[]
  update %w = %7
  update %average = %8
}
"""


def test_a_step_has_its_forward_its_backward_and_its_update() -> None:
    assert by_name(STEP) == {
        **dict.fromkeys("12", "forward"),
        **dict.fromkeys("345", "backward"),
        **dict.fromkeys("678", "update"),
    }


def test_an_average_that_a_layer_keeps_is_forward() -> None:
    old = "%8 = add(%average, %2) : f32[]"
    assert by_name(STEP.replace(old, f"{old}   @ net.py:3 norm"))["8"] == "forward"


def test_kept_gradients_do_not_make_the_backward_forward() -> None:
    text = STEP.replace("(loss=%2)", '(loss=%2, "gradient/w"=%5)')
    assert by_name(text) == by_name(STEP)


def test_without_updates_all_that_an_output_needs_is_forward() -> None:
    stages = Model(strided).inference().stages(batch=2, threads=1)
    assert {lane for stage in stages for lane in lanes(stage.graph)} == {"forward"}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_lane_of_a_training_step_has_kernels_in_the_end(name: str) -> None:
    step = Model(NETWORKS[name]).training_step(optimizer=SGD(0.1))
    last = step.stages(batch=2, threads=1)[-1].graph
    kernels = [
        lane
        for node, lane in zip(last.nodes, lanes(last), strict=True)
        if node.region is not None
    ]
    assert set(kernels) == set(LANES)
    assert kernels == sorted(kernels, key=LANES.index), "and it is run in this order"
