"""Reverse-mode differentiation on the IR.

One sweep over the nodes in reverse order, each op's own rule giving the gradients of
its operands, contributions to one value summed (Griewank and Walther, "Evaluating
Derivatives", 2008, section 3.2).
"""

from collections.abc import Sequence

from convc.ir.builder import GraphBuilder
from convc.ir.errors import CompileError, TypeRuleError
from convc.ir.graph import Node, Value
from convc.ir.ops import OPS


def add_gradients(
    b: GraphBuilder, of: Value, with_respect_to: Sequence[Value]
) -> list[Value | None]:
    """Append nodes for the gradient of the scalar ``of``; None where it is zero.

    CompileError, with the op and its line, where an op on the way has no gradient.
    """
    if of.type.shape != () or not of.type.dtype.is_float:
        raise CompileError(f"only a float scalar has a gradient, {of} is {of.type}")
    b.locs = next((n.locs for n in b.nodes if of in n.results), ())
    return pull_back(b, [(of, b.constant(1.0, of.type))], with_respect_to)


def pull_back(
    b: GraphBuilder,
    cotangents: Sequence[tuple[Value, Value]],
    with_respect_to: Sequence[Value],
) -> list[Value | None]:
    """Append nodes for the adjoint of the graph so far; None where it is zero.

    ``cotangents`` are values of it, each with the gradient that reaches it.
    CompileError as ``add_gradients``.
    """
    forward = list(b.nodes)
    needed = _depends_on(forward, {v.name for v in with_respect_to})
    totals = {value.name: cotangent for value, cotangent in cotangents}
    for node in reversed(forward):
        if not needed.intersection(v.name for v in node.operands):
            continue
        gradients = [totals.get(v.name) for v in node.results]
        if any(gradients):
            _sweep(b, node, gradients, needed, totals)
    return [totals.get(v.name) for v in with_respect_to]


def _sweep(
    b: GraphBuilder,
    node: Node,
    gradients: list[Value | None],
    needed: set[str],
    totals: dict[str, Value],
) -> None:
    b.locs = node.locs
    if len(gradients) != 1 or gradients[0] is None:
        raise _undifferentiable(node, f"{node.op} has several results")
    try:
        parts = OPS[node.op].gradient(b, node, gradients[0])
    except TypeRuleError as error:
        raise _undifferentiable(node, str(error)) from None
    for operand, part in zip(node.operands, parts, strict=True):
        if part is None or operand.name not in needed:
            continue
        known = totals.get(operand.name)
        totals[operand.name] = part if known is None else b("add", known, part)


def _depends_on(nodes: Sequence[Node], sources: set[str]) -> set[str]:
    """Names of the values through which a gradient can reach ``sources``."""
    needed = set(sources)
    for node in nodes:
        if needed.intersection(v.name for v in node.operands):
            needed.update(v.name for v in node.results if v.type.dtype.is_float)
    return needed


def _undifferentiable(node: Node, reason: str) -> CompileError:
    where = f" at {node.locs[0]}" if node.locs else ""
    return CompileError(f"no gradient through {node.op}{where}: {reason}")
