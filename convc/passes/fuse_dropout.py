"""Dropout masks drawn where they are read, by backends that draw faster than they read.

A mask is a function of seed, step and element (``ir/philox.py``), so every kernel that
reads it can draw it and gets the same bits: no kernel makes it for others, and no
memory keeps it for the backward pass.

1. A kernel takes the node into its body, in the place of the operand.
2. An ``apply_mask`` or ``apply_keep`` that no fusion took becomes a kernel and is
   treated like any other.

For other ops that read it, and as an output, the mask is still made and kept. That new
readers of the step counter run before its update is the business of ``form-kernels``.
"""

from dataclasses import replace

from convc.ir.graph import Graph
from convc.ir.ops.random import DROPOUTS, MASKS
from convc.passes.canonicalize import drop_dead
from convc.passes.manager import Context, Pass
from convc.passes.outline import absorb, kernel_name, outline


def fuse_dropout(graph: Graph, context: Context) -> Graph:
    """Move each mask into the kernels that read it, if the backend wants that."""
    graph = replace(graph, stage="fusing")
    masks = {n.name: n for n in graph.nodes if n.op in MASKS}
    if not context.backend.redraws_masks:
        reason = (
            f"drawn once: {context.backend.name} reads bits faster than it draws them"
        )
        for mask in masks.values():
            context.refuse(mask, reason, kernel_name([mask]))
        return graph
    for node in graph.nodes:
        if node.op in DROPOUTS and node.operands[1].name in masks:
            graph = outline(graph, [node.name])
    nodes = []
    for node in graph.nodes:
        drawn = [masks[v.name] for v in node.operands if v.name in masks]
        nodes.append(absorb(node, drawn) if drawn and node.region else node)
    graph = drop_dead(replace(graph, nodes=tuple(nodes)))
    users = graph.users()
    for mask in (n for n in graph.nodes if n.name in masks):
        reader = next((n.op for n in users[mask.name]), "an output of the program")
        reason = f"also kept in memory, for {reader}"
        context.refuse(mask, reason, kernel_name([mask]))
    return graph


FUSE_DROPOUT = Pass("fuse-dropout", fuse_dropout, ("tensor", "fusing"), "fusing")
