"""Error bounds hold for any order of evaluation, and are tight enough to catch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from random_graphs import Example, graphs

from convc.autodiff import add_gradients
from convc.ir.builder import GraphBuilder
from convc.ir.graph import Attr, Graph, Node, Region, Value
from convc.ir.interpreter import interpret
from convc.ir.parser import parse
from convc.ir.rounding import bounded, explain, within
from convc.ir.rounding_base import DOUBLE, grid_of
from convc.ir.types import TensorType

Array = NDArray[Any]
BATCH = 3


def tensor(text: str) -> TensorType:
    return parse(f"graph g(%x: {text}) -> () {{}}").inputs[0].type


def one_op(op: str, types: Sequence[str], attrs: Mapping[str, Attr]) -> Graph:
    b = GraphBuilder("g")
    values = [b.input(f"a{i}", tensor(t)) for i, t in enumerate(types)]
    for i, value in enumerate(b.emit(op, values, attrs)):
        b.output(f"y{i}", value)
    return b.finish()


# ---- any order of summation ------------------------------------------------


def in_sequence(terms: Array, start: Array) -> Array:
    total = np.broadcast_to(start, terms.shape[1:]).astype(np.float32)
    for term in terms:
        total = total + term
    return total


def shuffled(terms: Array, start: Array) -> Array:
    return in_sequence(np.random.default_rng(5).permutation(terms), start)


def pairwise(terms: Array, start: Array) -> Array:
    while len(terms) > 1:
        if len(terms) % 2:
            terms = np.concatenate([terms, np.zeros_like(terms[:1])])
        terms = terms[::2] + terms[1::2]
    return np.asarray(terms[0] + start)


def largest_first(terms: Array, start: Array) -> Array:
    return in_sequence(np.sort(terms, axis=0)[::-1], start)


ORDERS = [in_sequence, shuffled, pairwise, largest_first]


def conv_block() -> Graph:
    b = GraphBuilder("block")
    x, w = b.input("x", tensor("f32[N,10,10,8]")), b.input("w", tensor("f32[5,5,8,4]"))
    y = b("bias_add", b("conv2d", x, w), b.input("b", tensor("f32[4]")))
    b.output("sum", y)
    b.output("pooled", b("max_pool2d", b("relu", y), window=(2, 2), strides=(2, 2)))
    return b.finish()


def block_data() -> dict[str, Array]:
    rng = np.random.default_rng(11)
    sizes = {"x": (2, 10, 10, 8), "w": (5, 5, 8, 4), "b": (4,)}
    data = {k: rng.standard_normal(s).astype(np.float32) for k, s in sizes.items()}
    return {**data, "b": data["b"] * 100_000}  # what comes first is rounded most often


def products(data: Mapping[str, Array]) -> Array:
    """The terms of the convolution: f32[200, n, 6, 6, 4]."""
    patches = sliding_window_view(data["x"], (5, 5), axis=(1, 2))
    terms = np.einsum("npqcij,ijck->ijcnpqk", patches, data["w"], optimize=False)
    return np.reshape(terms, (200, 2, 6, 6, 4))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bias_first", [True, False])
def test_a_convolution_may_sum_in_any_order(
    order: Callable[[Array, Array], Array], bias_first: bool
) -> None:
    """With the bias first or last, before or after the maximum."""
    data = block_data()
    bounds, terms = bounded(conv_block(), data, {}), products(data)
    zero = np.zeros(4, np.float32)
    total = order(terms, data["b"]) if bias_first else order(terms, zero) + data["b"]
    assert within(total, bounds.outputs["sum"], bounds.output_bounds["sum"])
    windows = order(terms, zero).reshape(2, 3, 2, 3, 2, 4).max(axis=(2, 4))
    late = np.maximum(windows + data["b"], 0)
    assert within(late, bounds.outputs["pooled"], bounds.output_bounds["pooled"])


@pytest.mark.parametrize("order", ORDERS)
def test_a_product_may_be_fused_with_its_addition(
    order: Callable[[Array, Array], Array],
) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((3, 300), (300, 5)))
    graph = one_op("matmul", ["f32[N,300]", "f32[300,5]"], {})
    bounds = bounded(graph, {"a0": a, "a1": b}, {})
    exact = a.T[:, :, None].astype(np.float64) * b[:, None, :]
    fused = np.zeros((3, 5), np.float32)
    for term in exact:
        fused = (fused + term).astype(np.float32)
    for total in (fused, order(exact.astype(np.float32), np.zeros(5, np.float32))):
        assert within(total, bounds.outputs["y0"], bounds.output_bounds["y0"])


@pytest.mark.parametrize("op", ["matmul", "conv2d"])
def test_a_relative_error_of_1e_4_is_rejected(op: str) -> None:
    """Over 800 terms of one sign, where the bound is relative to the result."""
    rng, types = np.random.default_rng(2), ["f32[N,800]", "f32[800,8]"]
    if op == "conv2d":
        types = ["f32[N,6,6,32]", "f32[5,5,32,8]"]
    graph = one_op(op, types, {})
    feeds = {
        v.name: rng.random(v.type.bind(BATCH), np.float32) + 1 for v in graph.inputs
    }
    bounds, result = bounded(graph, feeds, {}), interpret(graph, feeds, {})
    assert bounds.faults(result) == []
    planted = replace(result, outputs={"y0": result.outputs["y0"] * np.float32(1.0001)})
    (fault,) = bounds.faults(planted)
    assert fault.startswith("y0: ")
    one = result.outputs["y0"].copy()
    one.flat[7] *= np.float32(1.0001)
    assert " 1 of " in bounds.faults(replace(result, outputs={"y0": one}))[0]


# ---- exactness ------------------------------------------------------------


def test_integers_too_large_for_float32_are_not_called_exact() -> None:
    graph = one_op("matmul", ["f32[N,8]", "f32[8,1]"], {})
    feeds = {"a0": np.full((1, 8), 4097.0), "a1": np.full((8, 1), 4097.0)}
    assert bounded(graph, feeds, {}).output_bounds["y0"].all()


def test_multiples_of_a_power_of_two_are_as_good_as_integers() -> None:
    assert grid_of(np.array([0.75, -3.0, 0.0])) == 0.25
    assert grid_of(np.array([0.1])) == pytest.approx(2.0**-55)
    assert grid_of(np.array([np.inf])) == 0
    graph = one_op("matmul", ["f32[N,8]", "f32[8,1]"], {})
    feeds = {"a0": np.full((1, 8), 0.75), "a1": np.full((8, 1), 2.5)}
    assert not bounded(graph, feeds, {}).output_bounds["y0"].any()


# ---- whole graphs ----------------------------------------------------------


def training_step(optimizer: str = "adam") -> Graph:
    """Conv, bias, relu, pool, dense, loss, gradients and an optimizer."""
    b = GraphBuilder("step")
    x, labels = b.input("x", tensor("f32[N,8,8,1]")), b.input("t", tensor("i32[N]"))
    parameters = [
        b.parameter(name, tensor(t))
        for name, t in (("w", "f32[3,3,1,6]"), ("b", "f32[6]"), ("v", "f32[96,10]"))
    ]
    w, bias, v = parameters
    y = b("bias_add", b("conv2d", x, w, padding="same"), bias)
    y = b("max_pool2d", b("relu", y), window=(2, 2), strides=(2, 2))
    logits = b("matmul", b("reshape", y, shape=("N", 96)), v)
    loss = b("reduce_mean", b("softmax_cross_entropy", logits, labels), axes=(0,))
    rate = b("constant", value=0.1)
    for p, g in zip(parameters, add_gradients(b, loss, parameters), strict=True):
        assert g is not None
        b.output(f"d{p.name}", g)
        if optimizer == "sgd":
            b.update(p, b("sgd", p, g, rate))
            continue
        slots = [b.parameter(f"{p.name}/{s}", p.type, trainable=False) for s in "mv"]
        step = b("constant", value=0.0, dtype="i64")
        new = b.emit("adam", [p, g, *slots, rate, step], {})
        for target, value in zip((p, *slots), new, strict=True):
            b.update(target, value)
    b.output("loss", loss)
    return b.finish()


def step_data(graph: Graph, n: int = 5) -> tuple[dict[str, Array], dict[str, Array]]:
    rng = np.random.default_rng(8)
    inputs: dict[str, Array] = {
        "x": rng.random((n, 8, 8, 1), np.float32),
        "t": rng.integers(0, 10, n).astype(np.int32),
    }
    parameters: dict[str, Array] = {}
    for p in graph.parameters:
        shape = p.value.type.bind(n)
        drawn = rng.standard_normal(shape).astype(np.float32) / 4
        parameters[p.value.name] = drawn if p.trainable else np.zeros(shape, np.float32)
    return inputs, parameters


def kernelized(graph: Graph) -> Graph:
    """The same graph as one kernel."""
    given = (*graph.inputs, *(p.value for p in graph.parameters))
    live = {v.name: v for _, v in (*graph.outputs, *graph.updates)}
    inner = {v.name: Value(f"k/{v.name}", v.type) for v in graph.values()}
    nodes = tuple(
        replace(
            n,
            operands=tuple(inner[v.name] for v in n.operands),
            results=tuple(inner[v.name] for v in n.results),
        )
        for n in graph.nodes
    )
    region = Region(
        tuple(inner[v.name] for v in given), nodes, tuple(inner[k] for k in live)
    )
    kernel = Node("kernel", given, tuple(live.values()), region=region)
    return replace(graph, nodes=(kernel,))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_float32_training_step_is_within_its_bounds(optimizer: str) -> None:
    """Also with the batch in another order; the references are the interpreter's."""
    graph = training_step(optimizer)
    inputs, parameters = step_data(graph)
    bounds = bounded(graph, inputs, parameters)
    wide = interpret(graph, inputs, parameters, float64=True)
    np.testing.assert_equal(bounds.outputs, wide.outputs)
    np.testing.assert_equal(bounds.updates, wide.updates)
    assert bounds.faults(interpret(graph, inputs, parameters)) == []
    turned = {k: a[::-1] for k, a in inputs.items()}
    assert bounds.faults(interpret(graph, turned, parameters)) == []
    assert bounds.output_bounds["loss"] < 1e-4


def test_float64_bounds_catch_what_float32_bounds_cannot() -> None:
    """With unit 2**-53 two graphs are compared far below float32's roundoff."""
    graph = training_step("sgd")
    inputs, parameters = step_data(graph)
    bounds = bounded(graph, inputs, parameters, unit=DOUBLE)
    turned = {k: a[::-1] for k, a in inputs.items()}
    result = interpret(graph, turned, parameters, float64=True)
    assert bounds.faults(result) == []
    planted = {**result.updates, "w": result.updates["w"] * (1 + 1e-8)}
    assert len(bounds.faults(replace(result, updates=planted))) == 1


def test_a_kernel_is_bounded_by_its_region() -> None:
    graph = training_step()
    inputs, parameters = step_data(graph)
    flat, fused = (bounded(g, inputs, parameters) for g in (graph, kernelized(graph)))
    np.testing.assert_equal(fused.output_bounds, flat.output_bounds)
    np.testing.assert_equal(fused.update_bounds, flat.update_bounds)


def test_inputs_that_float32_cannot_hold_count_as_rounded() -> None:
    graph = one_op("copy", ["f32[N,2]"], {})
    bounds = bounded(graph, {"a0": np.array([[0.1, 0.5]])}, {})
    stored = abs(0.1 - float(np.float32(0.1)))
    assert bounds.output_bounds["y0"][0] == pytest.approx([stored, 0], rel=1e-6, abs=0)


@settings(max_examples=60)
@given(graphs(loss=True))
def test_random_graphs_and_their_gradients_are_within_their_bounds(
    example: Example,
) -> None:
    """Equal where the drawer promises that nothing is rounded."""
    assert example.loss is not None
    forward = (example.graph, example.inputs, example.parameters)
    if example.exact:
        bounds = bounded(*forward)
        assert not any(b.any() for b in bounds.output_bounds.values())
    b = GraphBuilder(example.graph.name, example.graph)
    gradients = add_gradients(b, example.loss, example.trainable)
    for value, gradient in zip(example.trainable, gradients, strict=True):
        if gradient is not None:
            b.output(f"d{value.name}", gradient)
    feeds = (b.finish(), example.inputs, example.parameters)
    assert bounded(*feeds).faults(interpret(*feeds)) == []
    wide = interpret(*feeds, float64=True)
    assert bounded(*feeds, unit=DOUBLE).faults(wide) == []


# ---- decisions -------------------------------------------------------------


def test_a_window_with_two_taps_within_their_errors_is_undecided() -> None:
    """Its gradient may go to either tap; a decided window's bound is 0."""
    b = GraphBuilder("pool")
    x, dy = b.input("x", tensor("f32[N,2,4,1]")), b.input("dy", tensor("f32[N,1,2,1]"))
    pool: dict[str, Attr] = {"window": (2, 2), "strides": (2, 2)}
    index = b("max_pool2d_argmax", x, **pool)
    b.output("index", index)
    b.output("dx", b("max_pool2d_grad", index, dy, size=(2, 4), **pool))
    rows = [[0.1 + 1e-9, 0.1, 3.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    data = {"x": np.array(rows).reshape(1, 2, 4, 1), "dy": np.full((1, 1, 2, 1), 5.0)}
    bounds = bounded(b.finish(), data, {})
    assert bounds.output_bounds["index"].ravel().tolist() == [1, 0]
    expected = [[5, 5, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(bounds.output_bounds["dx"][0, ..., 0], expected)


def test_relu_grad_near_zero_is_bounded_by_all_of_dy() -> None:
    b = GraphBuilder("g")
    y, dy = b.input("y", tensor("f32[N,3]")), b.input("dy", tensor("f32[N,3]"))
    b.output("dx", b("relu_grad", b("relu", y), dy))
    data = {"y": np.array([[1e-60, 1.1, -1.1]]), "dy": np.full((1, 3), 4.0)}
    (bound,) = bounded(b.finish(), data, {}).output_bounds["dx"]
    assert bound == pytest.approx([4.0, 0.0, 0.0])


def test_nothing_is_said_of_what_may_overflow_or_be_nan() -> None:
    for op, value in (("exp", 89.0), ("log", -1.0)):
        bounds = bounded(one_op(op, ["f32[N]"], {}), {"a0": np.array([value])}, {})
        assert np.isposinf(bounds.output_bounds["y0"]).all()


# ---- the report ------------------------------------------------------------


def test_explain_names_the_worst_element_in_units_of_its_bound() -> None:
    reference, bound = np.array([[1.0, 2.0]]), np.array([[0.5, 0.25]])
    assert explain("y", np.array([[1.0, 3.0]]), reference, bound) == (
        "y: 1 of 2 elements are out of bounds; worst at [0, 1]: 3 for 2, "
        "error 1 is 4 times the bound 0.25"
    )
    assert "0 of 2" in explain("y", reference, reference, 0 * bound)
    assert "is inf times the bound 0" in explain(
        "y", reference + 1, reference, 0 * bound
    )


def test_shapes_must_agree() -> None:
    assert not within(np.zeros(2), np.zeros(3), np.zeros(3))
    assert explain("y", np.zeros(2), np.zeros(3), np.zeros(3)) == (
        "y: the result must have shape (3,), has (2,)"
    )


def test_infinities_and_nan_agree_with_themselves_only() -> None:
    special = np.array([np.inf, -np.inf, np.nan])
    assert within(special, special, np.zeros(3))
    assert not within(special[:1], special[1:2], np.zeros(1))
    assert not within(np.zeros(1), special[2:], np.zeros(1))
    assert "1 of 1" in explain("y", np.zeros(1), special[2:], np.zeros(1))
    assert within(np.zeros(1), special[2:], np.array([np.inf]))
