"""Every network of the course notes goes through all passes in check mode, and runs."""

from collections.abc import Iterator

import numpy as np
import pytest
from compiled import agrees, inputs_for
from seed_networks import SEED_NETWORKS

from convc.model import Model
from convc.optimizers import SGD, Adam, Momentum, Optimizer
from convc.pipeline import Step
from convc.program import Program

THIN = 4


def _steps(model: Model, optimizer: Optimizer | None = None) -> Iterator[Step]:
    yield model.training_step(optimizer=optimizer)
    yield model.evaluation_step()
    yield model.inference()


CASES = [
    *((name, Adam()) for name in SEED_NETWORKS),
    *(("normalized", optimizer) for optimizer in (SGD(0.1), Momentum(0.1))),
]


@pytest.mark.parametrize(
    ("name", "optimizer"), CASES, ids=[f"{n}-{o.op}" for n, o in CASES]
)
def test_small_ones_pass_every_check_and_agree_with_the_oracle(
    name: str, optimizer: Optimizer
) -> None:
    for step in _steps(SEED_NETWORKS[name].model(name, THIN), optimizer):
        program = step.compile(batch=4, threads=2, check=True)
        assert all(stage.checked for stage in program.stages[1:])
        inputs = inputs_for(program.graph, 3)
        _, faults = agrees(program.graph, inputs, program)
        assert not faults


@pytest.mark.parametrize("name", ["convnet", "four_convolutions"])
def test_the_full_ones_pass_every_check(name: str) -> None:
    """At the size of the notes: 3.2 million weights in the first, 10 gradients."""
    for step in _steps(SEED_NETWORKS[name].model(name)):
        stages = step.stages(batch=128, check=True)
        assert all(stage.checked for stage in stages[1:])
        assert max(stage.verdict.worst for stage in stages) < 1


@pytest.mark.parametrize("name", SEED_NETWORKS)
def test_the_full_ones_train_and_evaluate(name: str) -> None:
    model = SEED_NETWORKS[name].model(name)
    train, evaluate, _ = (step.compile(batch=8, threads=2) for step in _steps(model))
    inputs = inputs_for(train.graph, 8)
    inputs["labels"] = np.arange(8, dtype=np.int32) % 10
    losses = [_loss(train, inputs) for _ in range(3)]
    assert np.isfinite(losses).all()
    evaluate.load(train.state())
    assert np.isfinite(_loss(evaluate, inputs))


def _loss(program: Program, inputs: dict[str, np.ndarray]) -> float:
    return float(program(**inputs)["loss"])
