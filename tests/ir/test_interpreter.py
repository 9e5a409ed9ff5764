"""The interpreter: values, precision, kernels, updates, and what it is fed."""

from typing import Any

import numpy as np
import pytest
from ir_samples import KERNEL, PLANNED, TENSOR
from op_bench import run_op

from convc.ir.errors import RunError
from convc.ir.interpreter import batch_of, interpret
from convc.ir.parser import parse

PARAMETERS = {
    "conv1/kernel": np.ones((3, 3, 1, 2)),
    "fc/kernel": np.arange(24.0).reshape(8, 3) / 8,
    "training/step": np.array(4),
    "training/seed": np.array(11),
}
FEEDS = {"image": np.ones((5, 4, 4, 1)), "labels": np.array([0, 1, 2, 0, 1])}


def test_outputs_and_updates_come_by_name() -> None:
    result = interpret(parse(TENSOR), FEEDS, PARAMETERS)
    assert set(result.outputs) == {"loss", "the logits"}
    assert result.outputs["the logits"].shape == (5, 3)
    assert result.updates == {"training/step": 5}
    assert result.updates["training/step"].dtype == np.int64


def test_the_fed_arrays_are_left_alone() -> None:
    before = {k: v.copy() for k, v in {**FEEDS, **PARAMETERS}.items()}
    interpret(parse(TENSOR), FEEDS, PARAMETERS)
    after = {**FEEDS, **PARAMETERS}
    assert all(np.array_equal(before[k], after[k]) for k in before)


def test_float64_computes_every_f32_value_in_float64() -> None:
    narrow = interpret(parse(TENSOR), FEEDS, PARAMETERS).outputs["loss"]
    wide = interpret(parse(TENSOR), FEEDS, PARAMETERS, float64=True).outputs["loss"]
    assert (narrow.dtype, wide.dtype) == (np.float32, np.float64)
    assert narrow != wide
    assert abs(narrow - wide) < 1e-5


def test_float64_does_not_round_constants_to_float32() -> None:
    (wide,) = run_op("constant", [], [], value=0.1)
    (narrow,) = run_op("constant", [], [], float64=False, value=0.1)
    assert wide == 0.1
    assert narrow == np.float32(0.1)


def test_values_declared_f64_are_so_in_either_mode() -> None:
    for float64 in (False, True):
        (y,) = run_op("negate", ["f64[2]"], [np.array([0.1, 0.2])], float64)
        assert y.dtype == np.float64
        assert y.tolist() == [-0.1, -0.2]


def test_every_value_is_rounded_to_its_type() -> None:
    (y,) = run_op("add", ["f32[1]", "f32[1]"], [np.array([2.0**24]), np.ones(1)], False)
    assert y.dtype == np.float32
    assert y == 2.0**24


def test_a_kernel_means_what_its_body_means() -> None:
    x, w = np.array([[1.0, -2.0, 3.0]]), np.array([[1.0, -1], [2, 0], [0, 1]])
    state = np.ones((3, 2))
    feeds = {"w": w, "m": state, "v": state}
    result = interpret(parse(KERNEL), {"x": x}, feeds)
    assert np.array_equal(result.outputs["y"], np.maximum(x @ w, 0).reshape(1, 1, 2))
    assert np.array_equal(result.updates["m"], w + state)
    assert np.array_equal(result.updates["v"], -(w + state))


def test_a_planned_graph_means_what_it_meant_before() -> None:
    x = np.array([[-1.0, 2, -3, 4]])
    out = interpret(parse(PLANNED), {"x": x}, {}).outputs["y"]
    assert out.tolist() == [[[0, 2], [0, 4]]]


def test_overflow_gives_infinity_without_a_warning() -> None:
    (y,) = run_op("exp", ["f32[1]"], [np.array([1e4])], False)
    assert y == np.inf
    (y,) = run_op("log", ["f32[1]"], [np.zeros(1)])
    assert y == -np.inf


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_any_batch_runs(batch: int) -> None:
    feeds = {"image": np.ones((batch, 4, 4, 1)), "labels": np.zeros(batch, np.int32)}
    out = interpret(parse(TENSOR), feeds, PARAMETERS).outputs["the logits"]
    assert out.shape == (batch, 3)
    assert batch_of(parse(TENSOR), feeds) == batch


def test_without_a_batched_input_the_batch_is_one() -> None:
    graph = parse("graph g() -> () {}")
    assert batch_of(graph, {}) == 1


WRONG = [
    ({"labels": None}, "%labels: i32[N] was not given"),
    ({"fc/kernel": None}, "%fc/kernel: f32[8,3] was not given"),
    (
        {"image": np.ones((5, 4, 4))},
        "%image must be f32[N,4,4,1], got shape (5, 4, 4)",
    ),
    ({"image": np.array(1.0)}, "%image must be f32[N,4,4,1], got shape ()"),
    (
        {"labels": np.zeros(4, int)},
        "all inputs must have one batch size: %image has 5, %labels has 4",
    ),
    (
        {"image": np.ones((0, 4, 4, 1)), "labels": np.zeros(0, int)},
        "a batch has at least 1 image, got 0",
    ),
    ({"fc/kernel": np.ones((3, 8))}, "%fc/kernel must be f32[8,3], got shape (3, 8)"),
    ({"labels": np.full(5, 0.5)}, "%labels must be i32[N], got float64 numbers"),
    ({"image": np.full((5, 4, 4, 1), "a")}, "%image must be f32[N,4,4,1], got <U1"),
    ({"labels": np.array([0, 1, 2, 3, 0])}, "a label must be a class from 0 to 2"),
    ({"labels": np.array([0, 1, 2, -1, 0])}, "one is -1"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_feeds_are_refused(change: dict[str, Any], message: str) -> None:
    given = {**FEEDS, **PARAMETERS, **change}
    arrays = {k: v for k, v in given.items() if v is not None}
    with pytest.raises(RunError) as error:
        interpret(parse(TENSOR), arrays, arrays)
    assert message in str(error.value)


def test_an_input_that_is_fed_holds_its_number_until_given_another() -> None:
    graph = parse("graph g(%p: f32[] = 0.75) -> (y=%1) { %1 = negate(%p) : f32[] }")
    assert interpret(graph, {}, {}).outputs["y"] == -0.75
    assert interpret(graph, {"p": np.float32(2)}, {}).outputs["y"] == -2
