"""Convolution and pooling layers, and their gradients, are what PyTorch's are."""

import numpy as np
import pytest
from window_layers import LAYERS, POOLS, Layer, data_of, in_torch

from convc.ir.interpreter import interpret
from convc.ir.rounding import bounded

UNIT = 2.0**-53


@pytest.mark.parametrize("layer", [*LAYERS, *POOLS], ids=lambda layer: layer.note)
def test_a_layer_and_its_gradients_are_those_of_pytorch(layer: Layer) -> None:
    """In float64, within what the rounding of both may make."""
    graph = layer.graph()
    inputs, parameters = data_of(graph)
    expected = in_torch(layer, inputs, parameters)
    bounds = bounded(graph, inputs, parameters, UNIT).output_bounds
    found = interpret(graph, inputs, parameters, float64=True).outputs
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.shape == expected[name].shape
        assert np.all(np.abs(array - expected[name]) <= 2 * bounds[name]), name
