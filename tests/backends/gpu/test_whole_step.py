"""The training step of the MNIST network: the oracle's numbers, NumPy's dropout."""

from functools import cache

import numpy as np
from compiled import State, agrees, ran
from emitted_programs import emitted
from two_conv_data import feeds, weights

from convc.backends.gpu.launches import read_launches
from convc.ir.graph import Graph
from convc.ir.interpreter import Result
from convc.model import Model
from convc.networks import two_conv
from convc.optimizers import Adam
from convc.pipeline import LOWERING, Step

IMAGES = 8
MOST_LAUNCHES = 12


@cache
def step() -> Step:
    """Exact, for zeros are compared: a transform of zeros may round to others."""
    model = Model(two_conv, exact=True)
    return model.training_step(optimizer=Adam(1e-3), keep_gradients=True)


@cache
def traced() -> Graph:
    """The step as the oracle runs it: ops, gradients and updates."""
    at = [p.name for p in step().passes].index(LOWERING[0].name)
    return Step(step().graph, step().passes[:at]).stages(batch=IMAGES)[-1].graph


@cache
def three_steps() -> list[tuple[State, Result, list[str]]]:
    """For each of three steps: where it began, what it gave, what is wrong with it."""
    program, steps = emitted(traced(), IMAGES), []
    numpy = step().compile(batch=IMAGES, threads=2)
    numpy.initialize(4)
    state = numpy.state()
    for number in range(3):
        state = {**state, **weights(number, traced())}
        program.load(state)
        result, wrong = agrees(traced(), feeds(number, IMAGES), program)
        steps.append((state, result, wrong))
        state = program.state()
    return steps


def test_loss_gradients_and_weights_are_the_oracles_within_rounding() -> None:
    for _, _, wrong in three_steps():
        assert not wrong


def test_dropout_hits_what_it_hits_in_numpy() -> None:
    """A unit is dropped where its weights to the logits get no gradient."""
    program = step().compile(batch=IMAGES, threads=2)
    for number, (state, ours, _) in enumerate(three_steps()):
        program.load(state)
        theirs = ran(program, feeds(number, IMAGES))
        for name in ("gradient/logits/kernel", "gradient/fc/kernel"):
            a, b = ours.outputs[name] == 0, theirs.outputs[name] == 0
            assert np.array_equal(a, b)
            assert 0 < a.mean() < 1


def test_a_step_takes_few_launches() -> None:
    program = emitted(traced(), IMAGES)
    assert len(read_launches(program.source)) <= MOST_LAUNCHES
