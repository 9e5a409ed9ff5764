"""A pad that a convolution or a pool reads becomes padding of its own.

1. ``conv2d(pad(x, p)) {padding=q}`` is ``conv2d(x) {padding=p+q}``: both put zeros
   around x, so the same products are summed.
2. ``max_pool2d(pad(x, p)) {padding=q}`` is ``max_pool2d(x) {padding=p+q}`` if no
   element of x is negative and every window holds some of x. Padding of a pool never
   wins, a zero of ``pad`` wins only where x has nothing above it: the maximum is 0 in
   both. There the gradient goes to x instead of the pad, and is lost either way: the
   ops that make such an x have the slope 0 at 0.

An average pool divides by the elements of x alone but counts the zeros of a pad, so
there the two differ. ``same`` is resolved on the padded size before it is added to.
"""

from dataclasses import replace

from convc.ir.errors import TypeRuleError
from convc.ir.graph import Attr, Graph, Node, merge_locs
from convc.ir.ops import OPS
from convc.ir.ops.base import ints
from convc.ir.ops.conv import conv_axes
from convc.ir.ops.pool import pool_axes
from convc.ir.ops.window import Axis
from convc.passes.canonicalize import drop_dead
from convc.passes.manager import Context, Pass
from convc.passes.outline import kernel_name

WINDOWS = ("conv2d", "max_pool2d", "avg_pool2d")


def fold_padding(graph: Graph, context: Context) -> Graph:
    """Let each window op that reads a pad pad by itself, where that is the same."""
    producers = graph.producers()
    nodes = []
    for node in graph.nodes:
        pad = producers.get(node.operands[0].name) if node.op in WINDOWS else None
        if pad is not None and pad.op == "pad":
            reason = _against(node, pad, producers)
            if reason is None:
                node = _folded(node, pad)
            else:
                why = f"the pad before it stays: {reason}"
                context.refuse(node, why, kernel_name([node]))
        nodes.append(node)
    return drop_dead(replace(graph, nodes=tuple(nodes)))


def _against(node: Node, pad: Node, producers: dict[str, Node]) -> str | None:
    """Why ``pad`` must stay before ``node``, None if it need not."""
    pads = ints(pad.attrs["pads"])
    if any((*pads[:2], *pads[6:])):
        return "it pads channels or images too"
    if node.op == "conv2d":
        return None
    if node.op == "avg_pool2d":
        return "its zeros are averaged, padding of a pool is not"
    source = producers.get(pad.operands[0].name)
    if source is None or source.op != "relu":
        maker = source.op if source else "the caller"
        return f"its zeros could win, as {maker} may give negative elements"
    try:
        _check(_folded(node, pad))
    except TypeRuleError:
        return "a window would lie in the padding alone"
    return None


def _check(node: Node) -> None:
    """TypeRuleError if the op's rule refuses the node."""
    OPS[node.op].result_types([v.type for v in node.operands], node.attrs)


def _folded(node: Node, pad: Node) -> Node:
    x, (_, *rest) = pad.operands[0], node.operands
    pads = ints(pad.attrs["pads"])
    padding: tuple[Attr, ...] = tuple(
        (axis.before + before, axis.after + after)
        for axis, before, after in zip(
            _axes(node), pads[2:6:2], pads[3:6:2], strict=True
        )
    )
    attrs = {**node.attrs, "padding": padding}
    locs = merge_locs((pad, node))
    return replace(node, operands=(x, *rest), attrs=attrs, locs=locs)


def _axes(node: Node) -> tuple[Axis, ...]:
    """The spatial axes of a window op over its padded operand."""
    sizes = node.operands[0].type.bind(1)[1:3]
    if node.op == "conv2d":
        kernel = node.operands[1].type.inner[:2]
        return conv_axes(node.op, sizes, kernel, node.attrs)
    return pool_axes(node.op, sizes, node.attrs)


FOLD_PADDING = Pass("fold-padding", fold_padding)
