"""Convolutions of each channel by itself, as products of tiles with their pixels."""

from typing import Any

import pytest
from algorithms import BATCH, wrong
from compiled import compiled
from layer_cases import ENDINGS, PARTS, gradients, layer
from schedules import candidates_of, scheduled

from convc.ir.errors import CompileError

GEOMETRIES: dict[str, tuple[Any, ...]] = {
    "same": ((5, 6), 3, (3, 3), 3, {"padding": "same"}),
    "valid": ((7, 9), 2, (2, 5), 2, {}),
    "strided": ((9, 8), 4, (3, 3), 4, {"padding": "same", "strides": (2, 1)}),
    "dilated": ((8, 9), 2, (3, 2), 2, {"padding": "same", "dilations": (1, 2)}),
    "both": ((9, 9), 2, (3, 3), 2, {"strides": (2, 3), "dilations": (2, 1)}),
    "asymmetric": ((4, 5), 3, (3, 3), 3, {"padding": ((0, 2), (3, 1))}),
    "rows_of_padding": ((2, 3), 2, (3, 3), 2, {"padding": ((4, 3), (0, 4))}),
}
CASES = {
    note: (*case[:4], {**case[4], "groups": case[1]})
    for note, case in GEOMETRIES.items()
}
BOTH = ("conv2d_filter_grad", "conv2d_input_grad")


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("note", CASES)
def test_a_convolution_agrees_with_the_oracle(note: str, ending: str) -> None:
    """On whole numbers exactly: every result is the sum that defines it."""
    graph = layer(CASES[note], ending)
    assert not wrong(graph, "conv2d", "depthwise", whole="pool" in ending)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("note", CASES)
def test_gradients_agree_with_the_oracle(note: str, parts: str) -> None:
    op, whole = BOTH["dw" not in parts], parts.startswith("relu")
    assert not wrong(gradients(CASES[note], parts), op, "depthwise", whole)


def test_it_is_offered_where_each_filter_has_a_channel_of_its_own() -> None:
    """With tiles of whole pool windows; and it is exact, where exact is asked for."""

    def sizes(c: int, groups: int, k: int, window: int = 2) -> set[object]:
        case = ((12, 12), c, (3, 3), k, {"padding": "same", "groups": groups})
        graph = layer(case, "pool", (window, window))
        found = candidates_of(graph, "conv2d", BATCH, 2)
        mine = [c for c in found if c.schedule["algorithm"] == "depthwise"]
        assert all(c.direct for c in mine)
        return {c.schedule["m"] for c in mine}

    assert sizes(4, 4, 4) == {2, 4}
    assert sizes(4, 4, 4, window=3) == {3}
    assert not sizes(4, 4, 8)
    assert not sizes(4, 2, 4)
    assert not sizes(1, 1, 1)


def test_a_tile_that_does_not_hold_the_pool_is_refused() -> None:
    schedule = {"algorithm": "depthwise", "images": 4, "m": 3}
    graph = layer(CASES["same"], "pool")
    with pytest.raises(CompileError, match="depthwise needs m in \\[2, 4\\].* m = 3"):
        compiled(graph, BATCH, 1, scheduled("conv2d", schedule))
