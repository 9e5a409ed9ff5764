"""Optimizers: the ops, states and updates they add, against torch's own."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from convc.ir.builder import GraphBuilder
from convc.ir.errors import ModelError
from convc.ir.graph import Graph, Loc
from convc.ir.interpreter import interpret
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.ir.types import DType, TensorType
from convc.ir.verifier import verify
from convc.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Momentum, Optimizer
from convc.schedules import ExponentialDecay

SHAPES = {"fc/kernel": (3, 2), "fc/biases": (2,)}


def step_graph(optimizer: Optimizer) -> Graph:
    """Parameters whose gradients are inputs, and a step counter."""
    b = GraphBuilder("step")
    b.locs = (Loc("model.py", 3, "fc"),)
    parameters = [b.parameter(k, TensorType(DType.F32, s)) for k, s in SHAPES.items()]
    b.locs = ()
    step = b.parameter("training/step", TensorType(DType.I64, ()), trainable=False)
    gradients = [b.input(f"d/{p.name}", p.type) for p in parameters]
    optimizer.apply(b, list(zip(parameters, gradients, strict=True)), step)
    one = b.constant(1, step.type)
    b.update(step, b("add", step, one))
    graph = verify(b.finish())
    assert parse(print_graph(graph)) == graph
    return graph


def train(optimizer: Optimizer, steps: int, **inputs: Any) -> list[dict[str, Any]]:
    """The parameters after each step on fixed random gradients, in float64."""
    graph, rng = step_graph(optimizer), np.random.default_rng(0)
    state: dict[str, Any] = {
        p.value.name: rng.normal(size=p.value.type.inner)
        if p.trainable
        else np.zeros(p.value.type.bind(1), p.value.type.dtype.numpy)
        for p in graph.parameters
    }
    history = [dict(state)]
    for _ in range(steps):
        gradients = {f"d/{k}": rng.normal(size=s) for k, s in SHAPES.items()}
        result = interpret(graph, {**gradients, **inputs}, state, float64=True)
        state = {**state, **result.updates}
        history.append({**state, **gradients})
    return history


PAIRS: list[tuple[Optimizer, Callable[[Any], torch.optim.Optimizer]]] = [
    (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    (SGD(0.1, weight_decay=0.2), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.2)),
    (Momentum(0.1, 0.8), lambda p: torch.optim.SGD(p, 0.1, momentum=0.8)),
    (
        Momentum(0.1, 0.8, nesterov=True, weight_decay=0.2),
        lambda p: torch.optim.SGD(
            p, 0.1, momentum=0.8, nesterov=True, weight_decay=0.2
        ),
    ),
    (Adam(0.1), lambda p: torch.optim.Adam(p, 0.1)),
    (
        Adam(0.1, 0.8, 0.9, 1e-3, weight_decay=0.2),
        lambda p: torch.optim.Adam(p, 0.1, (0.8, 0.9), 1e-3, weight_decay=0.2),
    ),
    (AdamW(0.1), lambda p: torch.optim.AdamW(p, 0.1)),
    (
        AdamW(0.1, weight_decay=0.5),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5),
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=[repr(o) for o, _ in PAIRS])
def test_ten_steps_agree_with_torch(
    ours: Optimizer, theirs: Callable[[Any], torch.optim.Optimizer]
) -> None:
    history = train(ours, 10)
    tensors = {k: torch.tensor(history[0][k], requires_grad=True) for k in SHAPES}
    optimizer = theirs(list(tensors.values()))
    for after in history[1:]:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(after[f"d/{name}"])
        optimizer.step()
        for name, tensor in tensors.items():
            np.testing.assert_allclose(after[name], tensor.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "op", "slots"),
    [(SGD(), "sgd", ""), (Momentum(), "momentum", "v"), (AdamW(), "adam", "mv")],
)
def test_one_op_and_its_slots_per_parameter(
    optimizer: Optimizer, op: str, slots: str
) -> None:
    graph = step_graph(optimizer)
    assert [n.op for n in graph.nodes].count(op) == 2
    made = [p for p in graph.parameters if p.value.name.startswith("optimizer/")]
    assert [p.value.name for p in made] == [
        f"optimizer/{slot}/{name}" for name in SHAPES for slot in slots
    ]
    assert not any(p.trainable for p in made)
    assert {p.initializer for p in made} <= {"zeros"}
    assert {p.name for p, _ in graph.updates} == {
        p.value.name for p in graph.parameters
    }


def test_the_update_has_the_place_of_its_parameter() -> None:
    graph = step_graph(Adam())
    places = {n.op: n.locs for n in graph.nodes}
    assert places["adam"] == (Loc("model.py", 3, "fc"),)
    assert places["constant"] == ()


def test_biases_decay_unless_excepted() -> None:
    def decays(**arguments: Any) -> list[Any]:
        nodes = step_graph(SGD(weight_decay=0.1, **arguments)).nodes
        return [n.attrs["weight_decay"] for n in nodes if n.op == "sgd"]

    assert decays() == [0.1, 0.1]
    assert decays(decay_biases=False) == [0.1, 0.0]


def test_a_schedule_sets_the_rate_of_each_step() -> None:
    history = train(SGD(ExponentialDecay(0.1, 1, 0.5)), 3)
    for step, (before, after) in enumerate(pairwise(history)):
        moved = before["fc/kernel"] - after["fc/kernel"]
        np.testing.assert_allclose(moved, 0.1 * 0.5**step * after["d/fc/kernel"])


def test_a_runtime_rate_is_an_input_of_the_step() -> None:
    assert [v.name for v in step_graph(SGD("runtime")).inputs][-1] == "learning_rate"
    before, after = train(SGD("runtime"), 1, learning_rate=np.float32(0.5))
    moved = before["fc/kernel"] - after["fc/kernel"]
    np.testing.assert_allclose(moved, 0.5 * after["d/fc/kernel"])


def test_the_learning_rate_comes_first_and_decay_by_name() -> None:
    assert [cls(0.5).learning_rate for cls in OPTIMIZERS.values()] == [0.5] * 4
    assert [cls(0.5).weight_decay for cls in OPTIMIZERS.values()] == [0, 0, 0, 0.01]
    assert SGD(0.5) == SGD(0.5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: SGD(-0.1),
            "SGD: learning_rate must be a finite number from 0, got -0.1",
        ),
        (lambda: Adam(float("nan")), "Adam: learning_rate must be a finite number"),
        (
            lambda: SGD(True),
            "SGD: learning_rate must be a finite number from 0, got True",
        ),
        (lambda: SGD("fast"), "a number from 0, a schedule or 'runtime', got 'fast'"),
        (lambda: SGD(None), "SGD: learning_rate must be a finite number from 0"),  # type: ignore[arg-type]
        (
            lambda: SGD(weight_decay=-1),
            "SGD: weight_decay must be a finite number from 0",
        ),
        (lambda: Momentum(momentum=1), "Momentum: momentum must be below 1, got 1"),
        (lambda: Momentum(momentum=-0.1), "momentum must be a finite number from 0"),
        (lambda: Adam(beta1=1.0), "Adam: beta1 must be below 1, got 1.0"),
        (lambda: AdamW(beta2=1.0), "AdamW: beta2 must be below 1, got 1.0"),
        (lambda: Adam(epsilon=0), "Adam: epsilon must be above 0, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused_at_the_users_line(
    make: Callable[[], Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        make()
    assert f"at {__file__}:" in str(caught.value)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    for optimizer in (SGD(0), Momentum(momentum=0), Adam(beta1=0, beta2=0)):
        assert step_graph(optimizer).nodes
