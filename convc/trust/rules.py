"""Gradient rules one by one: each op of a graph alone, against differences.

The loss is the sum of the op's result, every element weighed differently. Its weights
are then the gradient that the rule is given, and the rule is all that can be wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from convc.ir.builder import GraphBuilder
from convc.ir.errors import CompileError, TypeRuleError
from convc.ir.graph import Attr, Graph, Node, Value
from convc.ir.ops import OPS
from convc.ir.types import BATCH, TensorType
from convc.passes.canonicalize import drop_dead
from convc.passes.gradient_check import GRADIENT, compare_gradients
from convc.passes.samples import BATCH as IMAGES
from convc.passes.samples import Samples


@dataclass(frozen=True)
class Rule:
    """One op's rule: the node it was met at, a loss around it, and what is wrong."""

    node: Node
    graph: Graph
    wrong: str = ""


def checked_rules(graph: Graph) -> Iterator[Rule]:
    """The rules of the ops that the loss's gradient flows through, each geometry once.

    Of any output, where none is called ``loss``.
    """
    losing = tuple(o for o in graph.outputs if o[0] == "loss") or graph.outputs
    graph = drop_dead(replace(graph, outputs=losing, updates=()))
    flowing = {p.value.name for p in graph.parameters if p.trainable}
    seen = set()
    for node in graph.nodes:
        if not any(v.name in flowing for v in node.operands):
            continue
        floats = {v.name for v in node.results if v.type.dtype.is_float}
        flowing |= floats
        types = tuple(str(v.type) for v in node.operands)
        key = node.op, types, repr(sorted(node.attrs.items()))
        if key in seen or not floats:
            continue
        seen.add(key)
        try:
            alone = around(node)
        except TypeRuleError:
            continue  # an op that needs the symbolic batch cannot stand alone
        yield Rule(node, alone, wrong_rule(alone))


def around(node: Node) -> Graph:
    """A loss of ``node`` alone on IMAGES images: the weighted sum of its result."""
    b = GraphBuilder(f"rule_{node.op}")
    operands: dict[Value, Value] = {}
    for i, value in enumerate(dict.fromkeys(node.operands)):
        kind = TensorType(value.type.dtype, value.type.bind(IMAGES))
        declare = b.parameter if kind.dtype.is_float else b.input
        operands[value] = declare(f"x{i}", kind)
    b.locs = node.locs
    attrs = {name: _bound(value) for name, value in node.attrs.items()}
    (y,) = b.emit(node.op, [operands[v] for v in node.operands], attrs)
    b.locs = ()
    loss = b("multiply", y, b.input("weights", y.type))
    if y.type.rank:
        loss = b("reduce_sum", loss, axes=tuple(range(y.type.rank)))
    b.output("loss", loss)
    return b.finish()


def _bound(attr: Attr) -> Attr:
    """A shape attribute without its symbolic batch."""
    if isinstance(attr, tuple):
        return tuple(IMAGES if item == BATCH else item for item in attr)
    return attr


def wrong_rule(graph: Graph) -> str:
    """What is wrong with the rule of the first op of ``graph``, "" for nothing.

    The graph is one that ``around`` makes.
    """
    node = graph.nodes[0]
    weights = next(v for v in graph.inputs if v.name == "weights")
    try:
        backward = _backward(graph, node, weights)
        data = Samples(whole=False).of(graph)
        compare_gradients(graph, backward, *data)
    except (CompileError, TypeRuleError) as error:
        return str(error)
    return ""


def _backward(graph: Graph, node: Node, dy: Value) -> Graph:
    """The gradients that the op's rule makes of ``dy``."""
    b = GraphBuilder(graph.name, graph)
    b.outputs = []
    totals: dict[str, Value] = {}
    for operand, part in zip(
        node.operands, OPS[node.op].gradient(b, node, dy), strict=True
    ):
        if part is not None and operand.type.dtype.is_float:
            known = totals.get(operand.name)
            totals[operand.name] = part if known is None else b("add", known, part)
    for name, value in totals.items():
        b.output(GRADIENT + name, value)
    return b.finish()


def raise_wrong(graph: Graph) -> None:
    """CompileError if the rule of the first op of ``graph`` is wrong."""
    wrong = wrong_rule(graph)
    if wrong:
        raise CompileError(f"the gradient rule of {graph.nodes[0].op}: {wrong}")
