"""Convolutions with what their kernels take in give what the oracle gives."""

import pytest
from compiled import faults, inputs_for, parameters_for, ran
from emitted_programs import emitted
from layer_cases import ENDINGS, POOLED, layer
from window_cases import CONVOLUTIONS

from convc.ir.graph import Graph
from convc.ir.rounding import bounded

BATCH = 7


def wrong(graph: Graph) -> list[str]:
    """What is wrong on all and on fewer images; whole numbers must come out exactly."""
    program, found = emitted(graph, BATCH), []
    for n, whole in ((BATCH, True), (BATCH - 2, False)):
        feeds, given = inputs_for(graph, n, whole), parameters_for(graph, whole)
        program.load(given)
        result = ran(program, feeds)
        found += faults(graph, bounded(graph, feeds, given), result)
    return found


@pytest.mark.parametrize("ending", ["bare", "bias_relu"])
@pytest.mark.parametrize("note", CONVOLUTIONS)
def test_a_convolution_agrees_with_the_oracle(note: str, ending: str) -> None:
    assert not wrong(layer(CONVOLUTIONS[note], ENDINGS[ending]))


@pytest.mark.parametrize("window", [(2, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("note", POOLED)
def test_pooling_on_the_tile_agrees_with_the_oracle(
    note: str, window: tuple[int, int]
) -> None:
    """With and without bias, ReLU and the index of the largest."""
    number = list(POOLED).index(note) + window[0]
    for ending in list(ENDINGS.values())[4 + number % 2 :: 2]:
        assert not wrong(layer(POOLED[note], ending, window))


@pytest.mark.parametrize(
    "ending",
    ["sum", "bias sum_before relu", "bias sigmoid", "bias pool argmax sum tanh"],
)
def test_residual_sums_and_activations_agree_with_the_oracle(ending: str) -> None:
    assert not wrong(layer(POOLED["as_in_two_conv"], ending))
