"""How large the result of each layer is, as the sum that one does by hand.

A window of f elements that moves by s over w elements, with p zeros on either side,
stops at ``(w - f + 2*p)/s + 1`` places. Where the sides differ both are written; where
the division leaves a rest, ``floor(…)``; a dilated window counts with what it spans.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from convc.ir.graph import Node
from convc.ir.ops.base import ints
from convc.ir.ops.window import Axis, resolve
from convc.ir.types import TensorType

AXES = {1: ("length",), 2: ("height", "width")}
"""What the spatial axes of sequences and images are called, by their number."""


@dataclass(frozen=True)
class Size:
    """How one size of a layer's result comes about; ``axis`` is "" for all alike."""

    layer: str
    axis: str
    formula: str


def sizes(nodes: Iterable[Node]) -> list[Size]:
    """The sizes of all convolutions, pools and matrix products, in their order."""
    nodes = list(nodes)
    producers = {node.name: node for node in nodes}
    volumes = _volumes(nodes)
    found: list[Size] = []
    for node in nodes:
        layer = _layer(node)
        if node.op == "matmul":
            found.append(Size(layer, "", _product(node, producers)))
        elif slides(node) and layer in volumes:
            found += [size for size in [volumes[layer]] if size not in found]
        elif slides(node):
            found += _formulas(node, layer)
    return found


def slides(node: Node) -> bool:
    """Whether a window slides: in a convolution, a transposed one, or a pool."""
    return {"strides", "padding"} <= node.attrs.keys()


def window_axes(node: Node) -> tuple[Axis, ...]:
    """The spatial axes along which a window slides.

    Those of a transposed convolution are of its result, along which the convolution
    slides that it is the adjoint of. An axis of one element, as sequences have it
    that are treated as images, is none.
    """
    attrs, x = node.attrs, node.operands[0].type
    spatial = ints(attrs["size"]) if transposed(node) else x.inner[:-1]
    pools = "window" in attrs
    window = ints(attrs["window"]) if pools else node.operands[1].type.inner[:-2]
    dilations = ints(attrs.get("dilations", (1,) * len(spatial)))
    strides = ints(attrs["strides"])
    axes = resolve(node.op, spatial, window, strides, dilations, attrs["padding"])
    return tuple(a for a in axes if (a.size, a.kernel, a.out) != (1, 1, 1)) or axes[-1:]


def transposed(node: Node) -> bool:
    """Whether a node that slides is a transposed convolution."""
    return "size" in node.attrs


def along(axis: Axis) -> str:
    """``(28 - 5 + 2*2)/1 + 1 = 28``: how often a window stops along an axis."""
    if axis.before == axis.after:
        padding = f"2*{axis.before}"
    else:
        padding = f"{axis.before} + {axis.after}"
    steps = f"({axis.size} - {axis.reach} + {padding})/{axis.stride}"
    if (axis.size - axis.reach + axis.before + axis.after) % axis.stride:
        steps = f"floor({steps})"
    return f"{_span(axis)}{steps} + 1 = {axis.out}"


def back_along(axis: Axis) -> str:
    """``(14 - 1)*2 + 5 - 1 - 2 = 28``: the size that has so many stops."""
    if axis.before == axis.after:
        padding = f"2*{axis.before}"
    else:
        padding = f"{axis.before} - {axis.after}"
    covered = (axis.out - 1) * axis.stride + axis.reach - axis.before - axis.after
    rest = f" + {axis.size - covered}" if axis.size > covered else ""
    steps = f"({axis.out} - 1)*{axis.stride} + {axis.reach} - {padding}{rest}"
    return f"{_span(axis)}{steps} = {axis.size}"


def _span(axis: Axis) -> str:
    if axis.dilation == 1:
        return ""
    return f"{axis.dilation}*({axis.kernel}-1)+1 = {axis.reach}, "


def _formulas(node: Node, layer: str) -> list[Size]:
    """One size where all axes have the same numbers, else one for each."""
    form = back_along if transposed(node) else along
    formulas = [form(axis) for axis in window_axes(node)]
    if len(set(formulas)) == 1:
        return [Size(layer, "", formulas[0])]
    named = zip(AXES[len(formulas)], formulas, strict=True)
    return [Size(layer, axis, formula) for axis, formula in named]


def _volumes(nodes: Iterable[Node]) -> dict[str, Size]:
    """The layers of volumes: their windows slide over images made of planes.

    ``8*8*8 -> 6*6*6`` is all that can be said of them.
    """
    seen: dict[str, list[TensorType]] = {}
    for node in nodes:
        for value in (*node.operands, *node.results):
            if value.type.batched and value.type.rank == 5:
                seen.setdefault(_layer(node), []).append(value.type)
    return {
        layer: Size(layer, "", f"{_times(types[0])} -> {_times(types[-1])}")
        for layer, types in seen.items()
    }


def _times(kind: TensorType) -> str:
    return "*".join(map(str, kind.inner[:-1]))


def _layer(node: Node) -> str:
    return node.locs[0].layer if node.locs else ""


def _product(node: Node, producers: dict[str, Node]) -> str:
    """``7*7*64 = 3136 -> 1024``: what a dense layer reads and gives."""
    units, source = node.result.type.inner[-1], node.operands[0]
    features = f"{source.type.inner[-1]} -> {units}"
    maker = producers.get(source.name)
    while maker is not None and maker.op == "apply_mask":  # dropout keeps the shape
        maker = producers.get(maker.operands[0].name)
    image = maker.operands[0].type.inner if maker and maker.op == "reshape" else ()
    if len(image) < 2 or prod(image) != source.type.inner[-1]:
        return features
    return f"{'*'.join(map(str, image))} = {features}"
