"""Pictures of filters, and feature maps that are what the oracle says they are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compiled import faults
from numpy.typing import NDArray

from convc.initializers import initial_state
from convc.ir.errors import RunError
from convc.ir.interpreter import Result
from convc.ir.rounding import bounded
from convc.layers import (
    avg_pool2d,
    conv2d,
    convolve,
    dense,
    dropout,
    flatten,
    max_pool2d,
    relu,
)
from convc.model import Model
from convc.pictures.layers import (
    feature_maps,
    filter_pictures,
    flat,
    image_picture,
    map_pictures,
)
from convc.pictures.sheet import enlarged, signed
from convc.tracing import Tensor, get_variable, layer_scope, variable_scope

IMAGE = "f32[N,8,8,1]"


def net(image: Tensor) -> Tensor:
    """Every layer that can be seen, and some between them that cannot."""
    with variable_scope("low"):
        x = conv2d(image, 3, 3, padding="same", activation="relu", name="conv")
        x = max_pool2d(x, 2, name="pool")
    x = conv2d(x, 40, 3, padding="same", name="colour")
    x = avg_pool2d(relu(x), 2, name="mean")
    x = dropout(x, keep=0.5)
    x = conv2d(x, 4, 1, name="deep")
    return dense(flatten(x), 3, name="logits")


def weighted(model: Model) -> dict[str, NDArray[Any]]:
    return initial_state(model.graph, seed=1)


def drawn(network: Any, image: str, **weights: NDArray[Any]) -> Any:
    """The pictures of a network's filters, by file."""
    model = Model(network, image=image)
    values = {**weighted(model), **weights}
    return {p.name: p for p in filter_pictures(model.graph, values)}


def test_each_convolution_has_a_picture_and_a_caption() -> None:
    captions = {name: p.caption for name, p in drawn(net, IMAGE).items()}
    names = ["low/conv", "colour", "deep"]
    assert [*captions] == [f"filters/{name}.png" for name in names]
    conv, colour, deep = captions.values()
    assert conv.startswith("low/conv: 3 filters of 3x3; gray is 0, white 0.")
    assert colour.startswith(
        "colour: 40 filters of 3x3, their inputs as red, green and blue; gray"
    )
    assert deep.startswith(
        "deep: filters of 1x1, the first 16 of 40 inputs as rows, 4 outputs as columns"
    )


def test_the_pixels_of_a_filter_are_its_numbers() -> None:
    def one(image: Tensor) -> Tensor:
        return conv2d(image, 2, [2, 3], name="c")

    kernel = np.arange(-6.0, 6.0).reshape(2, 3, 1, 2)
    picture = drawn(one, IMAGE, **{"c/kernel": kernel})["filters/c.png"]
    assert picture.caption == "c: 2 filters of 2x3; gray is 0, white 6, black -6"
    pixels = np.asarray(picture.image)[6:, 6:, 0]
    side = 21  # 64 // 3
    for k in (0, 1):
        left = 2 + k * (3 * side + 2)
        tile = pixels[2 : 2 + 2 * side, left : left + 3 * side]
        assert np.array_equal(tile, enlarged(signed(kernel[:, :, 0, k], 6.0), side))


def test_deeper_filters_have_inputs_as_rows_and_outputs_as_columns() -> None:
    def one(image: Tensor) -> Tensor:
        return conv2d(image, 2, 1, name="c")

    kernel = np.array([[-1, 0.5], [1, 0], [0, 0], [0, 0.25]]).reshape(1, 1, 4, 2)
    picture = drawn(one, "f32[N,4,4,4]", **{"c/kernel": kernel})["filters/c.png"]
    middles = np.asarray(picture.image)[6 + 34 :: 66, 6 + 34 :: 66, 0][:4, :2]
    assert middles.tolist() == signed(kernel[0, 0], 1.0).tolist()


def test_a_kernel_that_two_layers_share_is_drawn_once() -> None:
    def shared(image: Tensor) -> Tensor:
        kernel = get_variable("w", [3, 3, 1, 1])
        return convolve(convolve(image, kernel, name="a"), kernel, name="b")

    assert [*drawn(shared, IMAGE)] == ["filters/a.png"]


def test_a_kernel_that_is_only_arranged_is_drawn_as_it_is_read() -> None:
    """By channel, and turned where the convolution is a transposed one."""

    def by_channel(image: Tensor) -> Tensor:
        with layer_scope("deep") as t:
            kernel = t.variable("kernel", (3, 3, 2, 3), "zeros")
            flat = t.emit("reshape", kernel, shape=(3, 3, 1, 6))
            return t.emit("conv2d", image, flat, groups=2)

    def growing(image: Tensor) -> Tensor:
        with layer_scope("up") as t:
            kernel = t.variable("kernel", (3, 3, 5, 2), "zeros")
            return t.emit("conv2d_input_grad", image, kernel, size=(10, 10))

    def turned(image: Tensor) -> Tensor:
        with layer_scope("volume") as t:
            kernel = t.variable("kernel", (2, 3, 4, 1, 5), "zeros")
            kernel = t.emit("transpose", kernel, perm=(1, 2, 0, 3, 4))
            return t.emit(
                "conv2d", image, t.emit("reshape", kernel, shape=(3, 4, 2, 5))
            )

    told = [
        "6 filters of 3x3",
        "filters of 3x3, 2 inputs as rows, 5 outputs as columns",
    ]
    told.append("5 filters of 2x3x4")
    for network, expected in zip((by_channel, growing, turned), told, strict=True):
        (picture,) = drawn(network, "f32[N,8,8,2]").values()
        assert picture.caption.partition(": ")[2].partition(";")[0] == expected


def test_channels_that_were_asked_to_be_first_are_shown_as_channels() -> None:
    def first(image: Tensor) -> Tensor:
        with layer_scope("pool") as t:
            y = t.emit("max_pool2d", image, window=(2, 2), strides=(2, 2))
            return t.emit("transpose", y, perm=(0, 3, 1, 2))

    model = Model(first, image="f32[N,8,6,5]")
    maps = feature_maps(model, {}, np.ones((1, 8, 6, 5), np.float32))
    assert maps["pool"].shape == (1, 4, 3, 5)


def test_two_kernels_of_one_layer_have_a_picture_each() -> None:
    def apart(image: Tensor) -> Tensor:
        with layer_scope("low") as t:
            x = t.emit("conv2d", image, t.variable("wide", (3, 3, 1, 2), "ones"))
            return t.emit("conv2d", x, t.variable("deep", (1, 1, 2, 4), "ones"))

    assert [*drawn(apart, IMAGE)] == ["filters/low/wide.png", "filters/low/deep.png"]


def test_a_kernel_that_is_computed_is_not_drawn() -> None:
    def halved(image: Tensor) -> Tensor:
        return convolve(image, get_variable("w", [3, 3, 1, 1]) / 2)

    assert drawn(halved, IMAGE) == {}


@pytest.mark.parametrize(
    ("shape", "shown"), [((5, 2, 3), (1, 5)), ((2, 3, 4, 5, 6), (3, 8))]
)
def test_other_ranks_are_laid_flat(
    shape: tuple[int, ...], shown: tuple[int, int]
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    laid = flat(array)
    assert laid.shape == (*shown, *shape[-2:])
    if len(shape) == 5:  # the second slice begins where the first ends
        assert np.array_equal(laid[:, 4:8], array[1])


def test_feature_maps_are_what_the_oracle_computes() -> None:
    """With bias and activation, without dropout, ReLU still before the pool."""
    model = Model(net, image=IMAGE)
    weights = weighted(model)
    image = np.random.default_rng(2).random((1, 8, 8, 1), np.float32)
    maps = feature_maps(model, weights, image)
    kept = model.inference().stages(batch=1)[1].graph  # dropout removed, no more
    wanted = {}
    for node in kept.nodes:
        if node.result.type.rank > 2:
            wanted[node.locs[0].layer] = node.result
    names = ["low/conv", "low/pool", "colour", "mean", "deep"]
    assert [*maps] == names
    outputs = tuple((name.replace("/", "."), wanted[name]) for name in names)
    oracle = replace(kept, outputs=outputs)
    named = {name.replace("/", "."): array for name, array in maps.items()}
    bounds = bounded(oracle, {"image": image}, weights)
    assert faults(oracle, bounds, Result(named, {})) == []
    assert maps["low/conv"].min() == 0
    assert maps["colour"].min() < 0


def test_maps_of_relu_begin_at_black_and_signed_ones_at_gray() -> None:
    unsigned = np.array([0.0, 3.0]).reshape(1, 1, 1, 2)
    both = map_pictures({"a/b": unsigned, "c": unsigned - 1})
    assert [(p.name, p.caption) for p in both] == [
        ("maps/a/b.png", "a/b: 2 maps of 1x1; black is 0, white 3"),
        ("maps/c.png", "c: 2 maps of 1x1; gray is 0, white 2, black -2"),
    ]
    grays = [np.asarray(p.image)[40, [40, 106], 0].tolist() for p in both]
    assert grays == [[0, 255], signed(np.array([-1.0, 2.0]), 2.0).tolist()]


def test_no_more_maps_than_can_be_looked_at() -> None:
    (picture,) = map_pictures({"wide": np.zeros((1, 2, 2, 65))})
    assert picture.caption.startswith("wide: the first 64 of 65 maps of 2x2")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_itself_is_shown_as_it_is(channels: int) -> None:
    image = np.zeros((1, 2, 2, channels), np.float32)
    image[0, 0, 0, 0] = 1
    picture = image_picture(image, "a corner")
    assert (picture.name, picture.caption) == ("image.png", "a corner")
    corner = np.asarray(picture.image)[20, 20].tolist()
    assert corner == ([255] * 3 if channels == 1 else [255, 0, 0])


def test_a_network_without_such_layers_has_no_maps() -> None:
    model = Model(flatten, image=IMAGE)
    assert feature_maps(model, {}, np.zeros((1, 8, 8, 1), np.float32)) == {}


def test_an_image_of_another_size_is_refused() -> None:
    model = Model(net, image=IMAGE)
    with pytest.raises(RunError, match=r"%image is f32\[N,8,8,1\], got an array"):
        feature_maps(model, weighted(model), np.zeros((1, 9, 9, 1), np.float32))
