"""Each op's error rule is sound on disturbed operands and exact on integers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convc.ir.builder import GraphBuilder
from convc.ir.graph import Attr, Graph, Node, Value
from convc.ir.interpreter import Result, batch_of, interpret
from convc.ir.ops import OPS
from convc.ir.parser import parse
from convc.ir.rounding import bounded, explain, within
from convc.ir.rounding_base import Rounded, Site, contenders
from convc.ir.rounding_rules import RULES
from convc.ir.types import DType, TensorType

Array = NDArray[Any]
UNIT = 2.0**-24
IMAGE, SCALAR = "f32[N,6,6,4]", "f32[]"
POOL: dict[str, Attr] = {"window": (3, 3), "strides": (2, 2), "padding": "same"}


@dataclass(frozen=True)
class Case:
    """An op with operand types and what fills them ("": any float)."""

    types: tuple[str, ...]
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    domains: tuple[str, ...] = ()


def same(*types: str, **attrs: Attr) -> Case:
    return Case(types, attrs)


def positive(*types: str) -> Case:
    return Case(types, {}, ("positive",) * len(types))


CONV: dict[str, Attr] = {"padding": "same", "strides": (2, 2), "groups": 2}
OPTIMIZED = ("f32[4,5]",) * 2
CASES = {
    "conv2d": same(IMAGE, "f32[3,3,2,6]", **CONV),
    "conv2d_input_grad": same("f32[N,3,3,6]", "f32[3,3,2,6]", size=(6, 6), **CONV),
    "conv2d_filter_grad": same(IMAGE, "f32[N,3,3,6]", kernel=(3, 3), **CONV),
    "matmul": same("f32[N,40]", "f32[7,40]", transpose_b=True),
    "multiply": same("f32[N,5]", "f32[5]"),
    "add": same("f32[N,5]", "f32[5]"),
    "subtract": same("f32[N,5]", "f32[1,5]"),
    "bias_add": same(IMAGE, "f32[4]"),
    "reshape": same(IMAGE, shape=("N", 144)),
    "copy": same(IMAGE),
    "transpose": same(IMAGE, perm=(0, 3, 1, 2)),
    "concat": same("f32[N,3]", "f32[N,4]", axis=1),
    "slice": same(IMAGE, axis=1, start=2, size=3),
    "pad": same(IMAGE, pads=(0, 0, 1, 0, 0, 2, 0, 0)),
    "broadcast_to": same("f32[4]", shape=("N", 3, 4), axes=(0, 1)),
    "negate": same("f32[N,5]"),
    "reduce_sum": same(IMAGE, axes=(0, 1, 2)),
    "reduce_mean": same(IMAGE, axes=(1, 2)),
    "reduce_variance": same(IMAGE, axes=(0, 1, 2)),
    "reduce_mean_grad": same("f32[4]", shape=("N", 3, 4), axes=(0, 1)),
    "avg_pool2d": same(IMAGE, **POOL),
    "avg_pool2d_grad": same("f32[N,3,3,4]", size=(6, 6), **POOL),
    "max_pool2d": same(IMAGE, **POOL),
    "max_pool2d_argmax": same(IMAGE, **POOL),
    "max_pool2d_grad": Case(
        ("u8[N,3,3,4]", "f32[N,3,3,4]"), {"size": (6, 6), **POOL}, ("below 9", "")
    ),
    "exp": same("f32[N,5]"),
    "log": positive("f32[N,5]"),
    "sqrt": positive("f32[N,5]"),
    "tanh": same("f32[N,5]"),
    "sigmoid": same("f32[N,5]"),
    "cos": same("f32[N,5]"),
    "divide": Case(("f32[N,5]", "f32[5]"), {}, ("", "positive")),
    "cast": same("f32[N,5]", dtype="i32"),
    "constant": same(value=0.1),
    "maximum": same("f32[N,5]", "f32[5]"),
    "minimum": same("f32[N,5]", "f32[5]"),
    "relu": same("f32[N,5]"),
    "relu_grad": same("f32[N,5]", "f32[N,5]"),
    "argmax": same("f32[N,5]"),
    "greater_equal": same("f32[N,5]", "f32[5]"),
    "equal": same("f32[N,5]", "f32[5]"),
    "dropout_mask": Case(
        ("i64[]", "i64[]"), {"shape": ("N", 5), "keep": 0.5, "stream": 3}
    ),
    "apply_mask": same("f32[N,5]", "bool[N,5]", scale=1 / 0.75),
    "keep_mask": Case(
        ("i64[]", "i64[]", SCALAR),
        {"shape": ("N", 5), "stream": 3},
        ("", "", "positive"),
    ),
    "apply_keep": Case(("f32[N,5]", "bool[N,5]", SCALAR), {}, ("", "", "positive")),
    "softmax": same("f32[N,9]"),
    "log_softmax": same("f32[N,9]"),
    "softmax_cross_entropy": Case(("f32[N,9]", "i32[N]"), {}, ("", "label 9")),
    "softmax_cross_entropy_grad": Case(
        ("f32[N,9]", "i32[N]", "f32[N]"), {}, ("", "label 9", "")
    ),
    "batch_norm": Case((IMAGE, *["f32[4]"] * 4), {}, ("", "", "", "", "positive")),
    "moving_average": same("f32[4]", "f32[4]", momentum=0.99),
    "sgd": same(*OPTIMIZED, SCALAR, weight_decay=0.01),
    "momentum": same(*OPTIMIZED, OPTIMIZED[0], SCALAR, nesterov=True),
    "adam": Case(
        (*OPTIMIZED, *OPTIMIZED, SCALAR, "i64[]"),
        {"weight_decay": 0.01, "decoupled": True},
        ("", "near 0", "near 0", "square", "", "step"),
    ),
}
BATCH = 3


def tensor(text: str) -> TensorType:
    return parse(f"graph g(%x: {text}) -> () {{}}").inputs[0].type


def one_op(op: str, types: Sequence[str], attrs: Mapping[str, Attr]) -> Graph:
    b = GraphBuilder("g")
    values = [b.input(f"a{i}", tensor(t)) for i, t in enumerate(types)]
    for i, value in enumerate(b.emit(op, values, attrs)):
        b.output(f"y{i}", value)
    return b.finish()


def noisy(
    rng: np.random.Generator, of: TensorType, domain: str, scale: float, coarse: bool
) -> tuple[Array, Rounded]:
    """What a program has, and a reference that may be off, by at most its error."""
    shape = of.bind(BATCH)
    if of.dtype is DType.BOOL:
        mask = rng.integers(0, 2, shape).astype(bool)
        flipped = (rng.random(shape) < 0.2) & (scale > 0)
        return mask, Rounded(mask ^ flipped, flipped.astype(np.float64))
    if domain.startswith("below"):
        top = int(domain.split()[1])
        index = rng.integers(0, top, shape)
        other = np.where(rng.random(shape) < 0.3, rng.integers(0, top, shape), index)
        other = other if scale else index
        kind = of.dtype.numpy
        return index.astype(kind), Rounded(other.astype(kind), 1.0 * abs(other - index))
    if not of.dtype.is_float:
        top = int(domain.split()[1]) if domain.startswith("label") else 50
        exact = rng.integers(0, top, shape).astype(of.dtype.numpy)
        return exact, Rounded(exact, np.zeros(shape))
    actual = rng.integers(-4, 5, shape) / 2 if coarse else rng.standard_normal(shape)
    if domain in ("near 0", "square"):  # gradients that vanish but for their error
        actual = actual * (rng.random(shape) < 0.5) * 1e-3
    if domain in ("positive", "square"):
        actual = actual**2 + (0.3 if domain == "positive" else 0)
    actual = actual.astype(np.float32)
    error = scale * rng.integers(0, 3, shape) * (0.5 if coarse else rng.random(shape))
    value = actual + error * rng.choice([-1.0, 0.3, 1.0], shape)
    if domain == "square":
        value = np.maximum(value, 0)
    value = np.asarray(value, np.float64)
    return actual, Rounded(value, np.maximum(error, np.abs(value - actual)))


def storage(value: Value, array: Array) -> Array:
    return np.asarray(array).astype(value.type.dtype.numpy)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-2, 0.5])
@pytest.mark.parametrize("op", CASES)
def test_float32_on_disturbed_operands_stays_within_the_bound(
    op: str, scale: float
) -> None:
    """Operands off by their errors, float32 arithmetic on top; ties among the data."""
    case = CASES[op]
    (node,) = one_op(op, case.types, case.attrs).nodes
    domains = case.domains or ("",) * len(case.types)
    rng = np.random.default_rng(sum(map(ord, op)))
    for trial in range(24):
        pairs = [
            noisy(rng, tensor(t), domain, scale, coarse=trial % 2 == 0)
            for t, domain in zip(case.types, domains, strict=True)
        ]
        rounded = tuple(r for _, r in pairs)
        with np.errstate(all="ignore"):
            wide = evaluate(node, [r.value for r in rounded])
            site = Site(node, rounded, wide, BATCH, UNIT)
            settled = site.settle(RULES[op](site))
            narrow = evaluate(node, [a for a, _ in pairs], narrow=True)
        for result, actual, value in zip(settled, narrow, node.results, strict=True):
            assert result.error.shape == actual.shape
            assert within(actual, result.value, result.error), explain(
                value.name, actual, result.value, result.error
            )
            if not scale and op not in ("divide", "adam"):
                assert np.isfinite(result.error).all()


def evaluate(
    node: Node, arrays: Sequence[Array], narrow: bool = False
) -> tuple[Array, ...]:
    out = OPS[node.op].evaluate(arrays, node.attrs, BATCH)
    results = out if isinstance(out, tuple) else (out,)
    if narrow:
        return tuple(map(storage, node.results, results))
    return tuple(map(np.asarray, results))


def test_every_op_has_a_rule_and_a_case() -> None:
    assert set(RULES) == set(OPS) == set(CASES)


@pytest.mark.parametrize("op", [op for op in CASES if OPS[op].exact])
def test_integers_are_exact_under_exact_ops(op: str) -> None:
    """The bound is 0 and float32 equals the reference."""
    case = CASES[op]
    attrs = {**case.attrs, "scale": 2.0} if op == "apply_mask" else case.attrs
    attrs = {**attrs, "value": 3.0} if op == "constant" else attrs
    graph, rng = one_op(op, case.types, attrs), np.random.default_rng(1)
    feeds = {
        v.name: rng.integers(0, 2 if v.type.dtype is DType.BOOL else 5, shape).astype(
            v.type.dtype.numpy
        )
        for v in graph.inputs
        for shape in [v.type.bind(BATCH)]
    }
    bounds = bounded(graph, feeds, {})
    result = interpret(graph, feeds, {})
    assert not bounds.output_bounds["y0"].any()
    np.testing.assert_array_equal(result.outputs["y0"], bounds.outputs["y0"])


HALVES = ("bf16", "f16")
IN_HALF = [
    op
    for op, case in CASES.items()
    if any(t.startswith("f32") for t in case.types) and "f32[]" not in case.types
]
"""Ops on floats; optimizers are for f32 alone."""


def half_case(op: str, half: str) -> Graph:
    types = [t.replace("f32", half) for t in CASES[op].types]
    return one_op(op, types, CASES[op].attrs)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("op", IN_HALF)
def test_what_is_stored_in_16_bits_stays_within_the_bound(op: str, half: str) -> None:
    """Rounded to the nearest, or not at all where a kernel hands it on."""
    graph, rng = half_case(op, half), np.random.default_rng(sum(map(ord, op)))
    domains = CASES[op].domains or ("",) * len(CASES[op].types)
    (node,) = graph.nodes
    for _ in range(8):
        feeds = {
            v.name: noisy(rng, v.type, domain, 0.0, False)[0].astype(v.type.dtype.numpy)
            for v, domain in zip(graph.inputs, domains, strict=True)
        }
        bounds = bounded(graph, feeds, {})
        assert not bounds.faults(interpret(graph, feeds, {}))
        wide = [
            a.astype(np.float32) if v.type.dtype.is_half else a
            for v, a in zip(graph.inputs, feeds.values(), strict=True)
        ]
        with np.errstate(all="ignore"):
            out = OPS[op].evaluate(wide, node.attrs, batch_of(graph, feeds))
        assert not bounds.faults(Result({"y0": np.asarray(out)}, {}))


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("op", [op for op in IN_HALF if OPS[op].exact])
def test_small_integers_are_exact_in_16_bits_too(op: str, half: str) -> None:
    scale = {"scale": 2.0} if op == "apply_mask" else {}
    types = [t.replace("f32", half) for t in CASES[op].types]
    graph = one_op(op, types, {**CASES[op].attrs, **scale})
    rng = np.random.default_rng(1)
    feeds = {
        v.name: rng.integers(0, 2, v.type.bind(BATCH)).astype(v.type.dtype.numpy)
        for v in graph.inputs
    }
    bounds = bounded(graph, feeds, {})
    assert not bounds.output_bounds["y0"].any()
    np.testing.assert_array_equal(
        interpret(graph, feeds, {}).outputs["y0"].astype(np.float64),
        bounds.outputs["y0"],
    )


def test_exact_ties_are_decided_for_the_first() -> None:
    low = np.array([[2.0, 1.0, 0.0], [2.0, 2.0, 0.5], [1.0, 2.0, 0.0]])
    high = low + np.array([[0, 0, 0.5], [0, 0, 0], [0.5, 0, 1]])
    expected = [[True, False, True], [False, True, True], [False, False, True]]
    assert contenders(low, high).tolist() == expected


@pytest.mark.parametrize("size", [1e19, 3e19, 1e21])
def test_adam_may_lose_a_gradient_whose_square_overflows(size: float) -> None:
    """Then v is infinite, and the parameter stays; whichever factor comes first."""
    (node,) = one_op("adam", ["f32[1]"] * 4 + [SCALAR, "i64[]"], {}).nodes
    exact = [np.ones(1), np.full(1, size), np.zeros(1), np.zeros(1), np.array(1e-3)]
    operands = [*exact, np.array(0, np.int64)]
    rounded = tuple(Rounded(a, np.zeros(a.shape)) for a in operands)
    site = Site(node, rounded, evaluate(node, operands), 1, UNIT)
    with np.errstate(all="ignore"):
        moved, _, second = site.settle(RULES["adam"](site))
    lost = size * size >= 2.0**128
    assert np.isposinf(second.error).all() == lost
    assert (moved.low <= 1.0 <= moved.high).all() == lost


@pytest.mark.parametrize("actual", [-1e-7, -1e-12, 0.0, 1e-12, 1e-7])
def test_adam_where_v_vanishes_moves_by_at_most_twice_its_rate(actual: float) -> None:
    """A gradient of 0 ± 1e-7 may move a parameter by the rate, either way."""
    (node,) = one_op("adam", ["f32[1]"] * 4 + [SCALAR, "i64[]"], {}).nodes
    exact = [np.ones(1), np.zeros(1), np.zeros(1), np.zeros(1), np.array(1e-3)]
    operands = [*exact, np.array(0, np.int64)]
    errors = [np.zeros(1), np.full(1, 1e-7), *[np.zeros(1)] * 2, *[np.zeros(())] * 2]
    rounded = tuple(map(Rounded, operands, errors))
    site = Site(node, rounded, evaluate(node, operands), 1, UNIT)
    with np.errstate(all="ignore"):
        moved, *_ = site.settle(RULES["adam"](site))
    assert 0.9e-3 < moved.error[0] < 2.1e-3
    with np.errstate(all="ignore"):
        operands[1] = np.array([actual])
        narrow = [a.astype(np.float32) for a in operands[:5]] + operands[5:]
        assert within(evaluate(node, narrow)[0], moved.value, moved.error)
