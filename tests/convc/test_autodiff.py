"""Gradients agree with finite differences and with torch's autograd."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from op_bench import ROUNDOFF, Array, Case, tensor, weighted_sum, wide_tensor
from op_cases import CASES

from convc.autodiff import add_gradients
from convc.ir.builder import GraphBuilder
from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Loc, Value
from convc.ir.interpreter import interpret
from convc.ir.ops import OPS
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.ir.verifier import verify

NO_GRADIENT = {
    *("adam", "momentum", "sgd", "moving_average"),
    *("cos", "max_pool2d_grad", "softmax_cross_entropy_grad"),
}
STEP = 2.0**-17
"""Near the cube root of 2**-53, where truncation and rounding are about equal."""


def _flows(case: Case) -> bool:
    op, types = OPS[case.op], case.tensors
    result = op.infer(types, op.check(types, case.attrs))[0]
    return result.dtype.is_float and any(t.dtype.is_float for t in types)


SMOOTH = [c for c in CASES if _flows(c) and c.op not in NO_GRADIENT]
UNMOVED = {"relu_grad": "a0", "apply_keep": "a2"}
"""Operands that get no gradient though the result moves with them: the one only where
it steps, and on the average of all masks the other not at all."""
ROUGH = {c.op: c for c in CASES if c.op in NO_GRADIENT}


def one_op_loss(case: Case) -> tuple[GraphBuilder, list[Value], Value]:
    """A builder that holds sum(op(a0, a1, …) · weights), the operands and the sum."""
    b = GraphBuilder("loss")
    b.input("images", tensor("u8[N]"))
    operands = [b.input(f"a{i}", t) for i, t in enumerate(case.tensors)]
    (y,) = b.emit(case.op, operands, case.attrs)
    loss = weighted_sum(b, y)
    b.output("loss", loss)
    b.output("y", y)
    return b, operands, loss


def feeds_of(case: Case, graph: Graph) -> dict[str, Array]:
    """Operands for the case and weights between 1/2 and 3/2."""
    feeds: dict[str, Array] = {f"a{i}": a for i, a in enumerate(case.arrays())}
    weights = graph.inputs[-1].type.bind(case.batch)
    feeds["weights"] = np.random.default_rng(1).uniform(0.5, 1.5, weights)
    feeds["images"] = np.zeros(case.batch, np.uint8)
    return feeds


def finite_difference(
    of: Callable[[Array], float], at: Array, along: Array, noise: float
) -> tuple[float, float]:
    """The central difference of ``of`` and a bound of its error.

    D(h) = slope + c·h² + O(h⁴), so D(2h) - D(h) is 3·c·h²: it bounds the truncation
    with a factor 3 to spare for the higher terms. Either value of the function may be
    off by ``noise``, which moves D(h) by noise/h.
    """

    def central(h: float) -> float:
        return (of(at + h * along) - of(at - h * along)) / (2 * h)

    near, far = central(STEP), central(2 * STEP)
    return near, abs(far - near) + 2 * noise / STEP


@pytest.mark.parametrize("case", SMOOTH, ids=lambda case: case.id)
def test_a_gradient_agrees_with_finite_differences(case: Case) -> None:
    """Along two random directions of every operand.

    The noise is 64 roundings for each term of the op's sum and of the loss.
    """
    b, operands, loss = one_op_loss(case)
    floats = [v for v in operands if v.type.dtype.is_float]
    forward = b.finish()
    for value, gradient in zip(floats, add_gradients(b, loss, floats), strict=True):
        if gradient is not None:
            b.output(f"d{value.name}", gradient)
    graph = verify(b.finish())
    assert parse(print_graph(graph)) == graph
    feeds = feeds_of(case, graph)
    found = interpret(graph, feeds, {}, float64=True).outputs
    size = float(np.abs(found["y"] * feeds["weights"]).sum())
    noise = 64 * (case.terms + found["y"].size) * ROUNDOFF * size
    rng = np.random.default_rng(2)
    for value in floats:

        def of(array: Array, name: str = value.name) -> float:
            moved = {**feeds, name: array}
            return float(interpret(forward, moved, {}, float64=True).outputs["loss"])

        at = feeds[value.name]
        slopes = found.get(f"d{value.name}", np.zeros_like(at))
        for _ in range(2):
            along = rng.choice([-1.0, 1.0], at.shape)
            expected, bound = finite_difference(of, at, along, noise)
            if value.name != UNMOVED.get(case.op):
                assert abs(float((slopes * along).sum()) - expected) <= bound


@pytest.mark.parametrize("case", SMOOTH, ids=lambda case: case.id)
def test_a_gradient_agrees_with_autograd(case: Case) -> None:
    """Within 64 roundings for each term of the forward and the backward sums."""
    b, operands, loss = one_op_loss(case)
    floats = [v for v in operands if v.type.dtype.is_float]
    gradients = add_gradients(b, loss, floats)
    for value, gradient in zip(floats, gradients, strict=True):
        if gradient is not None:
            b.output(f"d{value.name}", gradient)
    graph = verify(b.finish())
    feeds = feeds_of(case, graph)
    found = interpret(graph, feeds, {}, float64=True).outputs
    tensors = [wide_tensor(feeds[v.name]) for v in operands]
    y = case.reference(*tensors, **case.attrs)
    (y * torch.tensor(feeds["weights"])).sum().backward()
    for value, theirs in zip(operands, tensors, strict=True):
        if theirs.grad is None:
            assert f"d{value.name}" not in found
            continue
        expected = theirs.grad.numpy()
        terms = case.terms + found["y"].size
        bound = 64 * terms * ROUNDOFF * max(1.0, float(np.abs(expected).max()))
        assert np.abs(found[f"d{value.name}"] - expected).max() <= bound


def test_every_op_is_differentiable_refused_or_not_of_floats() -> None:
    flat = {c.op for c in CASES if not _flows(c)} - {c.op for c in SMOOTH}
    assert {c.op for c in SMOOTH} | set(ROUGH) | flat == set(OPS)
    assert flat == {
        *("argmax", "constant", "dropout_mask", "equal", "greater_equal"),
        *("keep_mask", "max_pool2d_argmax"),
    }


@pytest.mark.parametrize("case", ROUGH.values(), ids=lambda case: case.op)
def test_an_op_without_gradient_is_named_with_its_line(case: Case) -> None:
    b = GraphBuilder("loss")
    b.input("images", tensor("u8[N]"))
    operands = [b.input(f"a{i}", t) for i, t in enumerate(case.tensors)]
    b.locs = (Loc("model.py", 12, "head"),)
    results = b.emit(case.op, operands, case.attrs)
    b.locs = (Loc("model.py", 13),)
    loss = weighted_sum(b, results[0])
    with pytest.raises(CompileError) as error:
        add_gradients(b, loss, [v for v in operands if v.type.dtype.is_float])
    assert str(error.value).startswith(
        f"no gradient through {case.op} at model.py:12 head: {case.op}"
    )


def test_an_op_without_gradient_off_the_way_is_no_obstacle() -> None:
    b = GraphBuilder("loss")
    x, t = b.input("x", tensor("f32[]")), b.input("t", tensor("f32[]"))
    loss = b("multiply", x, b("cos", t))
    (dx,) = add_gradients(b, loss, [x])
    b.output("dx", dx)
    feeds = {"x": np.array(3.0), "t": np.array(0.0)}
    assert interpret(b.finish(), feeds, {}).outputs["dx"] == 1.0


@pytest.mark.parametrize("kind", ["f32[N]", "f32[1]", "i32[]", "bool[]"])
def test_only_a_float_scalar_has_a_gradient(kind: str) -> None:
    b = GraphBuilder("loss")
    x = b.input("x", tensor(kind))
    with pytest.raises(CompileError) as error:
        add_gradients(b, x, [x])
    assert str(error.value) == f"only a float scalar has a gradient, %x is {kind}"


def gradient_at(build: Callable[..., Value], *at: float) -> list[float | None]:
    """The gradient of a scalar function of scalars, by the interpreter in float64."""
    b = GraphBuilder("scalar")
    inputs = [b.input(f"x{i}", tensor("f32[]")) for i in range(len(at))]
    gradients = add_gradients(b, build(b, *inputs), inputs)
    for i, gradient in enumerate(gradients):
        if gradient is not None:
            b.output(str(i), gradient)
    feeds = {f"x{i}": np.array(x) for i, x in enumerate(at)}
    out = interpret(verify(b.finish()), feeds, {}, float64=True).outputs
    return [float(out[str(i)]) if g else None for i, g in enumerate(gradients)]


def test_the_gradients_of_all_uses_are_added() -> None:
    """The value x is read by three nodes, twice by one: x² + 3x - x/2."""

    def build(b: GraphBuilder, x: Value) -> Value:
        half, three = b.constant(0.5, x.type), b.constant(3.0, x.type)
        first = b("add", b("multiply", x, x), b("multiply", three, x))
        return b("subtract", first, b("multiply", half, x))

    assert gradient_at(build, 5.0) == [12.5]


def test_the_gradient_of_a_value_in_itself_is_one() -> None:
    assert gradient_at(lambda b, x: x, 7.0) == [1.0]


def test_a_value_the_loss_does_not_read_has_no_gradient() -> None:
    assert gradient_at(lambda b, x, y: b("negate", x), 1.0, 2.0) == [-1.0, None]


def test_no_gradient_flows_through_integers() -> None:
    def build(b: GraphBuilder, x: Value) -> Value:
        whole = b("cast", b("cast", x, dtype="i32"), dtype="f32")
        return b("add", whole, x)

    assert gradient_at(build, 2.5) == [1.0]


@pytest.mark.parametrize("op", ["maximum", "minimum"])
def test_of_equal_operands_the_first_takes_the_gradient(op: str) -> None:
    assert gradient_at(lambda b, x, y: b(op, x, y), 2.0, 2.0) == [1.0, 0.0]


def test_the_slope_of_relu_at_zero_is_zero() -> None:
    assert gradient_at(lambda b, x: b("relu", x), 0.0) == [0.0]


def test_a_gradient_has_a_gradient() -> None:
    """The third power, twice: 6x."""

    def build(b: GraphBuilder, x: Value) -> Value:
        cube = b("multiply", b("multiply", x, x), x)
        (slope,) = add_gradients(b, cube, [x])
        assert slope is not None
        return slope

    assert gradient_at(build, 1.5) == [9.0]


def test_the_nodes_of_a_gradient_carry_the_line_they_come_from() -> None:
    b = GraphBuilder("loss")
    x = b.input("x", tensor("f32[N,3]"))
    b.locs = (Loc("model.py", 4, "act"),)
    y = b("tanh", x)
    b.locs = (Loc("model.py", 9),)
    loss = weighted_sum(b, y)
    forward = len(b.nodes)
    add_gradients(b, loss, [x])
    lines = [n.locs for n in b.nodes[forward:] if n.op != "broadcast_to"]
    assert (Loc("model.py", 4, "act"),) in lines
    assert all(lines)


def test_max_pooling_sends_a_tied_gradient_to_the_first() -> None:
    b = GraphBuilder("loss")
    x = b.input("x", tensor("f32[N,2,2,1]"))
    y = b("max_pool2d", x, window=(2, 2), strides=(2, 2))
    (dx,) = add_gradients(b, b("reduce_sum", y, axes=(0, 1, 2, 3)), [x])
    b.output("dx", dx)
    ties = np.array([[1.0, 5.0, 5.0, 5.0]]).reshape(1, 2, 2, 1)
    found = interpret(b.finish(), {"x": ties}, {}).outputs["dx"]
    assert found.flatten().tolist() == [0.0, 1.0, 0.0, 0.0]
