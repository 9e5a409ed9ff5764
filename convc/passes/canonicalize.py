"""Identities, cancellation, constant folding, common subexpressions and dead code.

1. An op that moves nothing is its operand: a ``reshape`` to the same shape, a
   ``transpose`` to the same order, a ``cast`` to the same type, a ``pad`` by nothing, a
   ``slice`` of everything, a ``concat`` of one.
2. ``reshape(reshape(x))`` is one reshape; so two transposes, two pads, and two slices
   along one axis.
3. ``add(x, 0)``, ``subtract(x, 0)``, ``multiply(x, 1)`` and ``divide(x, 1)`` are x, and
   with add and multiply the constant may come first.
4. ``apply_mask(x, dropout_mask {keep=1})`` is x (and its scale is 1).
5. Two nodes with one op, one list of operands and equal attributes are one node,
   which carries the origins of both. The operands of add and multiply have no order.
6. A node or state that nobody reads is dropped; inputs, trainable parameters and
   what is updated stay.
7. ``negate(negate(x))`` is x, ``relu(relu(x))`` is ``relu(x)``.
8. A ``transpose`` that moves axes of length 1 only is a reshape, which costs nothing.
9. An op on constants that gives a single number is that constant.
10. ``add(x, b)``, in either order, is ``bias_add(x, b)`` where b is a row of the last
    axis of x, as a parameter may be: fusions know it by that name.

All are exact, for NaN and infinities too, and keep gradients: only the sign of a zero
may change in case 3. So ``multiply(x, 0)`` and ``subtract(x, x)`` stay what they are:
they are NaN where x is not finite.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from convc.ir.errors import TypeRuleError
from convc.ir.graph import (
    Attrs,
    Graph,
    Node,
    Value,
    merge_locs,
    rename_uses,
    substitute,
)
from convc.ir.ops import OPS
from convc.ir.ops.base import Array, evaluated, ints
from convc.ir.types import DType
from convc.passes.manager import Context, Pass

_NEUTRAL = {"add": 0.0, "subtract": 0.0, "multiply": 1.0, "divide": 1.0}
_COMMUTATIVE = ("add", "multiply")
_MOVES = ("reshape", "transpose", "cast", "pad", "slice", "concat")
"""Ops that, on one operand, are that operand where its type and order stay."""


def canonicalize(graph: Graph, context: Context) -> Graph:
    """Apply the cases above until nothing changes."""
    while True:
        smaller = drop_dead(_merge_common(_simplified(graph)))
        if smaller == graph:
            return graph
        graph = smaller


def _simplified(graph: Graph) -> Graph:
    """``graph`` with each node replaced by an operand of its or by a simpler one."""
    producers = graph.producers()
    table: dict[str, Value] = {}
    nodes = []
    for node in graph.nodes:
        node = substitute(node, table)
        node = _folded(_as_reshape(_merged(_as_bias(node), producers)), producers)
        same = _identity(node, producers)
        if same is not None:
            table[node.name] = same
        producers[node.name] = node
        nodes.append(node)
    return rename_uses(replace(graph, nodes=tuple(nodes)), table)


def _merged(node: Node, producers: dict[str, Node]) -> Node:
    """Case 2: a node that reads past its producer, where that is of the same op."""
    source = producers.get(node.operands[0].name) if len(node.operands) == 1 else None
    if source is None or source.op != node.op or node.op not in _TOGETHER:
        return node
    attrs = _TOGETHER[node.op](source.attrs, node.attrs)
    return (
        node if attrs is None else replace(node, operands=source.operands, attrs=attrs)
    )


def _as_bias(node: Node) -> Node:
    """Case 10: the sum of a value and a row of its last axis."""
    if node.op != "add":
        return node
    for x, b in (node.operands, node.operands[::-1]):
        row = b.type.rank == 1 and not b.type.batched and x.type.rank > 1
        if row and x.type == node.result.type and b.type.shape == x.type.shape[-1:]:
            return replace(node, op="bias_add", operands=(x, b))
    return node


def _transposes(first: Attrs, second: Attrs) -> Attrs:
    inner = ints(first["perm"])
    return {"perm": tuple(inner[axis] for axis in ints(second["perm"]))}


def _pads(first: Attrs, second: Attrs) -> Attrs:
    pairs = zip(ints(first["pads"]), ints(second["pads"]), strict=True)
    return {"pads": tuple(a + b for a, b in pairs)}


def _slices(first: Attrs, second: Attrs) -> Attrs | None:
    if first["axis"] != second["axis"]:
        return None
    return {**second, "start": ints(first["start"])[0] + ints(second["start"])[0]}


_TOGETHER: dict[str, Callable[[Attrs, Attrs], Attrs | None]] = {
    "reshape": lambda first, second: second,
    "transpose": _transposes,
    "pad": _pads,
    "slice": _slices,
}
"""What two ops in a row are as one: the attributes of that (None: they stay two)."""


def _as_reshape(node: Node) -> Node:
    """Case 8: where no axis passes another that is longer than 1."""
    if node.op != "transpose":
        return node
    shape = node.operands[0].type.shape
    long = [axis for axis in ints(node.attrs["perm"]) if shape[axis] != 1]
    if long != sorted(long):
        return node
    return replace(node, op="reshape", attrs={"shape": node.result.type.shape})


def _folded(node: Node, producers: dict[str, Node]) -> Node:
    """Case 9: the constant that a node's operands, all of them constants, give.

    A constant is written once for both precisions, so it must be what the op gives in
    its own when it is rounded to that, and be finite. Else the node stays.
    """
    sources = [producers.get(v.name) for v in node.operands]
    known = [n for n in sources if n is not None and n.op == "constant"]
    if not known or len(known) < len(sources) or len(node.results) > 1:
        return node
    if node.result.type.rank:
        return node
    dtype = node.result.type.dtype
    wide = _evaluated(node, [_number(n, wide=True) for n in known])
    value, stored = float(wide), _evaluated(node, [_number(n) for n in known])
    attrs = {"value": value, "dtype": dtype.value}
    try:
        OPS["constant"].infer((), OPS["constant"].check((), attrs))
    except TypeRuleError:
        return node
    if dtype.numpy.type(value) != stored.astype(dtype.numpy):
        return node
    return replace(node, op="constant", operands=(), attrs=attrs)


def _number(constant: Node, wide: bool = False) -> Array:
    """A constant as the interpreter has it: rounded, or ``wide`` in float64."""
    dtype = constant.result.type.dtype
    kept = DType.F64 if wide and dtype.is_float else dtype
    return np.asarray(constant.attrs["value"]).astype(kept.numpy)


def _evaluated(node: Node, operands: list[Array]) -> Array:
    with np.errstate(all="ignore"):
        (result,) = evaluated(OPS[node.op], operands, node.attrs, 1)
    return result


def _identity(node: Node, producers: dict[str, Node]) -> Value | None:
    """The operand that ``node`` merely repeats, None if it computes something."""
    if not node.operands or len(node.results) > 1:
        return None
    x, sources = node.operands[0], [producers.get(v.name) for v in node.operands]
    if node.op in _NEUTRAL:
        return _beside_neutral(node, sources)  # case 3
    if x.type != node.result.type:
        return None
    if node.op in _MOVES and len(node.operands) == 1:
        return x if node.op != "transpose" or _in_order(node) else None  # case 1
    if node.op in ("negate", "relu") and sources[0] and sources[0].op == node.op:
        return x if node.op == "relu" else sources[0].operands[0]  # case 7
    if node.op == "apply_mask" and sources[1] and sources[1].op == "dropout_mask":
        keeps_all = sources[1].attrs["keep"] == 1.0 and node.attrs["scale"] == 1.0
        return x if keeps_all else None  # case 4
    return None


def _in_order(transpose: Node) -> bool:
    perm = ints(transpose.attrs["perm"])
    return list(perm) == sorted(perm)


def _beside_neutral(node: Node, sources: list[Node | None]) -> Value | None:
    """Case 3: the operand beside a constant that changes nothing."""
    x, y = node.operands
    beside = [(x, sources[1])]
    if node.op in _COMMUTATIVE:
        beside.append((y, sources[0]))
    for kept, other in beside:
        constant = other.attrs if other is not None and other.op == "constant" else {}
        if constant.get("value") == _NEUTRAL[node.op]:
            return kept
    return None


def _merge_common(graph: Graph) -> Graph:
    first: dict[str, int] = {}
    table: dict[str, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = substitute(node, table)
        operands = node.operands
        if node.op in _COMMUTATIVE:
            operands = tuple(sorted(operands, key=lambda v: v.name))
        key = repr((node.op, operands, sorted(node.attrs.items())))  # -0.0 is not 0
        if key in first:  # case 5
            twin = nodes[first[key]]
            table.update(zip((v.name for v in node.results), twin.results, strict=True))
            nodes[first[key]] = replace(twin, locs=merge_locs((twin, node)))
            continue
        first[key] = len(nodes)
        nodes.append(node)
    return rename_uses(replace(graph, nodes=tuple(nodes)), table)


def drop_dead(graph: Graph) -> Graph:
    """``graph`` without nodes and states that no output or update needs."""
    needed = {v.name for _, v in graph.outputs} | {v.name for _, v in graph.updates}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(v.name in needed for v in node.results):
            kept.append(node)
            needed.update(v.name for v in node.operands)
    updated = {p.name for p, _ in graph.updates}
    parameters = tuple(
        p
        for p in graph.parameters
        if p.trainable or p.value.name in needed or p.value.name in updated
    )
    return replace(graph, nodes=tuple(reversed(kept)), parameters=parameters)


CANONICALIZE = Pass("canonicalize", canonicalize)
