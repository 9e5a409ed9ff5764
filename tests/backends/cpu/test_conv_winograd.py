"""Convolutions and their gradients by Winograd's tiles, within their bounds."""

from typing import Any

import numpy as np
import pytest
from algorithms import BATCH, wrong
from compiled import compiled, inputs_for, parameters_for, ran
from layer_cases import ENDINGS, PARTS, WIDE, gradients, layer
from schedules import candidates_of, scheduled

from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Graph
from convc.ir.rounding import bounded

BOTH = ("conv2d_filter_grad", "conv2d_input_grad")
LARGE = {**WIDE, "five": ((14, 13), 24, (5, 5), 24, {"padding": "same"})}
"""With as many tiles of 5x5 filters as the bound of their gradient asks for."""


def tiles(graph: Graph, op: str) -> list[Attrs]:
    """The schedules with Winograd's tiles, the best first."""
    every = candidates_of(graph, op, BATCH, 2)
    return [c.schedule for c in every if c.schedule["algorithm"] == "winograd"]


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("note", WIDE)
def test_a_convolution_agrees_with_the_oracle(note: str, ending: str) -> None:
    """On whole numbers exactly by F(2x2, 3x3), which rounds none of them."""
    graph = layer(WIDE[note], ending, (1, 1) if note == "one_pixel" else (2, 2))
    assert not wrong(graph, "conv2d", "winograd", whole="pool" in ending)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("note", LARGE)
def test_gradients_agree_with_the_oracle(note: str, parts: str) -> None:
    if note == "one_pixel":  # which leaves nothing for a pool of 2x2
        parts = parts.replace("pool ", "")
    op, whole = BOTH["dw" not in parts], parts.startswith("relu")
    assert not wrong(gradients(LARGE[note], parts), op, "winograd", whole)


@pytest.mark.parametrize("note", ["odd", "five"])
def test_errors_are_those_of_float32(note: str) -> None:
    """Beside the largest result, far below what the bound allows."""
    graph = gradients(LARGE[note], "relu pool bias dw dx")
    feeds, given = inputs_for(graph, BATCH), parameters_for(graph)
    feeds["index"] %= 4
    exact = bounded(graph, feeds, given).outputs
    for schedule in tiles(graph, BOTH[0]):
        program = compiled(graph, BATCH, 2, scheduled(BOTH[0], schedule))
        program.load(given)
        found = ran(program, feeds).outputs
        for name, reference in exact.items():
            error = np.abs(found[name] - reference).max()
            assert error <= 3e-5 * np.abs(reference).max(), (name, schedule)


def test_tiles_are_offered_where_the_bound_allows_them() -> None:
    """With enough channels to save, square filters, and tiles of whole pool windows."""
    geometry = {"padding": "same"}

    def offered(
        c: int, kernel: Any, ending: str = "", window: Any = 2, **more: Any
    ) -> bool:
        case = ((12, 12), c, kernel, c, {**geometry, **more})
        return bool(tiles(layer(case, ending, (window, window)), "conv2d"))

    assert offered(26, (3, 3))
    assert not offered(25, (3, 3))
    assert offered(64, (5, 5))
    assert not offered(64, (4, 4))
    assert not offered(64, (3, 1))
    assert not offered(64, (3, 3), strides=(2, 1))
    assert not offered(64, (3, 3), dilations=(1, 2))
    assert not offered(128, (3, 3), groups=2)
    assert offered(64, (3, 3), "pool", 2)
    assert not offered(64, (3, 3), "pool", 3)


def test_each_gradient_has_a_bound_of_its_own() -> None:
    """Few tiles of a 5x5 filter sum to less than their transforms may be off."""
    few = ((6, 7), 24, (5, 5), 24, {"padding": "same"})
    assert tiles(gradients(few, "bias dx"), BOTH[1])
    assert not tiles(gradients(few, "pool dw"), BOTH[0])
    assert not tiles(gradients(few, "dw dx"), BOTH[0])
    assert tiles(gradients(LARGE["five"], "dw dx"), BOTH[0])


@pytest.mark.parametrize("op", ["conv2d", *BOTH])
def test_a_tile_that_may_not_serve_is_refused(op: str) -> None:
    graph = gradients(WIDE["odd"], "dw dx") if op in BOTH else layer(WIDE["odd"])
    schedule = {"algorithm": "winograd", "images": 4, "m": 3}
    with pytest.raises(CompileError, match="needs m in \\[2, 4\\].* m = 3"):
        compiled(graph, BATCH, 1, scheduled(op, schedule))
