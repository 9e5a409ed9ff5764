"""Whole networks and whole optimizer runs agree with torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_reference as reference
from hypothesis import HealthCheck, given, settings
from op_bench import ROUNDOFF, Array, tensor, wide_tensor
from random_graphs import Example, graphs
from torch import Tensor

from convc.autodiff import add_gradients
from convc.ir.builder import GraphBuilder
from convc.ir.graph import Attr, Graph, Value
from convc.ir.interpreter import interpret
from convc.ir.ops import OPS
from convc.ir.verifier import verify

LABELS = np.array([0, 2, 1, 1], np.int32)


def with_gradients(b: GraphBuilder, loss: Value) -> Graph:
    """The graph with the loss and the gradient of each trainable parameter."""
    values = [p.value for p in b.parameters if p.trainable]
    b.output("loss", loss)
    for value, gradient in zip(values, add_gradients(b, loss, values), strict=True):
        if gradient is not None:
            b.output(f"d {value.name}", gradient)
    return verify(b.finish())


def entropy(b: GraphBuilder, logits: Value) -> Value:
    labels = b.input("labels", tensor("i32[N]"))
    return b("reduce_mean", b("softmax_cross_entropy", logits, labels), axes=(0,))


def conv_net(b: GraphBuilder, w: Callable[..., Value]) -> Value:
    """Two convolutions, one of them used twice, pooling, and a dense layer."""
    x = b.input("image", tensor("f32[N,6,6,2]"))
    first = w("k1", 3, 3, 2, 4)
    x = b("relu", b("bias_add", b("conv2d", x, first, padding="same"), w("b1", 4)))
    shared = w("k2", 3, 3, 2, 4)
    once = b("conv2d", x, shared, padding="same", groups=2)
    twice = b("conv2d", b("tanh", once), shared, padding="same", groups=2)
    x = b("add", b("max_pool2d", twice, window=(2, 2), strides=(2, 2)), w("b2", 1, 4))
    x = b("avg_pool2d", x, window=(2, 2), strides=(1, 1), padding="same")
    x = b("concat", x, b("negate", x), axis=3)
    flat = b("reshape", x, shape=("N", 72))
    return b("matmul", flat, w("fc", 3, 72), transpose_b=True)


def conv_net_in_torch(image: Tensor, p: dict[str, Tensor]) -> Tensor:
    x = reference.conv2d(image, p["k1"], padding="same").add(p["b1"]).relu()
    once = reference.conv2d(x, p["k2"], padding="same", groups=2)
    x = reference.conv2d(once.tanh(), p["k2"], padding="same", groups=2)
    x = reference.max_pool2d(x, (2, 2), (2, 2)) + p["b2"]
    x = reference.avg_pool2d(x, (2, 2), (1, 1), "same")
    x = torch.cat([x, -x], 3)
    return x.reshape(len(x), -1) @ p["fc"].T


def norm_net(b: GraphBuilder, w: Callable[..., Value]) -> Value:
    """Batch normalization in its training form, then log-softmax arithmetic."""
    x = b.input("image", tensor("f32[N,6,6,2]"))
    x = b("conv2d", x, w("k", 3, 3, 2, 3), strides=(2, 2))
    mean = b("reduce_mean", x, axes=(0, 1, 2))
    variance = b("reduce_variance", x, axes=(0, 1, 2))
    x = b("batch_norm", x, w("gamma", 3), w("beta", 3), mean, variance)
    x = b("multiply", x, b("sigmoid", x))
    pooled = b("reduce_mean", x, axes=(1, 2))
    return b("subtract", b("log_softmax", pooled), b("softmax", pooled))


def norm_net_in_torch(image: Tensor, p: dict[str, Tensor]) -> Tensor:
    x = reference.conv2d(image, p["k"], (2, 2)).permute(0, 3, 1, 2)
    x = F.batch_norm(x, None, None, p["gamma"], p["beta"], training=True, eps=1e-3)
    pooled = F.silu(x).mean((2, 3))
    return pooled.log_softmax(-1) - pooled.softmax(-1)


NETS = {
    "convolutions": (conv_net, conv_net_in_torch),
    "batch_norm": (norm_net, norm_net_in_torch),
}


@pytest.mark.parametrize("name", NETS)
def test_the_gradients_of_a_network_agree_with_autograd(name: str) -> None:
    """No sum is longer than 4·36·18 terms, no chain longer than 32 ops.

    Each op's backward is allowed 64 roundings a term, as for the op alone.
    """
    ours, theirs = NETS[name]
    b = GraphBuilder(name)

    def parameter(name: str, *shape: int) -> Value:
        return b.parameter(name, tensor(f"f32[{','.join(map(str, shape))}]"))

    graph = with_gradients(b, entropy(b, ours(b, parameter)))
    rng = np.random.default_rng(3)
    feeds = {"image": rng.standard_normal((4, 6, 6, 2)), "labels": LABELS}
    parameters = {p.value.name: p.value.type.bind(1) for p in graph.parameters}
    arrays = {k: rng.standard_normal(shape) for k, shape in parameters.items()}
    found = interpret(graph, feeds, arrays, float64=True).outputs
    tensors = {k: wide_tensor(a) for k, a in arrays.items()}
    logits = theirs(torch.tensor(feeds["image"]), tensors)
    loss = F.cross_entropy(logits, torch.tensor(LABELS).long())
    loss.backward()
    bound = 64 * 4 * 36 * 18 * 32 * ROUNDOFF
    assert abs(found["loss"] - loss.item()) <= bound * abs(loss.item())
    for key, t in tensors.items():
        assert t.grad is not None
        expected = t.grad.numpy()
        assert np.abs(found[f"d {key}"] - expected).max() <= bound * max(
            1.0, float(np.abs(expected).max())
        )


def test_dropout_scales_the_gradient_where_it_keeps_and_stops_it_elsewhere() -> None:
    b = GraphBuilder("dropout")
    x = b.input("x", tensor("f32[N,50]"))
    scalar = tensor("i64[]")
    seed, step = (b.input(name, scalar) for name in ("seed", "step"))
    mask = b("dropout_mask", seed, step, shape=("N", 50), keep=0.5, stream=1)
    y = b("apply_mask", x, mask, scale=2.0)
    (dx,) = add_gradients(b, b("reduce_sum", y, axes=(0, 1)), [x])
    b.output("y", y)
    b.output("dx", dx)
    feeds = {"x": np.ones((2, 50)), "seed": np.array(1), "step": np.array(2)}
    out = interpret(verify(b.finish()), feeds, {}).outputs
    assert np.array_equal(out["dx"], out["y"])
    assert set(out["dx"].flatten()) == {0.0, 2.0}


KINKS = {"relu", "max_pool2d", "maximum", "minimum"}


def is_smooth(example: Example) -> bool:
    """Whether the loss has a slope everywhere, and parameters to move."""
    ops = {node.op for node in example.graph.nodes}
    return not ops & KINKS and bool(example.trainable)


@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(graphs(loss=True).filter(is_smooth))
def test_random_losses_change_as_their_gradients_say(example: Example) -> None:
    """Along one direction in all parameters at once, where there are no kinks.

    The truncation is estimated from two steps (see test_autodiff). The rounding: at
    most 2**13 terms and steps, so 2**-53 · 2**13 / 2**-17 = 2**-23 of the loss, which
    may itself be the difference of terms 8 times as large.
    """
    b = GraphBuilder("step", example.graph)
    assert example.loss is not None
    gradients = add_gradients(b, example.loss, example.trainable)
    for value, gradient in zip(example.trainable, gradients, strict=True):
        if gradient is not None:
            b.output(f"d {value.name}", gradient)
    rng = np.random.default_rng(4)
    along = {v.name: rng.choice([-1.0, 1.0], v.type.bind(1)) for v in example.trainable}
    graph = verify(b.finish())

    def at(h: float) -> dict[str, Array]:
        moved = {k: example.parameters[k] + h * a for k, a in along.items()}
        parameters = {**example.parameters, **moved}
        return interpret(graph, example.inputs, parameters, float64=True).outputs

    def central(h: float) -> float:
        return float(at(h)["loss"] - at(-h)["loss"]) / (2 * h)

    found = at(0.0)
    slope = sum(
        float((found[f"d {k}"] * a).sum())
        for k, a in along.items()
        if f"d {k}" in found
    )
    near, far = central(2.0**-17), central(2.0**-16)
    scale = max(1.0, abs(float(found["loss"])), abs(slope))
    assert abs(near - slope) <= abs(far - near) + 2.0**-20 * scale


OPTIMIZERS: list[tuple[str, dict[str, Attr], Any, dict[str, Any]]] = [
    ("sgd", {}, torch.optim.SGD, {}),
    ("sgd", {"weight_decay": 0.1}, torch.optim.SGD, {"weight_decay": 0.1}),
    ("momentum", {"momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8}),
    (
        *("momentum", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
        *(torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    ),
    ("adam", {}, torch.optim.Adam, {}),
    (
        *("adam", {"beta1": 0.8, "beta2": 0.9, "weight_decay": 0.1}),
        *(torch.optim.Adam, {"betas": (0.8, 0.9), "weight_decay": 0.1}),
    ),
    (
        *("adam", {"weight_decay": 0.1, "decoupled": True}),
        *(torch.optim.AdamW, {"weight_decay": 0.1}),
    ),
]


def descent(op: str, attrs: dict[str, Attr]) -> Graph:
    """One step on 1/2 · sum of ((p - 3)² · (1, 2, 3)), with the state it needs."""
    b = GraphBuilder("descent")
    p = b.parameter("p", tensor("f32[3]"))
    lr, curve = b.input("lr", tensor("f32[]")), b.input("curve", tensor("f32[3]"))
    off = b("subtract", p, b.constant(3.0, p.type))
    half = b("multiply", b("multiply", off, off), b.constant(0.5, p.type))
    loss = b("reduce_sum", b("multiply", half, curve), axes=(0,))
    (g,) = add_gradients(b, loss, [p])
    assert g is not None
    slots = [
        b.parameter(f"{op}/{i}", p.type, trainable=False)
        for i in range(OPS[op].results - 1)
    ]
    counter = []
    if "step" in OPS[op].operands:
        counter = [b.parameter("step", tensor("i64[]"), trainable=False)]
        b.update(counter[0], b("add", counter[0], b.constant(1, tensor("i64[]"))))
    results = b.emit(op, [p, g, *slots, lr, *counter], attrs)
    for target, new in zip([p, *slots], results, strict=True):
        b.update(target, new)
    return verify(b.finish())


@pytest.mark.parametrize(("op", "attrs", "kind", "options"), OPTIMIZERS)
def test_ten_steps_of_an_optimizer_agree_with_torch(
    op: str, attrs: dict[str, Attr], kind: Any, options: dict[str, Any]
) -> None:
    """In float64, within 64 roundings a step of the largest number met."""
    graph = descent(op, attrs)
    curve = np.array([1.0, 2.0, 3.0])
    state = {p.value.name: np.zeros(p.value.type.shape) for p in graph.parameters}
    state |= {"p": np.array([0.5, -2.0, 4.0])}
    state |= {"step": np.zeros((), np.int64)} if "step" in state else {}
    p = torch.nn.Parameter(torch.tensor(state["p"]))
    optimizer = kind([p], lr=0.25, **options)
    for number in range(1, 11):
        feeds = {"lr": np.array(0.25), "curve": curve}
        state = interpret(graph, feeds, state, float64=True).updates
        optimizer.zero_grad()
        (0.5 * (p - 3.0) ** 2 * torch.tensor(curve)).sum().backward()
        optimizer.step()
        assert (
            np.abs(state["p"] - p.detach().numpy()).max() <= 64 * number * 8 * ROUNDOFF
        )
    assert state.get("step", number) == 10
