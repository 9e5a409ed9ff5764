"""A convolution with what follows it, and its gradients with what precedes them."""

from dataclasses import replace

from convc.ir.graph import Graph, Node
from convc.passes.fusion import Chain, Follower, fuse_chain
from convc.passes.manager import Context, Pass
from convc.passes.outline import is_convex, outline


def _tiles_evenly(graph: Graph, node: Node) -> str | None:
    window, strides = node.attrs["window"], node.attrs["strides"]
    if window != strides:
        return f"its windows overlap or leave gaps (window {window}, strides {strides})"
    if window == (1, 1):
        return "a window of one element pools nothing"
    if node.attrs["padding"] != "valid":
        gradient = node.op == "max_pool2d_grad"
        x = (node.result if gradient else node.operands[0]).type.bind(1)
        y = (node.operands[1] if gradient else node.result).type.bind(1)
        for axis in (1, 2):
            if x[axis] != y[axis] * window[axis - 1]:  # type: ignore[index]
                return f"its windows reach into the padding of axis {axis}"
    return None


FUSE_CONV = Pass(
    "fuse-conv",
    fuse_chain(
        Chain(
            "conv2d",
            (
                Follower("bias_add"),
                Follower("max_pool2d", _tiles_evenly, ("max_pool2d_argmax",)),
                Follower("relu"),
            ),
        )
    ),
    ("tensor", "fusing"),
    "fusing",
)


def fuse_conv_backward(graph: Graph, context: Context) -> Graph:
    """All gradients of a convolution, with those of ReLU and max-pool before them.

    Filter, input and bias gradients read one gradient dz. If nobody else reads it, dz
    need not exist in memory: a kernel makes it tile by tile. So too the gradient
    before dz, when dz is the gradient of a max-pool or a ReLU.
    """
    graph = replace(graph, stage="fusing")
    for anchor in [n for n in graph.nodes if n.op == "conv2d_filter_grad"]:
        names = _backward_group(graph, anchor, context)
        if len(names) > 1 and is_convex(graph, names):
            graph = outline(graph, names)
    return graph


def _backward_group(graph: Graph, anchor: Node, context: Context) -> list[str]:
    users, producers, live = graph.users(), graph.producers(), graph.live_out()
    dz = anchor.operands[1]
    group = [anchor.name]
    for belongs in (_sums_bias, _is_input_gradient):
        found = [n.name for n in users[dz.name] if belongs(n, anchor)]
        group += found[:1]  # the rest are another convolution's
    value = dz
    for op in ("max_pool2d_grad", "relu_grad"):
        node = producers.get(value.name)
        if node is None or node.op != op:
            continue
        outside = [u.op for u in users[value.name] if u.name not in group]
        if outside or value.name in live:
            readers = ", ".join(outside) or "the outputs"
            context.refuse(anchor, f"{op} stays outside: {readers} read it too")
            break
        reason = _tiles_evenly(graph, node) if op == "max_pool2d_grad" else None
        if reason is not None:
            context.refuse(anchor, f"{op} stays outside: {reason}")
            break
        group.append(node.name)
        value = node.operands[1]
    return group


def _sums_bias(node: Node, anchor: Node) -> bool:
    return node.op == "reduce_sum" and node.attrs["axes"] == (0, 1, 2)


def _is_input_gradient(node: Node, anchor: Node) -> bool:
    """Whether a node is the input gradient of the anchor's own geometry."""
    if node.op != "conv2d_input_grad" or node.operands[0] != anchor.operands[1]:
        return False
    same = all(
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
