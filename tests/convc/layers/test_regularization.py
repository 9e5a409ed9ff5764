"""Dropout and batch normalization in their training form."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from convc.initializers import initial_state
from convc.ir import philox
from convc.ir.errors import ModelError
from convc.ir.graph import Graph
from convc.ir.interpreter import interpret
from convc.ir.verifier import verify
from convc.layers import batch_norm, dense, dropout
from convc.tracing import Tensor, trace, variable_scope

KIND = "f32[N,6]"


def traced(function: Callable[[Tensor], Any], kind: str = KIND) -> Graph:
    return verify(trace(function, {"x": kind}))


def test_dropout_is_a_mask_from_the_training_state() -> None:
    graph = traced(lambda x: dropout(x, keep=0.75, name="drop"))
    mask, apply = graph.nodes
    assert [v.name for v in mask.operands] == ["training/seed", "training/step"]
    assert mask.attrs["stream"] == philox.stream_of("drop")
    assert (mask.attrs["keep"], apply.attrs["scale"]) == (0.75, 1 / 0.75)
    states = [(p.value.name, p.initializer, p.trainable) for p in graph.parameters]
    assert states == [
        ("training/seed", "seed", False),
        ("training/step", "zeros", False),
    ]


def test_the_training_state_is_declared_once_whatever_the_scope() -> None:
    def net(x: Tensor) -> Tensor:
        with variable_scope("a"):
            x = dropout(x, rate=0.5)
        return dropout(x, rate=0.5)

    graph = traced(net)
    assert len(graph.parameters) == 2
    streams = [n.attrs["stream"] for n in graph.nodes if n.op == "dropout_mask"]
    assert streams == [philox.stream_of("a/dropout"), philox.stream_of("dropout")]


def test_a_shared_dropout_layer_draws_a_new_mask_for_each_call() -> None:
    def net(x: Tensor) -> Tensor:
        with variable_scope("a", reuse=True):
            x = dropout(x, rate=0.5)
        with variable_scope("a", reuse=True):
            return dropout(x, rate=0.5)

    masks = [n for n in traced(net).nodes if n.op == "dropout_mask"]
    assert masks[0].locs[0].layer == masks[1].locs[0].layer == "a/dropout"
    assert masks[0].attrs["stream"] != masks[1].attrs["stream"]


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    graph = traced(lambda x: dropout(x, rate=0.25))
    x = np.ones((1000, 6))
    state = {"training/seed": np.array(1), "training/step": np.array(0)}
    y = interpret(graph, {"x": x}, state, float64=True).outputs["output"]
    assert set(np.unique(y)) == {0, 1 / 0.75}
    # Six standard deviations of the mean of 6000 draws with variance 1/3.
    assert abs(y.mean() - 1) < 6 * np.sqrt(1 / 3 / y.size)


def fed(function: Callable[..., Any], kind: str = "f32[]") -> Graph:
    return verify(trace(function, {"x": KIND, "share": kind}))


def test_a_share_that_is_a_tensor_draws_the_bits_of_one_that_is_a_number() -> None:
    """And divides by it: 1/2 is exact either way."""
    graph = fed(lambda x, share: dropout(x, keep=share, name="drop"))
    assert [n.op for n in graph.nodes] == ["keep_mask", "apply_keep"]
    x = np.arange(1, 61, dtype=np.float32).reshape(10, 6)
    state = {"training/seed": np.int64(3), "training/step": np.int64(5)}
    for share in (0.5, 0.25):
        number = traced(partial(dropout, keep=share, name="drop"))
        want = interpret(number, {"x": x}, state).outputs["output"]
        found = interpret(graph, {"x": x, "share": np.float32(share)}, state)
        assert np.array_equal(found.outputs["output"], want)
    everything = interpret(graph, {"x": x, "share": np.float32(1)}, state)
    assert everything.outputs["output"].tobytes() == x.tobytes()


def test_the_share_is_a_scalar_and_stands_alone() -> None:
    with pytest.raises(ModelError, match=r"dropout: keep .* f32\[\] \(keep: f32\[2\]"):
        fed(lambda x, share: dropout(x, keep=share), "f32[2]")
    with pytest.raises(ModelError, match="give either rate or keep, got rate=0.5 and"):
        fed(lambda x, share: dropout(x, rate=0.5, keep=share))


def test_without_training_there_is_no_dropout_in_any_program() -> None:
    graph = traced(lambda x: dropout(x, rate=0.25, training=False))
    assert (graph.nodes, graph.parameters) == ((), ())
    with pytest.raises(ModelError, match="give either rate"):
        traced(lambda x: dropout(x, training=False))


def test_keeping_all_is_nothing_at_all() -> None:
    for rate, keep in ((0, None), (None, 1), (None, 1.0)):
        assert traced(partial(dropout, rate=rate, keep=keep)).nodes == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "give either rate .* or keep .* got neither; keep=0.75 is the same as"),
        ({"rate": 0.5, "keep": 0.5}, "give either .* got rate=0.5 and keep=0.5"),
        ({"rate": 1}, "rate must be at least 0 and below 1, got 1"),
        ({"rate": -0.1}, "rate must be at least 0 and below 1, got -0.1"),
        ({"keep": 0}, "keep must be above 0 and at most 1, got 0; it is the share"),
        ({"keep": 1.1}, "keep must be above 0 and at most 1, got 1.1"),
        ({"keep": "0.5"}, "keep must be a finite number, got '0.5'"),
        ({"keep": True}, "keep must be a finite number, got True"),
    ],
)
def test_dropout_takes_one_of_rate_and_keep_in_range(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=f"dropout: {said}"):
        traced(lambda x: dropout(x, **arguments))


def test_batch_norm_normalizes_by_the_batch_and_follows_it() -> None:
    graph = traced(lambda x: batch_norm(x, momentum=0.9, epsilon=0.01, name="bn"))
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (50, 6))
    state = initial_state(graph, 0)
    result = interpret(graph, {"x": x}, state, float64=True)
    mean, variance = x.mean(axis=0), x.var(axis=0)
    expected = (x - mean) / np.sqrt(variance + 0.01)
    np.testing.assert_allclose(result.outputs["output"], expected, rtol=1e-11)
    assert result.updates.keys() == {"bn/moving_mean", "bn/moving_variance"}
    np.testing.assert_allclose(result.updates["bn/moving_mean"], 0.1 * mean)
    np.testing.assert_allclose(
        result.updates["bn/moving_variance"], 0.9 + 0.1 * variance
    )


def test_batch_norm_is_per_channel_of_images() -> None:
    graph = traced(batch_norm, "f32[N,4,5,3]")
    names = {p.value.name: (str(p.value.type), p.trainable) for p in graph.parameters}
    assert names == {
        "batch_norm/gamma": ("f32[3]", True),
        "batch_norm/beta": ("f32[3]", True),
        "batch_norm/moving_mean": ("f32[3]", False),
        "batch_norm/moving_variance": ("f32[3]", False),
    }
    assert graph.nodes[0].attrs["axes"] == (0, 1, 2)


def test_a_shared_batch_norm_follows_both_batches_in_turn() -> None:
    def net(x: Tensor) -> Tensor:
        y = batch_norm(x, momentum=0.5, name="bn")
        return batch_norm(y + 2, momentum=0.5, name="bn", reuse=True)

    graph = traced(net)
    x = np.random.default_rng(0).normal(1, 1, (50, 6))
    state = initial_state(graph, 0)
    updates = interpret(graph, {"x": x}, state, float64=True).updates
    # 0 -> half the first mean -> half of that and half the second mean, which is 2.
    np.testing.assert_allclose(updates["bn/moving_mean"], x.mean(axis=0) / 4 + 1)


def test_batch_norm_wants_channels_and_settings_in_range() -> None:
    with pytest.raises(ModelError, match="inputs must have a batch and channels"):
        traced(batch_norm, "f32[N]")
    with pytest.raises(ModelError, match="momentum must be at least 0 and below 1"):
        traced(lambda x: batch_norm(x, momentum=1))
    with pytest.raises(ModelError, match="epsilon must be above 0, got 0"):
        traced(lambda x: batch_norm(x, epsilon=0))


def test_a_layer_name_is_shared_by_no_other_kind_unnoticed() -> None:
    with pytest.raises(ModelError, match="the name a is taken by the layer at"):
        traced(lambda x: batch_norm(dense(x, 6, name="a"), name="a"))
