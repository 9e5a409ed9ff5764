"""ReLU after max-pool instead of before it.

max over a window of max(x, 0) = max(max over the window of x, 0), exactly: ReLU is
monotone and rounds nothing. With the pool first, ReLU and its gradient touch one
element per window instead of all; where there are as many windows as elements, at
stride 1, nothing is saved and ReLU stays with what is before it. Gradients are the
same too: where the window's maximum is positive both orders send dy to the first tap
that reaches it, elsewhere both give zero.
"""

from dataclasses import replace

from convc.ir.graph import Graph, Node, Value
from convc.passes.manager import Context, Pass
from convc.passes.outline import kernel_name


def commute_relu(graph: Graph, context: Context) -> Graph:
    """Exchange each relu with the max_pool2d that is its only reader."""
    users, live, producers = graph.users(), graph.live_out(), graph.producers()
    nodes: list[Node] = []
    for node in graph.nodes:
        source = producers.get(node.operands[0].name) if node.operands else None
        if node.op != "max_pool2d" or source is None or source.op != "relu":
            nodes.append(node)
            continue
        reason = ""
        if len(users[source.name]) > 1 or source.name in live:
            reason = "its result is used elsewhere too"
        elif node.result.type.elements(1) >= source.result.type.elements(1):
            reason = "there are as many windows as elements"
        if reason:
            why = f"relu stays before the pool: {reason}"
            context.refuse(node, why, kernel_name([node]))
            nodes.append(node)
            continue
        nodes.remove(source)
        pooled = Value(source.name, node.result.type)
        nodes.append(replace(node, operands=source.operands, results=(pooled,)))
        nodes.append(replace(source, operands=(pooled,), results=node.results))
    return replace(graph, nodes=tuple(nodes))


COMMUTE_RELU = Pass("commute-relu", commute_relu)
