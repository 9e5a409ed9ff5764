"""Convolutions and their gradients as products of frequencies, within their bounds."""

from typing import Any

import numpy as np
import pytest
from algorithms import BATCH, wrong
from compiled import compiled, inputs_for, parameters_for, ran
from layer_cases import PARTS, gradients, layer
from schedules import candidates_of, scheduled

from convc.backends.cpu.prelude import DFT
from convc.ir.dft import Dft, Line, back_of, filters_of, forward_of
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs
from convc.ir.rounding import bounded

GEOMETRIES: dict[str, tuple[Any, ...]] = {
    "same": ((6, 7), 24, (5, 5), 20, {"padding": "same"}),
    "valid": ((10, 9), 40, (5, 4), 48, {}),
    "strided": ((9, 8), 40, (5, 5), 64, {"padding": "same", "strides": (1, 2)}),
    "dilated": ((9, 7), 30, (5, 5), 30, {"padding": "same", "dilations": (1, 2)}),
    "asymmetric": ((6, 7), 24, (5, 5), 24, {"padding": ((0, 3), (4, 1))}),
}
ENDINGS = ("", "bias", "relu", "bias pool argmax relu", "pool", "bias sum tanh")


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda e: e or "bare")
@pytest.mark.parametrize("note", GEOMETRIES)
def test_a_convolution_agrees_with_the_oracle(note: str, ending: str) -> None:
    assert not wrong(layer(GEOMETRIES[note], ending), "conv2d", "dft")


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("note", GEOMETRIES)
def test_gradients_agree_with_the_oracle(note: str, parts: str) -> None:
    op = "conv2d_filter_grad" if "dw" in parts else "conv2d_input_grad"
    assert not wrong(gradients(GEOMETRIES[note], parts), op, "dft")


@pytest.mark.parametrize("note", GEOMETRIES)
def test_errors_are_those_of_float32(note: str) -> None:
    """Beside the largest result, far below what the bound allows."""
    for graph, op in (
        (layer(GEOMETRIES[note]), "conv2d"),
        (gradients(GEOMETRIES[note], "dw dx"), "conv2d_filter_grad"),
    ):
        every = candidates_of(graph, op, BATCH, 2)
        schedule = next(c.schedule for c in every if c.schedule["algorithm"] == "dft")
        program = compiled(graph, BATCH, 2, scheduled(op, schedule))
        feeds, given = inputs_for(graph, BATCH), parameters_for(graph)
        program.load(given)
        found = ran(program, feeds).outputs
        exact = bounded(graph, feeds, given).outputs
        for name, reference in exact.items():
            error = np.abs(found[name] - reference).max()
            assert error <= 1e-5 * np.abs(reference).max(), name


def offered(case: tuple[Any, ...], ending: str = "") -> bool:
    found = candidates_of(layer(case, ending), "conv2d", BATCH, 2)
    return any(c.schedule["algorithm"] == "dft" for c in found)


def test_it_is_offered_where_it_saves_arithmetic_and_the_bound_allows_it() -> None:
    same = {"padding": "same"}
    assert offered(((14, 14), 32, (5, 5), 64, same))
    assert not offered(((14, 14), 32, (1, 1), 64, same))
    assert not offered(((14, 14), 2, (5, 5), 2, same)), "transforms take more"
    assert not offered(((14, 14), 32, (5, 5), 64, {**same, "groups": 2}))
    assert not offered(((28, 28), 64, (5, 5), 64, same)), "the bound is too loose"


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ({"algorithm": "dft", "images": 2, "filters": 7}, "7 filters .* divide its 20"),
        ({"algorithm": "dft", "images": 2}, "wants .*'filters'"),
        ({"algorithm": "dft", "images": 2, "filters": 0}, "positive filters, has 0"),
    ],
)
def test_a_schedule_that_cannot_run_is_refused(schedule: Attrs, reason: str) -> None:
    passes = scheduled("conv2d", schedule)
    with pytest.raises(CompileError, match=reason):
        compiled(layer(GEOMETRIES["same"]), BATCH, 1, passes)


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("cols", [Line(9, 2, 8, 1, 1, 0), Line(8, 3, 4, 2, 1, 2)])
def test_the_emitted_transforms_are_those_of_the_algebra(cols: Line, pool: int) -> None:
    """Outputs in the order of the pool's taps; columns of 9 and of 10 points."""
    rows = Line(7, 3, 4, 2, 1, 1)
    dft, names = Dft(rows, cols), {"np": np}
    exec(DFT, names)
    told = [
        (a.size, a.taps, a.outputs, a.stride, a.dilation, a.before, a.points, pool)
        for a in (rows, cols)
    ]
    forward, filters, back = names["dft_matrices"](*told)
    assert np.allclose(filters, filters_of(dft), rtol=0, atol=1e-7)
    order = np.arange(4 * cols.outputs).reshape(4 // pool, pool, -1, pool)
    places = {"image": (7, cols.size), "outputs": (4, cols.outputs)}
    for steps, (h, w), wanted in (
        (forward, places["image"], forward_of(dft).composed()),
        (
            back,
            places["outputs"],
            back_of(dft).composed()[:, order.transpose(1, 0, 3, 2).ravel()],
        ),
    ):
        image = np.eye(h * w, dtype=np.float32).reshape(h, w, h * w)
        half = np.empty((rows.points, w, h * w), np.float32)
        made = np.empty((dft.count, h * w), np.float32)
        for matrix, given, result in names["frequencies"](image, steps, half, made):
            assert matrix.dtype == np.float32
            np.matmul(matrix, given, out=result)
        assert np.allclose(made, wanted, rtol=0, atol=1e-6)
