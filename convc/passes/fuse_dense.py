"""A matrix product with what follows it, and the gradients of a dense layer."""

from dataclasses import replace

from convc.backends.base import ACTIVATIONS
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.random import DROPOUTS
from convc.passes.fusion import Chain, Follower, fuse_chain, match
from convc.passes.manager import Context, Pass
from convc.passes.outline import is_convex, kernel_name, outline


def _has_half(graph: Graph, node: Node, value: Value) -> str | None:
    return None if value.type.dtype.is_half else f"{value.type} is cast alone"


DENSE = Chain(
    "matmul",
    (
        Follower(("bias_add",)),
        Follower(ACTIVATIONS),
        Follower(DROPOUTS),
        Follower(("relu_grad",), operands=(1,)),
        Follower(("cast",), _has_half),
    ),
    keeps=True,
    never={
        "batch_norm": "what is not folded into weights stands alone",
        "add": "a sum joins a convolution's kernel only",
    },
)
FUSE_DENSE = Pass("fuse-dense", fuse_chain(DENSE), ("tensor", "fusing"), "fusing")


def fuse_dense_backward(graph: Graph, context: Context) -> Graph:
    """All gradients of a dense layer in one kernel: all read one dy.

    dW = x.T @ dy, db = the sum of dy over the batch, dx = dy @ W.T with what follows
    dx (the gradients of dropout and ReLU).
    """
    graph = replace(graph, stage="fusing")
    for anchor in [n for n in graph.nodes if _is_filter_gradient(n)]:
        dy, group = anchor.operands[1], [anchor.name]
        for node in graph.users()[dy.name]:
            if node.op == "reduce_sum" and node.attrs["axes"] == (0,):
                group.append(node.name)
            if node.op == "matmul" and node.operands[0] == dy and node is not anchor:
                group += match(graph, node, DENSE, context)
        if len(group) > 1 and is_convex(graph, group):
            graph = outline(graph, group)
        elif len(group) > 1:
            reason = "a path leads from one gradient to another"
            why = f"gradients stay apart: {reason}"
            context.refuse(anchor, why, kernel_name([anchor]))
    return graph


def _is_filter_gradient(node: Node) -> bool:
    """Whether a node is x.T @ dy, a sum over the batch."""
    if node.op != "matmul" or not node.operands[1].type.batched:
        return False
    return bool(node.attrs["transpose_a"]) and not node.attrs["transpose_b"]


FUSE_DENSE_BACKWARD = Pass(
    "fuse-dense-backward", fuse_dense_backward, ("tensor", "fusing"), "fusing"
)
