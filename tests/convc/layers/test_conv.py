"""conv2d and convolve: shapes, variables, sharing of arguments, errors."""

from collections.abc import Callable
from typing import Any

import pytest

from convc.initializers import constant, truncated_normal, zeros
from convc.ir.errors import ModelError
from convc.ir.graph import Graph
from convc.ir.verifier import verify
from convc.layers import conv2d, convolve, relu
from convc.tracing import Tensor, get_variable, trace


def traced(function: Callable[..., Any], kind: str = "f32[N,9,9,6]") -> Graph:
    return verify(trace(function, {"x": kind}))


def shape(**arguments: Any) -> str:
    arguments = {"filters": 4, "kernel_size": 3, **arguments}
    return str(traced(lambda x: conv2d(x, **arguments)).outputs[0][1].type)


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ({}, "f32[N,7,7,4]"),
        ({"padding": "SAME"}, "f32[N,9,9,4]"),
        ({"padding": "SAME", "strides": [1, 2, 2, 1]}, "f32[N,5,5,4]"),
        ({"strides": (2, 3)}, "f32[N,4,3,4]"),
        ({"padding": 1}, "f32[N,9,9,4]"),
        ({"padding": [[1, 0], [2, 2]]}, "f32[N,8,11,4]"),
        ({"dilation_rate": 2}, "f32[N,5,5,4]"),
        ({"kernel_size": [1, 5]}, "f32[N,9,5,4]"),
        ({"kernel_size": 9}, "f32[N,1,1,4]"),
    ],
)
def test_the_output_has_the_shape_of_the_arguments(
    arguments: dict[str, Any], result: str
) -> None:
    assert shape(**arguments) == result


def test_kernel_and_biases_are_named_by_the_layer() -> None:
    graph = traced(lambda x: conv2d(x, 4, [3, 5], groups=2, name="c"))
    kernel, biases = graph.parameters
    assert (kernel.value.name, str(kernel.value.type)) == ("c/kernel", "f32[3,5,3,4]")
    assert (biases.value.name, str(biases.value.type)) == ("c/biases", "f32[4]")
    assert (kernel.initializer, biases.initializer) == ("glorot_uniform", "zeros")
    assert kernel.trainable
    assert biases.trainable


def test_initializers_are_rules_names_or_functions() -> None:
    graph = traced(
        lambda x: conv2d(
            conv2d(x, 4, 3, kernel_initializer=zeros, bias_initializer="ones"),
            4,
            3,
            kernel_initializer=truncated_normal(stddev=0.05),
            bias_initializer=constant(0.1),
        )
    )
    rules = [(p.initializer, dict(p.attrs)) for p in graph.parameters]
    assert rules == [
        ("zeros", {}),
        ("ones", {}),
        ("truncated_normal", {"stddev": 0.05, "mean": 0.0}),
        ("constant", {"value": 0.1}),
    ]


def test_without_bias_there_is_none() -> None:
    graph = traced(lambda x: conv2d(x, 4, 3, use_bias=False, activation=relu))
    assert [n.op for n in graph.nodes] == ["conv2d", "relu"]
    assert [p.value.name for p in graph.parameters] == ["conv2d/kernel"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"filters": 0}, "conv2d: filters must be a whole number of at least 1, got 0"),
        ({"filters": True}, "conv2d: filters must be a whole number"),
        ({"kernel_size": 0}, "conv2d: kernel_size must be a whole number"),
        ({"strides": 0}, "conv2d: strides must be a whole number"),
        ({"dilation_rate": 1.5}, "conv2d: dilation_rate must be a whole number"),
        ({"padding": "full"}, "conv2d: padding is same, valid, .* got 'full'"),
        (
            {"groups": 4},
            "channels and the filters, 6 and 4 are not both multiples of 4",
        ),
        (
            {"groups": 3},
            "channels and the filters, 6 and 4 are not both multiples of 3",
        ),
        ({"kernel_size": 10}, "a window of 10 is larger than its input of 9.* use a"),
        ({"dilation_rate": 5}, r"window of 3 with dilation 5 \(spans 11\) is larger"),
        ({"activation": "rely"}, "conv2d: activation is a function or one of relu,"),
        ({"activation": lambda y: 1}, "activation must return a tensor, it returned a"),
        ({"kernel_initializer": "xavier"}, "an initializer is one of .* got 'xavier'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        shape(**arguments)
    assert f"in layer conv2d\n  at {__file__}:" in str(caught.value)


def test_inputs_that_are_no_images_are_answered_with_reshape() -> None:
    with pytest.raises(
        ModelError, match=r"inputs must have 4 axes, has 2 .*; reshape\("
    ):
        traced(lambda x: conv2d(x, 4, 3), "f32[N,784]")


def test_a_kernel_in_place_of_a_count_is_answered_with_convolve() -> None:
    with pytest.raises(ModelError, match=r"got a tensor; convolve\(x, kernel\) takes"):
        traced(lambda x: conv2d(x, get_variable("w", [3, 3, 6, 4]), 3))  # type: ignore[arg-type]


def test_convolve_takes_a_kernel_of_ones_own() -> None:
    def net(x: Tensor) -> Tensor:
        return convolve(x, get_variable("w", [3, 3, 3, 4]), padding="SAME", groups=2)

    graph = traced(net)
    assert [n.op for n in graph.nodes] == ["conv2d"]
    assert str(graph.outputs[0][1].type) == "f32[N,9,9,4]"


def test_a_kernel_for_other_channels_names_both_sides() -> None:
    said = (
        r"conv2d: input has 6 channels, filter expects 5 \(x: .*, w: f32\[3,3,5,4\]\)"
    )
    with pytest.raises(ModelError, match=said):
        traced(lambda x: convolve(x, get_variable("w", [3, 3, 5, 4])))
