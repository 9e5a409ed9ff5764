"""Fusions: each has a pattern, a check that may refuse with a reason, a rewrite.

A chain fusion starts at an anchor and takes, in a fixed order, the ops that follow it,
as long as each is the only reader of the one before. The rewrite (``outline``) moves
the nodes into a kernel whose body computes exactly what they computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from convc.backends.base import OPTIMIZERS
from convc.ir.graph import Graph, Node
from convc.passes.manager import Context, Pass
from convc.passes.outline import is_convex, outline

Check = Callable[[Graph, Node], str | None]


@dataclass(frozen=True)
class Follower:
    """An op that may follow; ``check`` gives the reason why a node may not."""

    op: str
    check: Check = lambda graph, node: None
    beside: tuple[str, ...] = ()
    """Ops that read the same value and come along (an argmax beside its pool)."""


@dataclass(frozen=True)
class Chain:
    """A chain fusion: its anchor op and the ops that may follow, in order."""

    anchor: str
    followers: tuple[Follower, ...]


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
    users, live = graph.users(), graph.live_out()
    names, last = [anchor.name], anchor
    waiting = list(chain.followers)
    while waiting:
        readers = users[last.name]
        follower, node = _next(waiting, readers)
        if follower is None or node is None:
            if readers and any(f.op == r.op for f in waiting for r in readers):
                context.refuse(anchor.name, f"{last.op} is read by several nodes")
            break
        beside = [r for r in readers if r is not node]
        if any(r.op not in follower.beside for r in beside) or last.name in live:
            reason = f"{last.name} is also read elsewhere, so {node.op} stays outside"
            context.refuse(anchor.name, reason)
            break
        reason = follower.check(graph, node)
        if reason is not None:
            context.refuse(anchor.name, f"{node.op} stays outside: {reason}")
            break
        names += [node.name, *(r.name for r in beside)]
        waiting = waiting[waiting.index(follower) + 1 :]
        last = node
    return names


def _next(
    waiting: Sequence[Follower], readers: Sequence[Node]
) -> tuple[Follower | None, Node | None]:
    for follower in waiting:
        for node in readers:
            if node.op == follower.op:
                return follower, node
    return None, None


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
            if x[axis] != y[axis] * window[axis - 1]:  # type: ignore[index,operator]
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
FUSE_DENSE = Pass(
    "fuse-dense",
    fuse_chain(
        Chain("matmul", (Follower("bias_add"), Follower("relu"), Follower("apply_mask")))
    ),
    ("tensor", "fusing"),
    "fusing",
)


def fuse_conv_backward(graph: Graph, context: Context) -> Graph:
    """All gradients of a convolution in one kernel, with the ReLU and max-pool
    gradients before them.

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
    for node in users[dz.name]:
        sums_bias = node.op == "reduce_sum" and node.attrs["axes"] == (0, 1, 2)
        same = node.op == "conv2d_input_grad" and node.operands[0] == dz
        if sums_bias or (same and _same_geometry(node, anchor)):
            group.append(node.name)
    value = dz
    for op in ("max_pool2d_grad", "relu_grad"):
        node = producers.get(value.name)
        if node is None or node.op != op:
            continue
        outside = [u.op for u in users[value.name] if u.name not in group]
        if outside or value.name in live:
            readers = ", ".join(outside) or "the outputs"
            context.refuse(anchor.name, f"{op} stays outside: {readers} read it too")
            break
        reason = _tiles_evenly(graph, node) if op == "max_pool2d_grad" else None
        if reason is not None:
            context.refuse(anchor.name, f"{op} stays outside: {reason}")
            break
        group.append(node.name)
        value = node.operands[1]
    return group


def _same_geometry(a: Node, b: Node) -> bool:
    return all(a.attrs[k] == b.attrs[k] for k in ("strides", "padding", "dilations", "groups"))


FUSE_CONV_BACKWARD = Pass(
    "fuse-conv-backward", fuse_conv_backward, ("tensor", "fusing"), "fusing"
)

def fuse_optimizer(graph: Graph, context: Context) -> Graph:
    """The updates of all parameters as one kernel over flat buffers.

    The updates are independent of each other and elementwise, so one loop over all
    parameters laid end to end does the same arithmetic on every element.
    """
    graph = replace(graph, stage="fusing")
    kinds: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op in OPTIMIZERS:
            kinds.setdefault(repr((node.op, sorted(node.attrs.items()))), []).append(
                node.name
            )
    for number, names in enumerate(kinds.values()):
        suffix = f"_{number + 1}" if number else ""
        graph = outline(graph, names, f"optimizer{suffix}")
    return graph


FUSE_OPTIMIZER = Pass("fuse-optimizer", fuse_optimizer, ("tensor", "fusing"), "fusing")
