"""Depthwise and separable convolution: variables, shapes, errors."""

from collections.abc import Callable
from typing import Any

import pytest

from convc.ir.errors import ModelError
from convc.ir.graph import Graph
from convc.ir.verifier import verify
from convc.layers import depthwise_conv2d, depthwise_convolve, separable_conv2d
from convc.tracing import Tensor, get_variable, trace


def traced(function: Callable[..., Any], kind: str = "f32[N,9,8,6]") -> Graph:
    return verify(trace(function, {"x": kind}))


def parameters(graph: Graph) -> dict[str, str]:
    return {p.value.name: str(p.value.type) for p in graph.parameters}


def test_a_depthwise_layer_has_a_filter_for_each_channel() -> None:
    graph = traced(lambda x: depthwise_conv2d(x, [3, 2], 2, "SAME", 4, name="d"))
    assert parameters(graph) == {"d/kernel": "f32[3,2,6,4]", "d/biases": "f32[24]"}
    assert [n.op for n in graph.nodes] == ["reshape", "conv2d", "bias_add"]
    assert str(graph.outputs[0][1].type) == "f32[N,5,4,24]"


def test_a_separable_layer_mixes_channels_afterwards() -> None:
    graph = traced(
        lambda x: separable_conv2d(
            x, 5, 3, depth_multiplier=2, dilation_rate=2, activation="relu", name="s"
        )
    )
    assert parameters(graph) == {
        "s/depthwise_kernel": "f32[3,3,6,2]",
        "s/pointwise_kernel": "f32[1,1,12,5]",
        "s/biases": "f32[5]",
    }
    convolutions = [n for n in graph.nodes if n.op == "conv2d"]
    assert [n.attrs["dilations"] for n in convolutions] == [(2, 2), (1, 1)]
    assert str(graph.outputs[0][1].type) == "f32[N,5,4,5]"


def test_without_bias_there_is_none() -> None:
    for net in (
        lambda x: depthwise_conv2d(x, 3, use_bias=False),
        lambda x: separable_conv2d(x, 5, 3, use_bias=False),
    ):
        assert not any("biases" in name for name in parameters(traced(net)))


@pytest.mark.parametrize("layer", [depthwise_conv2d, separable_conv2d])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"depth_multiplier": 0},
            "depth_multiplier must be a whole number of",
        ),
        ({"kernel_size": 10}, "a window of 10 is larger than its input of 9"),
        ({"padding": "full"}, "padding is same, valid, .* got 'full'"),
        ({"activation": "rely"}, "activation is a function or one of relu,"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    layer: Any, arguments: dict[str, Any], said: str
) -> None:
    given = {"kernel_size": 3, **arguments}
    if layer is separable_conv2d:
        given["filters"] = 4
    with pytest.raises(ModelError, match=said):
        traced(lambda x: layer(x, **given))


def test_a_tensor_is_a_kernel_of_ones_own_that_may_be_trained() -> None:
    def net(x: Tensor) -> Tensor:
        return depthwise_convolve(x, get_variable("w", [3, 3, 6, 2]))

    graph = traced(net)
    assert parameters(graph) == {"w": "f32[3,3,6,2]"}
    assert graph.parameters[0].trainable
    assert str(graph.outputs[0][1].type) == "f32[N,7,6,12]"
