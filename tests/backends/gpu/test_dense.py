"""Dense kernels of a training step give what the oracle gives."""

from dataclasses import replace

import pytest
from compiled import agrees, inputs_for, parameters_for
from emitted_programs import emitted

import convc as cc
from convc.optimizers import SGD
from convc.pipeline import training

BATCH = 7


def network(image: cc.Tensor) -> cc.Tensor:
    x = cc.dense(cc.flatten(image), 12, activation="relu", name="wide")
    x = cc.dropout(x, keep=0.75)
    x = cc.dense(x, 5, activation="relu", name="middle")
    return cc.dense(x, 3, name="logits")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("n", [1, 5, 7])
def test_forward_backward_and_update_are_right(n: int, whole: bool) -> None:
    step = cc.Model(network, image="f32[N,3,4,2]").training_step()
    at = [p.name for p in step.passes].index("fuse-conv")
    before = replace(step, passes=training(SGD(0.5))[:at])
    graph = before.stages(batch=BATCH, threads=1)[-1].graph
    program = emitted(graph, BATCH)
    program.load(parameters_for(graph, whole))
    assert agrees(graph, inputs_for(graph, n, whole), program)[1] == []
