"""A program for one image computes each convolution as one product of its pixels."""

import pytest
from compiled import compiled, faults, inputs_for, parameters_for, ran
from layer_cases import POOLED, layer
from schedules import candidates_of, scheduled
from window_cases import CONVOLUTIONS

from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.rounding import bounded

ONE = {"algorithm": "im2col_pixels", "images": 1}
GROUPED = [n for n, c in (CONVOLUTIONS | POOLED).items() if "groups" in c[4]]
PLAIN = {name: case for name, case in CONVOLUTIONS.items() if name not in GROUPED}
PLAIN_POOLED = [name for name in POOLED if name not in GROUPED]


def agrees(graph: Graph, *workers: int) -> None:
    """Whole numbers come out exactly, with every number of workers."""
    for threads in workers:
        program = compiled(graph, 1, threads, scheduled("conv2d", ONE))
        for whole in (True, False):
            feeds, given = inputs_for(graph, 1, whole), parameters_for(graph, whole)
            bounds = bounded(program.graph, feeds, given)
            program.load(given)
            for _ in range(2):  # nothing is left over from the first
                assert not faults(graph, bounds, ran(program, feeds))


@pytest.mark.parametrize("ending", ["", "bias relu", "bias pool argmax relu"])
@pytest.mark.parametrize("note", PLAIN)
def test_it_agrees_with_the_oracle(note: str, ending: str) -> None:
    agrees(layer(PLAIN[note], ending, (1, 1)), 1)


@pytest.mark.parametrize("window", [(2, 2), (1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("note", PLAIN_POOLED)
def test_pooling_agrees_with_the_oracle(note: str, window: tuple[int, int]) -> None:
    for ending in ("pool", "bias pool argmax relu", "bias sum tanh"):
        agrees(layer(POOLED[note], ending, window), 1)


def test_of_several_workers_one_takes_the_image() -> None:
    agrees(layer(POOLED["as_in_two_conv"], "bias pool argmax relu"), 2, 3)


def offered(graph: Graph, batch: int) -> set[object]:
    return {c.schedule["algorithm"] for c in candidates_of(graph, "conv2d", batch, 1)}


def test_it_is_for_one_image_and_transforms_are_not() -> None:
    graph = layer(((8, 8), 32, (5, 5), 32, {"padding": "same"}))
    assert {"winograd", "dft"} <= offered(graph, 2)
    assert "im2col_pixels" not in offered(graph, 2)
    assert "im2col_pixels" in offered(graph, 1)
    assert not {"winograd", "dft"} & offered(graph, 1)
    assert "im2col_pixels" not in offered(layer(CONVOLUTIONS["groups"]), 1)
    with pytest.raises(CompileError, match="unknown algorithm 'im2col_pixels'"):
        compiled(graph, 2, 1, scheduled("conv2d", ONE))


def test_it_is_one_product_and_few_calls() -> None:
    graph = layer(
        ((12, 12), 8, (5, 5), 16, {"padding": "same"}), "bias pool relu", (2, 2)
    )
    program = compiled(graph, 1, 1, scheduled("conv2d", ONE))
    (place,) = (k for k in program.kernels if "conv" in k.function)
    lines = program.source.splitlines()[place.first - 1 : place.last]
    calls = [line.strip() for line in lines if "yield call(" in line]
    assert sum(c.startswith("yield call(matmul") for c in calls) == 1
    assert len(calls) == 7  # clear, copy, windows, product, pool, bias, ReLU
