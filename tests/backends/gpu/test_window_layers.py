"""Layers of windows, forward and backward, give in Triton what the oracle gives."""

import pytest
from compiled import faults, ran
from emitted_programs import emitted
from window_layers import BATCH, LAYERS, POOLS, Layer, data_of

from convc.ir.rounding import bounded
from convc.passes.canonicalize import CANONICALIZE
from convc.passes.fold_padding import FOLD_PADDING
from convc.pipeline import LOWERING

PASSES = (CANONICALIZE, FOLD_PADDING, *LOWERING)


@pytest.mark.parametrize("layer", [*LAYERS, *POOLS], ids=lambda layer: layer.note)
def test_a_layer_and_its_gradients_agree_with_the_oracle(layer: Layer) -> None:
    """On one image fewer than the program was compiled for."""
    graph = layer.graph()
    program = emitted(graph, BATCH + 1, passes=PASSES)
    inputs, parameters = data_of(graph)
    program.load(parameters)
    bounds = bounded(graph, inputs, parameters)
    assert not faults(graph, bounds, ran(program, inputs))
