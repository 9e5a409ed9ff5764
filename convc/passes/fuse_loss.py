"""The loss with its gradient and the count of right answers."""

from dataclasses import replace

import networkx as nx

from convc.ir.graph import Graph, Node
from convc.passes.manager import Context, Pass
from convc.passes.outline import kernel_name, outline

AROUND_LOSS = (
    "softmax_cross_entropy",
    "softmax_cross_entropy_grad",
    "reduce_mean",
    "reduce_sum",
    "reduce_mean_grad",
    "argmax",
    "equal",
    "cast",
)
"""Ops on one number per image, or on the logits, that join the loss's kernel."""


def fuse_loss(graph: Graph, context: Context) -> Graph:
    """The loss, its gradient and the count of right answers in one kernel.

    All read the same logits and labels, and softmax(logits) serves the loss and its
    gradient: d loss / d logits = softmax(logits) - onehot(labels). Every operand is
    one of these, a constant or made inside, and what logits or labels are made of
    stays outside, so no path leaves the kernel and comes back.
    """
    graph = replace(graph, stage="fusing")
    for anchor in [n for n in graph.nodes if n.op == "softmax_cross_entropy"]:
        if anchor.name not in graph.producers():
            continue
        group = _group(graph, anchor, context)
        if len(group) > 1:
            graph = outline(graph, group, kernel_name([anchor]))
    return graph


def _group(graph: Graph, anchor: Node, context: Context) -> list[str]:
    """The names of the nodes to fuse, in order."""
    known = {v.name for v in anchor.operands}
    known |= {n.name for n in graph.nodes if n.op == "constant"}
    before = nx.ancestors(graph.dataflow(), anchor.name)
    group = []
    for node in graph.nodes:
        ready = all(v.name in known for v in node.operands)
        if node.op not in AROUND_LOSS or not ready or not _per_image(node, anchor):
            continue
        if node.name in before:
            reason = f"{node.op} stays outside: logits or labels are made of it"
            context.refuse(anchor, reason, kernel_name([anchor]))
            continue
        group.append(node.name)
        known.add(node.name)
    return group


def _per_image(node: Node, anchor: Node) -> bool:
    """Whether a node works on the anchor's logits or on one number per image."""
    logits = anchor.operands[0]
    if node.op in ("softmax_cross_entropy", "softmax_cross_entropy_grad", "argmax"):
        return node.operands[0] == logits
    shapes = [v.type.shape for v in (*node.operands, node.result)]
    stored = node.result.type.dtype.is_half  # the gradient, cast for what is before
    return all(
        shape in ((), logits.type.shape[:1]) or (stored and shape == logits.type.shape)
        for shape in shapes
    )


FUSE_LOSS = Pass("fuse-loss", fuse_loss, ("tensor", "fusing"), "fusing")
