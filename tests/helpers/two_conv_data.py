"""Data for a training step of the MNIST network in which float32 rounds little.

Images and weights are sparse and on coarse grids, so that float32 rounds nothing up to
the dropout. The bounds are then small enough to show a single wrong term.
"""

import numpy as np
from compiled import State

from convc.ir.graph import Graph

WEIGHTS = [
    f"{layer}/{kind}"
    for layer in ("conv1", "conv2", "fc", "logits")
    for kind in ("kernel", "biases")
]


GRIDS = {"conv1": (1 / 2, 2.0**-2), "conv2": (1 / 16, 2.0**-3), "fc": (1 / 64, 2.0**-3)}
"""For each layer the share of weights that are not 0, and their magnitude."""


def feeds(number: int, count: int = 2) -> State:
    """Images of whole 128ths, and labels."""
    rng = np.random.default_rng(number)
    image = rng.integers(-128, 129, (count, 28, 28, 1)).astype(np.float32) / 128
    labels = np.resize(np.array([number, 7, 2, 5, 0, 9, 1], np.int32), count)
    return {"image": image, "labels": labels}


def weights(number: int, graph: Graph) -> State:
    """Weights of 0 and plus or minus one size, biases of whole 64ths."""
    rng = np.random.default_rng(100 + number)
    drawn = {}
    for name in WEIGHTS:
        shape = graph.parameter(name).value.type.bind(1)
        layer, kind = name.split("/")
        density, size = GRIDS.get(layer, (1 / 4, 2.0**-4))
        if kind == "biases":
            array = rng.integers(-16, 17, shape) / 64
        else:
            array = rng.choice([-size, size], shape) * (rng.random(shape) < density)
        drawn[name] = array.astype(np.float32)
    return drawn
