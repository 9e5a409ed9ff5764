"""Fusions: each has a pattern, a check that may refuse with a reason, a rewrite.

A chain fusion starts at an anchor and takes, in a fixed order, the ops that follow it,
as long as each is the only reader of the one before. The rewrite (``outline``) moves
the nodes into a kernel whose body computes exactly what they computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from convc.backends.base import OPTIMIZERS
from convc.ir.builder import GraphBuilder
from convc.ir.graph import Graph, Node
from convc.ir.types import DType
from convc.ir.verifier import VIEWS
from convc.passes.manager import Context, Pass
from convc.passes.outline import is_convex, kernel_name, outline

Check = Callable[[Graph, Node], str | None]


@dataclass(frozen=True)
class Follower:
    """An op that may follow; ``check`` gives the reason why a node may not."""

    op: str
    check: Check = lambda graph, node: None
    beside: tuple[str, ...] = ()
    """Ops that read the same value and come along (an argmax beside its pool)."""
    operand: int = 0
    """Which operand is the value that is handed on."""


@dataclass(frozen=True)
class Chain:
    """A chain fusion: its anchor op and the ops that may follow, in order."""

    anchor: str
    followers: tuple[Follower, ...]
    keeps: bool = False
    """Whether values on the way may be read elsewhere too (they are then results)."""


def fuse_chain(chain: Chain) -> Callable[[Graph, Context], Graph]:
    """The rewrite that applies ``chain`` wherever it matches."""

    def rewrite(graph: Graph, context: Context) -> Graph:
        graph = replace(graph, stage="fusing")
        for anchor in [n for n in graph.nodes if n.op == chain.anchor]:
            names = _match(graph, anchor, chain, context)
            if len(names) > 1:
                graph = outline(graph, names)
        return graph

    return rewrite


def _match(graph: Graph, anchor: Node, chain: Chain, context: Context) -> list[str]:
    """The names of the nodes to fuse, the anchor first."""
    names, last = [anchor.name], anchor
    waiting = list(chain.followers)
    while waiting:
        readers = graph.users()[last.name]
        found = _next(waiting, last, readers)
        if found is None:
            break
        follower, node = found
        beside = [r for r in readers if r.op in follower.beside]
        longer = [*names, node.name, *(r.name for r in beside)]
        elsewhere = last.name in graph.live_out() or len(readers) > 1 + len(beside)
        reason = follower.check(graph, node)
        if elsewhere and not chain.keeps:
            reason = f"{last.op}'s result is read elsewhere too"
        elif reason is None and not is_convex(graph, longer):
            reason = "another path leads from the kernel to it"
        if reason is not None:
            context.refuse(
                anchor, f"{node.op} stays outside: {reason}", kernel_name([anchor])
            )
            break
        names, last = longer, node
        waiting = waiting[waiting.index(follower) + 1 :]
    return names


def _next(
    waiting: Sequence[Follower], last: Node, readers: Sequence[Node]
) -> tuple[Follower, Node] | None:
    for follower in waiting:
        for node in readers:
            if (
                node.op == follower.op
                and node.operands[follower.operand] == last.result
                and node.operands.count(last.result) == 1
            ):
                return follower, node
    return None


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
DENSE = Chain(
    "matmul",
    (
        Follower("bias_add"),
        Follower("relu"),
        Follower("apply_mask"),
        Follower("relu_grad", operand=1),
    ),
    keeps=True,
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
                group += _match(graph, node, DENSE, context)
        if len(group) > 1 and is_convex(graph, group):
            graph = outline(graph, group)
    return graph


def _is_filter_gradient(node: Node) -> bool:
    if node.op != "matmul" or node.result.type.batched:
        return False
    transposed = node.attrs["transpose_a"] and not node.attrs["transpose_b"]
    return bool(transposed) and node.operands[1].type.batched


FUSE_DENSE_BACKWARD = Pass(
    "fuse-dense-backward", fuse_dense_backward, ("tensor", "fusing"), "fusing"
)

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
    gradient: d loss / d logits = softmax(logits) - onehot(labels).
    """
    graph = replace(graph, stage="fusing")
    for anchor in [n for n in graph.nodes if n.op == "softmax_cross_entropy"]:
        if anchor.name not in graph.producers():
            continue
        known = {v.name for v in anchor.operands}
        known |= {n.name for n in graph.nodes if n.op == "constant"}
        group = []
        for node in graph.nodes:
            ready = all(v.name in known for v in node.operands)
            if node.op in AROUND_LOSS and ready and _per_image(node, anchor):
                group.append(node.name)
                known.add(node.name)
        if len(group) > 1 and is_convex(graph, group):
            graph = outline(graph, group, kernel_name([anchor]))
    return graph


def _per_image(node: Node, anchor: Node) -> bool:
    """Whether a node works on the anchor's logits or on one number per image."""
    logits = anchor.operands[0]
    if node.op in ("softmax_cross_entropy", "softmax_cross_entropy_grad", "argmax"):
        return node.operands[0] == logits
    shapes = [v.type.shape for v in (*node.operands, node.result)]
    return all(shape in ((), logits.type.shape[:1]) for shape in shapes)


FUSE_LOSS = Pass("fuse-loss", fuse_loss, ("tensor", "fusing"), "fusing")


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


def fuse_optimizer(graph: Graph, context: Context) -> Graph:
    """The updates of all parameters, and of the step counter, as one kernel.

    The updates are independent of each other and elementwise, so one loop over all
    parameters laid end to end does the same arithmetic on every element.
    """
    graph = _own_gradients(replace(graph, stage="fusing"))
    kinds: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op in OPTIMIZERS:
            kinds.setdefault(repr((node.op, sorted(node.attrs.items()))), []).append(
                node.name
            )
    for number, names in enumerate(kinds.values()):
        suffix = f"_{number + 1}" if number else ""
        counter = [] if number else _step_counter(graph)
        graph = outline(graph, [*names, *counter], f"optimizer{suffix}")
    return graph


def _own_gradients(graph: Graph) -> Graph:
    """``graph`` with a copy of each gradient that cannot lie among the others.

    One that two parameters have in common, and one that is an input, a parameter, a
    constant or a view of another value.
    """
    made = {
        v.name
        for n in graph.nodes
        for v in n.results
        if n.op not in (*VIEWS, "constant")
    }
    b, nodes = GraphBuilder(graph.name, graph), list[Node]()
    for node in graph.nodes:
        if node.op in OPTIMIZERS:
            parameter, gradient, *rest = node.operands
            if gradient.name in made:
                made.remove(gradient.name)
            else:
                b.locs = node.locs
                own = b("copy", gradient)
                nodes.append(b.nodes[-1])
                node = replace(node, operands=(parameter, own, *rest))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _step_counter(graph: Graph) -> list[str]:
    """The node that adds one to the number of training steps, if it stands alone."""
    producers = graph.producers()
    for parameter, value in graph.updates:
        maker = producers.get(value.name)
        if maker is None or maker.op != "add" or parameter.type.dtype is not DType.I64:
            continue
        if maker.operands[0] == parameter and not graph.users()[value.name]:
            return [maker.name]
    return []


FUSE_OPTIMIZER = Pass("fuse-optimizer", fuse_optimizer, ("tensor", "fusing"), "fusing")
