"""Training steps in tf32, bf16 and fp16 as Triton, within the bounds of each."""

import numpy as np
import pytest
from compiled import agrees, inputs_for, parameters_for
from emitted_programs import DEVICE, emitted

from convc.backends.gpu.launches import read_launches
from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.layers import add, conv2d, dense, dropout, flatten, max_pool2d
from convc.model import Model
from convc.optimizers import Adam
from convc.pipeline import LOWERING, Step
from convc.tracing import Tensor

LOWER = ("tf32", "bf16", "fp16")
IMAGES = 3


def net(image: Tensor) -> Tensor:
    """A pool, a residual, dropout: what is fused with a product, and its gradients."""
    x = conv2d(image, 4, 3, padding="same", activation="relu", name="conv1")
    x = max_pool2d(x, 2, name="pool1")
    y = conv2d(x, 4, 3, padding="same", activation="relu", name="conv2")
    x = dropout(flatten(add(x, y)), keep=0.75, name="drop")
    return dense(x, 3, name="logits")


def traced(precision: str, keep: bool = True) -> Graph:
    """The training step before it is lowered, ``keep``: with its gradients."""
    model = Model(net, image="f32[N,6,6,2]", precision=precision)
    step = model.training_step(optimizer=Adam(1e-3), keep_gradients=keep)
    at = [p.name for p in step.passes].index(LOWERING[0].name)
    return Step(step.graph, step.passes[:at]).stages(batch=IMAGES)[-1].graph


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("precision", LOWER)
def test_a_training_step_is_within_its_bounds(
    precision: str, keep: bool, whole: bool
) -> None:
    """The division by the loss scale inside the optimizer's kernel and outside."""
    graph = traced(precision, keep)
    program = emitted(graph, IMAGES)
    state = {k: np.abs(a) for k, a in parameters_for(graph, whole).items()}
    program.load(state)
    result, wrong = agrees(graph, inputs_for(graph, IMAGES, whole), program, state)
    assert not wrong
    assert np.isfinite(result.outputs["loss"])
    assert any(
        not np.array_equal(state[p.value.name], result.updates[p.value.name])
        for p in graph.parameters
        if p.trainable
    )


def test_a_step_in_fp16_launches_nothing_for_its_loss_scale() -> None:
    launches = [
        len(read_launches(emitted(traced(p, keep=False), IMAGES).source))
        for p in ("bf16", "fp16")
    ]
    assert launches[0] == launches[1]


@pytest.mark.skipif(DEVICE.startswith("cuda"), reason="it is about the interpreter")
def test_the_interpreter_runs_fp16_and_refuses_what_it_gets_wrong() -> None:
    """It takes the bits of bf16 for numbers; what tests run here mends that."""
    model = Model(net, image="f32[N,6,6,2]")
    program = model.inference(precision="fp16").compile("triton:interpret", IMAGES)
    (graph,) = (s.graph for s in program.stages if s.name == "choose-precision")
    inputs = inputs_for(graph, IMAGES)
    _, wrong = agrees(graph, inputs, program)
    assert not wrong
    lower = model.inference(precision="bf16").compile("triton:interpret", IMAGES)
    with pytest.raises(CompileError) as error:
        lower(**inputs)
    assert str(error.value).startswith("cast at ")
    assert " conv1 gives bf16[N,6,6,2]: triton's interpreter" in str(error.value)
