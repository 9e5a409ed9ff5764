"""Layers of windows, forward and backward, give on NumPy what the oracle gives."""

import pytest
from compiled import compiled, faults, ran
from window_layers import BATCH, LAYERS, POOLS, Layer, data_of

from convc.ir.rounding import bounded
from convc.passes.canonicalize import CANONICALIZE
from convc.passes.fold_padding import FOLD_PADDING
from convc.pipeline import LOWERING

PASSES = (CANONICALIZE, FOLD_PADDING, *LOWERING)


@pytest.mark.parametrize("layer", [*LAYERS, *POOLS], ids=lambda layer: layer.note)
def test_a_layer_and_its_gradients_agree_with_the_oracle(layer: Layer) -> None:
    """On one and on two threads, on as many images as it was compiled for and fewer."""
    graph = layer.graph()
    for threads, whole in ((1, True), (2, False)):
        program = compiled(graph, BATCH + threads - 1, threads, PASSES)
        inputs, parameters = data_of(graph, whole)
        program.load(parameters)
        bounds = bounded(graph, inputs, parameters)
        assert not faults(graph, bounds, ran(program, inputs))
