"""The filters a network has learned, and what its layers make of one image.

A layer's filters share one scale, and so do its feature maps: what is brighter in one
tile than in another is larger. Channels beyond the limits below are left out, and the
caption says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convc.ir.graph import Graph, Node, Value
from convc.pictures.sheet import (
    TILE,
    Picture,
    captioned,
    columns_for,
    pillow,
    positive,
    signed,
    tiled,
)
from convc.pipeline import Step, inference
from convc.runtime.evaluation import image_input
from convc.sizes import slides, transposed

if TYPE_CHECKING:
    from convc.model import Model

Arrays = Mapping[str, NDArray[Any]]

MOST_TILES = 64
"""How many filters or feature maps of a layer are shown at the most."""
MOST_INPUTS, MOST_OUTPUTS = 16, 32
"""How many inputs and outputs of a deeper layer's filters are shown at the most."""


def filter_pictures(graph: Graph, weights: Arrays) -> list[Picture]:
    """A picture for each convolution whose kernel is a parameter.

    Filters of one input channel are gray, those of three are colours, and of deeper
    layers there is a tile for each input (rows) and output (columns). 0 is gray, white
    as far above it as black is below. A picture is named after the layer, or after the
    kernel where a layer has several.
    """
    pillow()
    kernels = _kernels(graph, weights)
    layers = Counter(layer for layer, _ in kernels.values())
    return [
        _filters(layer if layers[layer] == 1 else name, kernel)
        for name, (layer, kernel) in kernels.items()
    ]


def feature_maps(
    model: Model, weights: Arrays, image: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """What each convolution and pool makes of one ``image`` [1,...], by layer.

    It is the layer's last value, with bias and activation, from one compiled program
    whose outputs these values are. RunError where image or weights do not fit.
    """
    seen = dict(_seen(model.graph))
    if not seen:
        return {}
    # Outputs have plain names; those of layers may hold slashes.
    outputs = tuple((f"map{i}", value) for i, value in enumerate(seen.values()))
    graph = replace(model.graph, outputs=outputs)
    step = Step(graph, inference(model.precision, model.exact), "features")
    program = step.compile("numpy", batch=1, threads=1)
    program.load(weights)
    maps = program(**{image_input(graph): image})
    return dict(zip(seen, maps.values(), strict=True))


def map_pictures(maps: Arrays) -> list[Picture]:
    """A picture for each layer: a tile for each channel of what it makes of an image.

    Where nothing is negative 0 is black and the largest number white; elsewhere 0 is
    gray, and white as far above it as black is below.
    """
    pillow()
    return [_maps(layer, array[0]) for layer, array in maps.items()]


def image_picture(image: NDArray[np.float32], what: str) -> Picture:
    """The image that the feature maps are of, [1,H,W,1] or [1,H,W,3] in [0,1]."""
    pixels = positive(image[0], 1.0)
    tile = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    factor = max(1, 4 * TILE // tile.shape[1])
    return Picture("image.png", what, captioned(tiled([tile], 1, factor), what))


def flat(array: NDArray[Any]) -> NDArray[Any]:
    """[*spatial, C, K] with two spatial axes: 1-D as a strip, 3-D slice by slice."""
    *spatial, channels, filters = array.shape
    if len(spatial) == 1:
        return array.reshape(1, *array.shape)
    if len(spatial) == 3:
        depth, height, width = spatial
        side = array.transpose(1, 0, 2, 3, 4)
        return side.reshape(height, depth * width, channels, filters)
    return array


def _kernels(graph: Graph, weights: Arrays) -> dict[str, tuple[str, NDArray[Any]]]:
    """Each parameter that is a kernel with the layer that reads it first.

    The kernel's last axes are inputs and outputs.
    """
    producers = graph.producers()
    found: dict[str, tuple[str, NDArray[Any]]] = {}
    for node in graph.nodes:
        if not slides(node) or len(node.operands) < 2:
            continue
        name, shape = _origin(node.operands[1], producers)
        if name in weights:
            kernel = weights[name].reshape(shape or weights[name].shape)
            if transposed(node):  # it is stored as that of its adjoint
                kernel = kernel.swapaxes(-1, -2)
            found.setdefault(name, (node.locs[0].layer if node.locs else name, kernel))
    return found


def _origin(value: Value, producers: Mapping[str, Node]) -> tuple[str, tuple[int, ...]]:
    """The parameter that a kernel is, reshaped at the most, and the kernel's shape.

    A volume's kernel is turned as well: the shape is then left to the parameter.
    """
    shape = value.type.inner
    while (node := producers.get(value.name)) and node.op in ("reshape", "transpose"):
        shape = () if node.op == "transpose" else shape
        value = node.operands[0]
    return value.name, shape


def _seen(graph: Graph) -> Iterator[tuple[str, Value]]:
    """The layers in which windows slide, with their last values that are images."""
    last: dict[str, Value] = {}
    looks = []
    for node in graph.nodes:
        layer = node.locs[0].layer if node.locs else node.name
        kind = node.results[0].type
        # Channels are last but for a transpose at the end, where they were asked first.
        if kind.batched and kind.rank > 2 and node.op != "transpose":
            last[layer] = node.results[0]
        if slides(node) and layer not in looks:
            looks.append(layer)
    for layer in looks:
        yield layer, last[layer]


def _filters(layer: str, kernel: NDArray[Any]) -> Picture:
    """The filters [*window,C,K] of a layer as one sheet."""
    *window, inputs, outputs = kernel.shape
    limit = float(np.abs(kernel).max())
    grays = signed(flat(kernel), limit)
    size = "x".join(map(str, window))
    if inputs in (1, 3):
        count = min(outputs, MOST_TILES)
        tiles = [grays[..., k] for k in range(count)]
        if inputs == 1:
            tiles = [tile[..., 0] for tile in tiles]
        columns = columns_for(count)
        told = f"{_first(count, outputs)} filters of {size}" + (
            ", their inputs as red, green and blue" if inputs == 3 else ""
        )
    else:
        rows, columns = min(inputs, MOST_INPUTS), min(outputs, MOST_OUTPUTS)
        tiles = [grays[..., c, k] for c in range(rows) for k in range(columns)]
        told = (
            f"filters of {size}, {_first(rows, inputs)} inputs as rows, "
            f"{_first(columns, outputs)} outputs as columns"
        )
    caption = f"{layer}: {told}; {_scale(limit)}"
    return _picture("filters", layer, caption, tiles, columns)


def _maps(layer: str, maps: NDArray[Any]) -> Picture:
    """A layer's feature maps [*spatial,C] as one sheet."""
    *spatial, channels = maps.shape
    count = min(channels, MOST_TILES)
    limit = float(np.abs(maps).max())
    least = float(maps.min())
    images = flat(maps[..., None])[..., 0]
    grays = signed(images, limit) if least < 0 else positive(images, limit)
    scale = _scale(limit) if least < 0 else f"black is 0, white {limit:.3g}"
    size = "x".join(map(str, spatial))
    caption = f"{layer}: {_first(count, channels)} maps of {size}; {scale}"
    tiles = [grays[..., k] for k in range(count)]
    return _picture("maps", layer, caption, tiles, columns_for(count))


def _picture(
    kind: str, layer: str, caption: str, tiles: list[NDArray[np.uint8]], columns: int
) -> Picture:
    sheet = captioned(tiled(tiles, columns), caption)
    return Picture(f"{kind}/{layer}.png", caption, sheet)


def _first(count: int, total: int) -> str:
    return str(total) if count == total else f"the first {count} of {total}"


def _scale(limit: float) -> str:
    return f"gray is 0, white {limit:.3g}, black {-limit:.3g}"
