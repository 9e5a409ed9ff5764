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

AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""What the spatial axes of images are called, by their number."""


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
    found: list[Size] = []
    for node in nodes:
        layer = node.locs[0].layer if node.locs else ""
        if node.op == "matmul":
            found.append(Size(layer, "", _product(node, producers)))
            continue
        formulas = [along(axis) for axis in window_axes(node)]
        if len(set(formulas)) > 1:
            named = zip(AXES[len(formulas)], formulas, strict=True)
            found += [Size(layer, axis, formula) for axis, formula in named]
        elif formulas:
            found.append(Size(layer, "", formulas[0]))
    return found


def window_axes(node: Node) -> tuple[Axis, ...]:
    """The spatial axes of a convolution or pool; none of any other op."""
    attrs = node.attrs
    if not {"strides", "padding"} <= attrs.keys() or "size" in attrs:
        return ()
    spatial = node.operands[0].type.inner[:-1]
    pools = "window" in attrs
    window = ints(attrs["window"]) if pools else node.operands[1].type.inner[:-2]
    dilations = ints(attrs.get("dilations", (1,) * len(spatial)))
    strides = ints(attrs["strides"])
    return resolve(node.op, spatial, window, strides, dilations, attrs["padding"])


def along(axis: Axis) -> str:
    """``(28 - 5 + 2*2)/1 + 1 = 28``: how often a window stops along an axis."""
    if axis.before == axis.after:
        padding = f"2*{axis.before}"
    else:
        padding = f"{axis.before} + {axis.after}"
    steps = f"({axis.size} - {axis.reach} + {padding})/{axis.stride}"
    if (axis.size - axis.reach + axis.before + axis.after) % axis.stride:
        steps = f"floor({steps})"
    spans = ""
    if axis.dilation > 1:
        spans = f"{axis.dilation}*({axis.kernel}-1)+1 = {axis.reach}, "
    return f"{spans}{steps} + 1 = {axis.out}"


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
