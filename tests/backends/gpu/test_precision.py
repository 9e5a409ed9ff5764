"""A training step in each precision stays within the bounds that its rounding has."""

import numpy as np
import pytest
from compiled import agrees, inputs_for, parameters_for
from triton_bench import Checked

import convc as cc
from convc.ir.graph import Graph
from convc.model import Model
from convc.optimizers import SGD
from convc.pipeline import LOWERING, Step
from convc.tracing import Tensor

BATCH = 6


def network(image: Tensor) -> Tensor:
    x = cc.conv2d(image, 16, 3, padding="same", activation="relu", name="conv1")
    x = cc.max_pool2d(x, 2)
    x = cc.conv2d(x, 16, 3, padding="same", activation="relu", name="conv2")
    x = cc.dropout(cc.flatten(x), keep=0.75)
    return cc.dense(x, 10, name="logits")


def traced(precision: str) -> Graph:
    """The step up to where it is lowered, gradients among its outputs."""
    model = Model(network, image="f32[N,6,6,2]", precision=precision)
    step = model.training_step(optimizer=SGD(0.5), keep_gradients=True)
    at = [p.name for p in step.passes].index(LOWERING[0].name)
    return Step(step.graph, step.passes[:at]).stages(f"triton:interpret")[-1].graph


@pytest.mark.parametrize("target", ["interpret", "sm_90"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_step_is_within_its_bounds(precision: str, target: str) -> None:
    """With the tiles of a GPU too; ``gpu_numbers`` sees to it that rounding is real."""
    graph = traced(precision)
    program = Checked(graph, BATCH, target)
    for n in (BATCH, BATCH - 1):
        program.load(parameters_for(graph))
        result, wrong = agrees(graph, inputs_for(graph, n), program)
        assert not wrong
        assert np.isfinite(result.outputs["loss"])


def test_each_precision_is_another_computation() -> None:
    """None is silently another: all gradients differ from those of fp32."""
    found = {}
    for precision in ("fp32", "tf32", "bf16", "fp16"):
        graph = traced(precision)
        program = Checked(graph, BATCH)
        program.load(parameters_for(graph))
        outputs = program(**inputs_for(graph, BATCH))
        found[precision] = outputs["gradient/conv1/kernel"].tobytes()
    assert len(set(found.values())) == len(found)
