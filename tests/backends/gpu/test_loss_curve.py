"""Twenty steps of training with dropout: the losses of Triton and NumPy agree.

Every step begins where Triton's last one ended, in both: from one state the losses may
differ by what float32 rounds in each. What they do afterwards is another story, for
training amplifies a last bit.
"""

from compiled import agrees, inputs_for, ran
from emitted_programs import emitted

import convc as cc
from convc.model import Model
from convc.optimizers import Momentum
from convc.pipeline import LOWERING, Step
from convc.tracing import Tensor

IMAGES = 8
STEPS = 20


def network(image: Tensor) -> Tensor:
    x = cc.conv2d(image, 4, 3, padding="same", activation="relu", name="conv1")
    x = cc.max_pool2d(x, 2)
    x = cc.conv2d(x, 8, 3, padding="same", activation="relu", name="conv2")
    x = cc.max_pool2d(x, 2)
    x = cc.dense(cc.flatten(x), 16, activation="relu", name="fc")
    x = cc.dropout(x, keep=0.75)
    return cc.dense(x, 10, name="logits")


def test_losses_agree_step_by_step() -> None:
    """Within the bounds of each, around the loss that float64 gives."""
    model = Model(network, image="f32[N,8,8,1]")
    step = model.training_step(optimizer=Momentum(0.05))
    at = [p.name for p in step.passes].index(LOWERING[0].name)
    graph = Step(step.graph, step.passes[:at]).stages(batch=IMAGES)[-1].graph
    numpy = step.compile(batch=IMAGES, threads=2)
    numpy.initialize(4)
    triton = emitted(graph, IMAGES)
    triton.load(numpy.state())
    data, losses = inputs_for(graph, IMAGES), []
    for _ in range(STEPS):
        numpy.load(triton.state())
        assert agrees(graph, data, numpy)[1] == []
        result, wrong = agrees(graph, data, triton)
        assert wrong == []
        losses.append(float(result.outputs["loss"]))
    assert losses[-1] < losses[0]
    assert int(triton.state()["training/step"]) == STEPS
    assert ran(triton, data).outputs["loss"] != losses[-1]
