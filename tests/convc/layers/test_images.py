"""Images with their channels first: transposes in the IR, of which few remain."""

from collections.abc import Callable
from typing import Any

import pytest
from pass_bench import stage_after

from convc.ir.errors import ModelError
from convc.layers import (
    avg_pool2d,
    conv2d,
    conv2d_transpose,
    convolve,
    depthwise_conv2d,
    depthwise_convolve,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool2d,
    separable_conv2d,
)
from convc.passes.canonicalize import CANONICALIZE
from convc.tracing import Tensor, get_variable, trace


def _convolve(x: Tensor, **form: Any) -> Tensor:
    return convolve(x, get_variable("w", [3, 3, 3, 2]), **form)


LAYERS: dict[str, Callable[..., Tensor]] = {
    "conv2d": lambda x, **form: conv2d(x, 4, 3, **form),
    "convolve": _convolve,
    "conv2d_transpose": lambda x, **form: conv2d_transpose(x, 4, 3, **form),
    "depthwise_conv2d": lambda x, **form: depthwise_conv2d(x, 3, **form),
    "depthwise_convolve": lambda x, **form: depthwise_convolve(x, [[1, 2]], **form),
    "separable_conv2d": lambda x, **form: separable_conv2d(x, 4, 3, **form),
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "global_avg_pool2d": global_avg_pool2d,
    "global_max_pool2d": global_max_pool2d,
}


def result(layer: str, kind: str, form: str) -> tuple[Any, ...]:
    net = trace(lambda x: LAYERS[layer](x, data_format=form), {"x": kind})
    return net.outputs[0][1].type.shape


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_of_images_takes_both_formats(layer: str) -> None:
    """The result has its channels where the inputs have them."""
    n, *spatial, c = result(layer, "f32[N,8,9,3]", "NHWC")
    assert result(layer, "f32[N,3,8,9]", "NCHW") == (n, c, *spatial)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", ["nchw", "channels_first", None, "NCDHW"])
def test_other_formats_are_refused(layer: str, form: Any) -> None:
    said = (
        f"{layer}: data_format is NHWC \\(channels last\\) or NCHW \\(channels first\\)"
    )
    with pytest.raises(ModelError, match=f"{said}, got {form!r}"):
        result(layer, "f32[N,8,9,3]", form)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_of_images_wants_four_axes(layer: str) -> None:
    with pytest.raises(ModelError, match=f"{layer}: inputs must have 4 axes, has 3"):
        result(layer, "f32[N,8,9]", "NHWC")


def test_strides_and_padding_of_four_entries_follow_the_format() -> None:
    def net(x: Tensor) -> Tensor:
        sides = [[0, 0], [0, 0], [1, 2], [0, 1]]
        return conv2d(x, 4, 3, [1, 1, 2, 3], sides, data_format="NCHW")

    node = next(n for n in trace(net, {"x": "f32[N,3,8,9]"}).nodes if n.op == "conv2d")
    assert node.attrs["strides"] == (2, 3)
    assert node.attrs["padding"] == ((1, 2), (0, 1))
    with pytest.raises(ModelError, match=r"write \[1, 1, 2, 3\]"):
        trace(
            lambda x: conv2d(x, 4, 3, [2, 1, 2, 3], data_format="NCHW"),
            {"x": "f32[N,3,8,9]"},
        )


def test_transposes_between_layers_cancel() -> None:
    """Of six two are left: at the first layer and after the last."""

    def net(x: Tensor) -> Tensor:
        x = conv2d(x, 4, 3, activation="relu", use_bias=False, data_format="NCHW")
        x = max_pool2d(x, data_format="NCHW")
        return conv2d_transpose(x, 2, 2, use_bias=False, data_format="NCHW")

    traced = trace(net, {"x": "f32[N,3,8,8]"})
    assert [n.op for n in traced.nodes].count("transpose") == 6
    after = stage_after(CANONICALIZE, of=traced).graph
    assert [n.op for n in after.nodes] == [
        "transpose",
        "conv2d",
        "relu",
        "max_pool2d",
        "conv2d_input_grad",
        "transpose",
    ]
