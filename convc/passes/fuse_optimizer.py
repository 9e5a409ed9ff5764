"""All updates of one kind in one kernel."""

from collections.abc import Sequence
from dataclasses import replace

from convc.backends.base import OPTIMIZERS
from convc.ir.builder import GraphBuilder
from convc.ir.graph import VIEWS, Attr, Graph, Node
from convc.ir.types import DType
from convc.passes.manager import Context, Pass
from convc.passes.outline import outline


def fuse_optimizer(graph: Graph, context: Context) -> Graph:
    """The updates of all parameters, and of the step counter, as one kernel.

    The updates are independent of each other and elementwise, so one loop over all
    parameters laid end to end does the same arithmetic on every element. Updates that
    differ in kind, as biases without weight decay do, have a kernel of their own. The
    division of gradients by the loss scale comes along.
    """
    graph = _own_gradients(replace(graph, stage="fusing"))
    kinds: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op in OPTIMIZERS:
            kinds.setdefault(_said(node), []).append(node)
    for number, nodes in enumerate(kinds.values()):
        name = f"optimizer_{number + 1}" if number else "optimizer"
        if number:
            reason = f"apart from optimizer: {_said(nodes[0])}, not {next(iter(kinds))}"
            context.refuse(nodes[0], reason, name)
        counter = [] if number else _step_counter(graph)
        scaled = _unscaling(graph, nodes)
        graph = outline(graph, [*scaled, *(n.name for n in nodes), *counter], name)
    return graph


def _said(node: Node) -> str:
    """What updates must have in common to share a loop: op and attributes."""
    attrs = ", ".join(f"{k}={v}" for k, v in sorted(node.attrs.items()))
    return f"{node.op} {{{attrs}}}"


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


def _unscaling(graph: Graph, updates: Sequence[Node]) -> list[str]:
    """The nodes that divide all gradients of updates by one loss scale, if there are.

    Only where values have 16 bits is a loss scaled. What is divided must be a value of
    its own that nobody else reads, to lie among the other gradients.
    """
    producers, users, live = graph.producers(), graph.users(), graph.live_out()
    stored = any(v.type.dtype.is_half for v in graph.values())
    names, factors = list[str](), set[Attr]()
    for node in (producers.get(n.operands[1].name) for n in updates):
        if node is None or node.op != "multiply":
            return []
        scaled, factor = (producers.get(v.name) for v in node.operands)
        if scaled is None or factor is None or factor.op != "constant":
            return []
        shared = any(len(users[v.name]) > 1 for v in (node.operands[0], node.result))
        shown = not live.isdisjoint((node.operands[0].name, node.name))
        if shared or shown or scaled.op in (*VIEWS, "constant"):
            return []
        names.append(node.name)
        factors.add(factor.attrs["value"])
    return names if stored and len(factors) == 1 else []


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
