"""A training step in each precision stays within the bounds that its rounding has.

Weights are sparse and on coarse grids, so that even bfloat16 rounds nothing up to the
dropout: no ReLU and no pool decides otherwise, and the bounds are small.
"""

from functools import cache

import numpy as np
import pytest
from compiled import State, agrees, inputs_for
from emitted_programs import emitted

import convc as cc
from convc.ir.graph import Graph
from convc.ir.rounding import bounded
from convc.model import Model
from convc.optimizers import SGD
from convc.pipeline import LOWERING, Step
from convc.tracing import Tensor

BATCH = 6
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


def network(image: Tensor) -> Tensor:
    x = cc.conv2d(image, 16, 3, padding="same", activation="relu", name="conv1")
    x = cc.max_pool2d(x, 2)
    x = cc.conv2d(x, 16, 3, padding="same", activation="relu", name="conv2")
    x = cc.dropout(cc.flatten(x), keep=0.75)
    return cc.dense(x, 10, name="logits")


GRIDS = {
    "conv1": (1 / 4, 2.0**-2),
    "conv2": (1 / 16, 2.0**-2),
    "logits": (1 / 4, 2.0**-4),
}
"""For each layer the share of weights that are not 0, and their magnitude."""


def weights(graph: Graph) -> State:
    """Weights of 0 and plus or minus one size, biases of whole quarters."""
    rng, drawn = np.random.default_rng(5), {}
    for p in graph.parameters:
        layer, _, kind = p.value.name.partition("/")
        shape = p.value.type.bind(1)
        if kind == "kernel":
            density, size = GRIDS[layer]
            array = rng.choice([-size, size], shape) * (rng.random(shape) < density)
        else:
            array = rng.integers(0, 2, shape) / 4 if kind else np.full(shape, 3)
        drawn[p.value.name] = array.astype(p.value.type.dtype.numpy)
    return drawn


@cache
def traced(precision: str) -> Graph:
    """The step up to where it is lowered, gradients among its outputs."""
    model = Model(network, image="f32[N,6,6,2]", precision=precision)
    step = model.training_step(optimizer=SGD(0.5), keep_gradients=True)
    at = [p.name for p in step.passes].index(LOWERING[0].name)
    return Step(step.graph, step.passes[:at]).stages("triton:interpret")[-1].graph


@pytest.mark.parametrize("target", ["interpret", "sm_90"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_is_within_its_bounds(precision: str, target: str) -> None:
    """With the tiles of a GPU too; ``gpu_numbers`` sees to it that rounding is real."""
    graph = traced(precision)
    program = emitted(graph, BATCH, target)
    for n in (BATCH, BATCH - 1):
        program.load({**program.state(), **weights(graph)})
        _, wrong = agrees(graph, inputs_for(graph, n, whole=True), program)
        assert not wrong


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_bounds_say_something(precision: str) -> None:
    """No gradient may be off by more than a fifth of the largest."""
    graph = traced(precision)
    bounds = bounded(graph, inputs_for(graph, BATCH, whole=True), weights(graph))
    assert bounds.output_bounds["loss"] < bounds.outputs["loss"] / 100
    names = [name for name in bounds.outputs if name.startswith("gradient/")]
    assert len(names) == 6
    for name in names:
        largest = np.abs(bounds.outputs[name]).max()
        assert bounds.output_bounds[name].max() < largest / 5, name


def test_each_precision_is_another_computation() -> None:
    """None is silently another: the gradients differ."""
    found = {}
    for precision in PRECISIONS:
        graph = traced(precision)
        program = emitted(graph, BATCH)
        program.load({**program.state(), **weights(graph)})
        outputs = program(**inputs_for(graph, BATCH))
        found[precision] = outputs["gradient/conv1/kernel"].tobytes()
    assert len(set(found.values())) == len(found)
