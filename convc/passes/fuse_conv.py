"""A convolution with what follows it, and its gradients with what precedes them."""

from dataclasses import replace

import networkx as nx

from convc.backends.base import ACTIVATIONS
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.pool import pool_axes
from convc.ir.ops.random import DROPOUTS
from convc.passes.fusion import Chain, Follower, fuse_chain
from convc.passes.manager import Context, Pass
from convc.passes.outline import is_convex, kernel_name, outline


def _tiles_evenly(graph: Graph, node: Node, value: Value) -> str | None:
    window, strides = node.attrs["window"], node.attrs["strides"]
    if window != strides:
        return f"its windows overlap or leave gaps (window {window}, strides {strides})"
    if window == (1, 1):
        return "a window of one element pools nothing"
    large = node.result if node.op == "max_pool2d_grad" else node.operands[0]
    axes = pool_axes(node.op, large.type.bind(1)[1:3], node.attrs)
    for number, axis in enumerate(axes, 1):
        if axis.padded:
            return f"its windows reach into the padding of axis {number}"
    return None


def _same_shape(graph: Graph, node: Node, value: Value) -> str | None:
    other = node.operands[1 - node.operands.index(value)]
    if other.type != value.type:
        return f"its other operand is {other.type}, not {value.type}"
    return None


FUSE_CONV = Pass(
    "fuse-conv",
    fuse_chain(
        Chain(
            "conv2d",
            (
                Follower(("bias_add",)),
                Follower(("max_pool2d",), _tiles_evenly, ("max_pool2d_argmax",)),
                Follower(("add",), _same_shape, operands=(0, 1)),
                Follower(ACTIVATIONS),
            ),
            never={
                "batch_norm": "what is not folded into weights stands alone",
                "avg_pool2d": "windows are pooled by their maximum only",
                "apply_mask": "a mask joins a dense layer's kernel only",
            },
        )
    ),
    ("tensor", "fusing"),
    "fusing",
)
"""conv2d [+ bias_add] [+ max_pool2d] [+ add of a residual] [+ activation].

The body keeps the order of the graph; a backend may add the bias after the pool, since
max(a + c, b + c) = max(a, b) + c exactly: rounding is monotone.
"""


def fuse_conv_backward(graph: Graph, context: Context) -> Graph:
    """All gradients of a convolution, with those of ReLU and max-pool before them.

    Filter, input and bias gradients read one gradient dz. If nobody else reads it, dz
    need not exist in memory: a kernel makes it tile by tile. So too the gradient
    before dz, when dz is the gradient of a max-pool or a ReLU. Where the filters are
    frozen the input gradient does without theirs.
    """
    graph = replace(graph, stage="fusing")
    for op in ("conv2d_filter_grad", "conv2d_input_grad"):
        for anchor in [n for n in graph.nodes if n.op == op]:
            if anchor.name not in graph.producers():
                continue  # it has joined the kernel of a filter gradient
            names = _backward_group(graph, anchor, context)
            if len(names) == 1:
                continue
            if is_convex(graph, names):
                graph = outline(graph, names)
            else:
                reason = "a path leads from one gradient to another"
                context.refuse(anchor, f"gradients stay apart: {reason}", _name(anchor))
    return graph


def _name(anchor: Node) -> str:
    return kernel_name([anchor])


def _backward_group(graph: Graph, anchor: Node, context: Context) -> list[str]:
    users, producers, live = graph.users(), graph.producers(), graph.live_out()
    dz = _gradient_of(anchor)
    group = [anchor.name]
    for belongs in (_sums_bias, _is_input_gradient):
        found = [n for n in users[dz.name] if belongs(n, anchor)]
        found = [n for n in found if not _leads_to(graph, n, anchor)]
        group += [n.name for n in found[:1]]  # the rest are another convolution's
    value, reason = dz, None
    for op in ("max_pool2d_grad", "relu_grad"):
        node = producers.get(value.name)
        if node is None or node.op != op:
            continue
        outside = [u.op for u in users[value.name] if u.name not in group]
        if outside or value.name in live:
            read = "reads" if len(outside) == 1 else "read"
            reason = f"{', '.join(outside) or 'the outputs'} {read} it too"
        elif op == "max_pool2d_grad":
            reason = _tiles_evenly(graph, node, value)
        if reason is not None:
            break
        group.append(node.name)
        value = node.operands[1]
    maker = producers.get(value.name)
    if maker is not None:
        reason = reason or NOT_UNDONE.get(maker.op)
        if reason is not None:
            context.refuse(anchor, f"{maker.op} stays outside: {reason}", _name(anchor))
    return group


NOT_UNDONE = {
    "avg_pool2d_grad": "a tile undoes max-pools only",
    **dict.fromkeys(DROPOUTS, "a tile undoes no dropout"),
    "max_pool2d_grad": "a tile undoes a ReLU after the pool, here it was before it",
}
"""Gradients that a reader may expect at the start of such a kernel, and why not."""


def _gradient_of(anchor: Node) -> Value:
    """dz: the gradient that a filter or input gradient is made from."""
    return anchor.operands[1 if anchor.op == "conv2d_filter_grad" else 0]


def _leads_to(graph: Graph, node: Node, anchor: Node) -> bool:
    """Whether the anchor needs the node: then that is a transposed convolution.

    Its filter gradient reads what it reads itself, as if it were an input gradient.
    """
    return bool(nx.has_path(graph.dataflow(), node.name, anchor.name))


def _sums_bias(node: Node, anchor: Node) -> bool:
    return node.op == "reduce_sum" and node.attrs["axes"] == (0, 1, 2)


def _is_input_gradient(node: Node, anchor: Node) -> bool:
    """Whether a node is the input gradient of the anchor's own geometry."""
    if node.op != "conv2d_input_grad" or anchor.op != "conv2d_filter_grad":
        return False
    same = node.operands[0] == anchor.operands[1] and all(
        node.attrs[key] == anchor.attrs[key]
        for key in ("strides", "padding", "dilations", "groups")
    )
    shapes = [
        (anchor.operands[0].type.shape, anchor.result.type.shape),
        (node.result.type.shape, node.operands[1].type.shape),
    ]
    return same and shapes[0] == shapes[1]


FUSE_CONV_BACKWARD = Pass(
    "fuse-conv-backward", fuse_conv_backward, ("tensor", "fusing"), "fusing"
)
