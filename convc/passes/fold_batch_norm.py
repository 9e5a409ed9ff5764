"""At inference a batch normalization becomes part of the weights before it.

With s = gamma / sqrt(variance + epsilon), per channel,

    batch_norm(conv2d(x, w) + b) = conv2d(x, w · s) + ((b - mean) · s + beta)

because a convolution is linear in its filters, and so for ``matmul``; without a bias b
is 0. What is left is a convolution with a bias, which further passes fuse.

The new weights are nodes of the graph: each run computes them from the parameters of
the moment, so other weights may be loaded without compiling again. That costs a pass
over the weights instead of one over the results; where the weights are more than the
results of a whole batch, the normalization stays. Equal up to rounding.
"""

from dataclasses import dataclass, replace

from convc.ir.builder import GraphBuilder
from convc.ir.graph import Graph, Node, in_order, merge_locs
from convc.ir.ops.base import number
from convc.passes.canonicalize import drop_dead
from convc.passes.manager import Context, Pass
from convc.passes.outline import kernel_name

LINEAR = ("conv2d", "matmul")


@dataclass(frozen=True)
class _Match:
    """A normalization with the linear op, and perhaps the bias, right before it."""

    norm: Node
    linear: Node
    bias: Node | None


def fold_batch_norm(graph: Graph, context: Context) -> Graph:
    """Fold each batch_norm that follows a convolution or a product, as above."""
    for node in [n for n in graph.nodes if n.op == "batch_norm"]:
        found = _match(graph, node, context)
        if isinstance(found, str):
            why = f"batch_norm is not folded into weights: {found}"
            context.refuse(node, why, kernel_name([node]))
        else:
            graph = _folded(graph, found)
    return graph


def _match(graph: Graph, norm: Node, context: Context) -> _Match | str:
    """The nodes to fold, or the reason why there are none."""
    producers, users, live = graph.producers(), graph.users(), graph.live_out()
    before = producers.get(norm.operands[0].name)
    bias = before if before is not None and before.op == "bias_add" else None
    linear = producers.get(bias.operands[0].name) if bias else before
    if linear is None or linear.op not in LINEAR:
        stands = linear.op if linear is not None else "an input"
        return f"it follows {stands}, not a convolution or a product"
    for node in (linear, bias):
        if node and (len(users[node.name]) > 1 or node.name in live):
            return f"{node.op}'s result is read elsewhere too"
    varying = _varying(graph)
    if any(v.name in varying for v in norm.operands[1:]):
        return "its statistics are those of the batch"
    if linear.attrs.get("transpose_b") or linear.operands[1].name in varying:
        return f"the second operand of {linear.op} is no matrix of weights [in, out]"
    if bias and bias.operands[1].name in varying:
        return "its bias depends on an input"
    weights = linear.operands[1].type.elements(1)
    results = norm.result.type.elements(context.batch)
    if weights > results:
        return f"{weights} weights are more than the {results} results of a batch"
    return _Match(norm, linear, bias)


def _varying(graph: Graph) -> set[str]:
    """Names of the values that depend on an input."""
    varying = {v.name for v in graph.inputs}
    for node in graph.nodes:
        if any(v.name in varying for v in node.operands):
            varying.update(v.name for v in node.results)
    return varying


def _folded(graph: Graph, match: _Match) -> Graph:
    b = GraphBuilder(graph.name, graph)
    b.locs = match.norm.locs
    _, gamma, beta, mean, variance = match.norm.operands
    epsilon = b.constant(number(match.norm.attrs["epsilon"]), gamma.type)
    scale = b("divide", gamma, b("sqrt", b("add", variance, epsilon)))
    x, weights = match.linear.operands
    scaled = b("multiply", weights, scale)
    if match.bias is None:
        shift = b("subtract", beta, b("multiply", mean, scale))
    else:
        centred = b("subtract", match.bias.operands[1], mean)
        shift = b("add", b("multiply", centred, scale), beta)
    linear = replace(match.linear, operands=(x, scaled))
    locs = merge_locs(n for n in (match.bias, match.norm) if n)
    operands = (linear.result, shift)
    biased = Node("bias_add", operands, match.norm.results, {}, locs)
    table = {linear.name: linear, match.norm.name: biased}
    nodes = [table.get(n.name, n) for n in b.nodes]
    return drop_dead(replace(graph, nodes=in_order(graph, nodes)))


FOLD_BATCH_NORM = Pass("fold-batch-norm", fold_batch_norm, exact=False)
