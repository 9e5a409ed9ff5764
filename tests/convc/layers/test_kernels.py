"""Kernels of one's own as numbers: held, shown in the IR, run, and never trained."""

from typing import Any

import numpy as np
import pytest

from convc.ir.errors import ModelError
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.layers import convolve, dense, depthwise_convolve, flatten
from convc.model import Model
from convc.tracing import Tensor, get_variable, trace, variable_scope

SHARPEN = [[0, -1, 0], [-1, 5, -1], [0, -1, 0]]
IMAGES = "f32[N,4,5,3]"


def wide(image: Tensor) -> Tensor:
    """Sobel's two filters on a gray image, as one kernel of two."""
    left, up = [[1, 0, -1], [2, 0, -2], [1, 0, -1]], [[1, 2, 1], [0] * 3, [-1, -2, -1]]
    both = np.stack([left, up], -1)[:, :, None]
    return convolve(image, both, padding="same", name="sobel")


def test_numbers_are_a_variable_of_the_layer_that_is_not_trained() -> None:
    graph = trace(
        lambda x: depthwise_convolve(x, SHARPEN, name="sharpen"), {"x": IMAGES}
    )
    (kernel,) = graph.parameters
    assert (kernel.value.name, str(kernel.value.type)) == (
        "sharpen/kernel",
        "f32[3,3,3,1]",
    )
    assert not kernel.trainable
    assert "state %sharpen/kernel : f32[3,3,3,1] = constant(" in print_graph(graph)
    assert parse(print_graph(graph)) == graph


def test_a_network_without_training_filters_images() -> None:
    """Whole numbers, so exactly: an impulse gives the kernel turned by half a turn."""
    program = Model(wide, image="f32[N,3,3,1]").inference().compile("numpy", 1, 1)
    program.initialize(0)
    image = np.zeros((1, 3, 3, 1), np.float32)
    image[0, 1, 1] = 1
    found = program(image=image)["output"]
    assert found[0, :, :, 0].tolist() == [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    assert found[0, :, :, 1].tolist() == [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]


def test_training_leaves_given_numbers_alone() -> None:
    def net(image: Tensor) -> Tensor:
        return dense(flatten(depthwise_convolve(image, SHARPEN, name="given")), 2)

    program = Model(net, image=IMAGES).training_step().compile("numpy", 2, 1)
    program.initialize(0)
    before = program.state()
    program(image=np.ones((2, 4, 5, 3), np.float32), labels=np.arange(2, dtype="i4"))
    after = program.state()
    assert np.array_equal(before["given/kernel"], after["given/kernel"])
    assert not np.array_equal(before["dense/kernel"], after["dense/kernel"])


@pytest.mark.parametrize("layer", [convolve, depthwise_convolve])
@pytest.mark.parametrize(
    ("kernel", "got"),
    [
        ([1, 2, 3], r"numbers of the shape \[3\]"),
        ([[[1]]], r"numbers of the shape \[1, 1, 1\]"),
        ([], r"numbers of the shape \[0\]"),
        ([[1, 2], [3]], r"\[\[1, 2\], \[3\]\]"),
        ([[float("nan")]], r"\[\[nan\]\]"),
        ("blur", "'blur'"),
        (5, "5"),
    ],
)
def test_what_is_no_kernel_is_refused(layer: Any, kernel: Any, got: str) -> None:
    said = f"{layer.__name__}: a kernel is a tensor or finite numbers .*, got {got}"
    with pytest.raises(ModelError, match=said):
        trace(lambda x: layer(x, kernel), {"x": IMAGES})


def test_one_filter_on_several_channels_needs_the_depthwise_layer() -> None:
    said = (
        r"convolve: a kernel \[height, width\] is for images of one channel, here are "
        r"3 \(inputs: f32\[N,4,5,3\]\); depthwise_convolve filters each channel"
    )
    with pytest.raises(ModelError, match=said):
        trace(lambda x: convolve(x, SHARPEN), {"x": IMAGES})


def test_two_filters_of_one_layer_need_two_names() -> None:
    """Unnamed layers have names of their own; a variable is not overwritten."""

    def net(x: Tensor) -> Tensor:
        return depthwise_convolve(depthwise_convolve(x, SHARPEN), [[1, 0]])

    names = [p.value.name for p in trace(net, {"x": IMAGES}).parameters]
    assert names == ["depthwise_convolve/kernel", "depthwise_convolve_1/kernel"]


def test_shared_numbers_are_shared_by_scope_like_any_variable() -> None:
    def net(x: Tensor) -> Tensor:
        for reuse in (False, True):
            with variable_scope("twice", reuse=reuse):
                x = depthwise_convolve(x, SHARPEN, padding="same")
        return x

    assert len(trace(net, {"x": IMAGES}).parameters) == 1


def test_a_kernel_of_other_channels_names_both_sides() -> None:
    said = r"kernel must be \[height, width, 3, filters\], as inputs have 3 channels"
    for kernel in (np.ones((3, 3, 2, 1)), None):
        with pytest.raises(ModelError, match=f"depthwise_convolve: {said}"):
            trace(
                lambda x, k=kernel: depthwise_convolve(  # type: ignore[misc]
                    x, get_variable("w", [3, 3, 1, 3]) if k is None else k
                ),
                {"x": IMAGES},
            )
