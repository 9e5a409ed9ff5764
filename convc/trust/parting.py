"""The node at which the graphs before and after a pass part.

Passes keep the names of values, so the first value that both graphs have and that
differs says where: at the node that makes it, or at one it reads in the other's place.
"""

from dataclasses import dataclass, replace

import numpy as np

from convc.ir.graph import Graph, Node
from convc.ir.interpreter import Memo, interpret
from convc.ir.ops.base import Array
from convc.passes.samples import Samples, State


@dataclass(frozen=True)
class Parting:
    """The node to blame, as it was before the pass or as it is after, and why."""

    node: Node
    reason: str


def parting(before: Graph, after: Graph) -> Parting | None:
    """Where the two part; None if what both have in common is equal.

    If the graph after the pass cannot be run, by what is written there alone.
    """
    try:
        return _by_values(before, after) or _by_updates(before, after)
    except Exception:  # noqa: BLE001 - a wrong graph may fail in any way
        return _by_text(before, after)


def _by_text(before: Graph, after: Graph) -> Parting | None:
    """The first node that is written otherwise, kernels aside."""
    made = before.producers()
    for node in after.nodes:
        old = made.get(node.name)
        if old is not None and old.region is None and node.region is None:
            same = [v.name for v in old.operands] == [v.name for v in node.operands]
            if not same or (old.op, old.attrs) != (node.op, node.attrs):
                return _blame(old, node, before, node.name)
    return None


def _by_values(before: Graph, after: Graph) -> Parting | None:
    """The first value that differs."""
    made = before.producers()
    for whole in (True, False):
        inputs, parameters = Samples(whole).of(before, after)
        memo = Memo()
        old, new = (_values(g, inputs, parameters, memo) for g in (before, after))
        for node in after.nodes:
            for value in node.results:
                a, b = old.get(value.name), new[value.name]
                if a is not None and not _equal(a, b):
                    return _blame(made[value.name], node, before, value.name)
    return None


def _by_updates(before: Graph, after: Graph) -> Parting | None:
    """The first parameter that takes another value."""
    made = before.producers()
    taken = {target.name: value.name for target, value in after.updates}
    for target, old_value in before.updates:
        new_name = taken.get(target.name)
        if new_name != old_value.name and old_value.name in made:
            reason = f"{target} was updated to {old_value}, now to %{new_name}"
            return Parting(made[old_value.name], reason)
    return None


def _values(graph: Graph, inputs: State, parameters: State, memo: Memo) -> State:
    """Every value a node of ``graph`` makes, by name."""
    outputs = tuple((v.name, v) for n in graph.nodes for v in n.results)
    every = replace(graph, outputs=outputs, updates=())
    return interpret(every, inputs, parameters, memo=memo).outputs


def _equal(a: Array, b: Array) -> bool:
    return a is b or bool(
        a.shape == b.shape and np.all((a == b) | ((a != a) & (b != b)))
    )


def _blame(old: Node, new: Node, before: Graph, name: str) -> Parting:
    """Who is to blame for a value that ``old`` and ``new`` make differently."""
    first = f"%{name} is the first value that differs"
    if new.region is not None and old.region is None:
        return _blame_kernel(old, new, before, first)
    if (old.op, old.attrs) != (new.op, new.attrs):
        changed = [
            f"{k}={old.attrs.get(k)} became {new.attrs.get(k)}"
            for k in (*old.attrs, *(k for k in new.attrs if k not in old.attrs))
            if old.attrs.get(k) != new.attrs.get(k)
        ]
        what = f"{old.op} became {new.op}" if old.op != new.op else ", ".join(changed)
        return Parting(old, f"{first}: {what}")
    pairs = zip(old.operands, new.operands, strict=False)
    for was, now in pairs:
        if was.name != now.name:
            source = before.producers().get(was.name, old)
            reason = f"{first}: {old.op} reads %{now.name} where it read %{was.name}"
            return Parting(source, f"{reason} ({source.op})")
    return Parting(old, first)


def _blame_kernel(old: Node, new: Node, before: Graph, first: str) -> Parting:
    """The op that a kernel lacks of those that led to its result, or has wrong."""
    assert new.region is not None
    inside = [n for n in new.region.nodes if n.op != "constant"]
    reads = {v.name for v in new.operands}
    made, chain, waiting = before.producers(), list[Node](), [old]
    while waiting:
        node = waiting.pop()
        if node.op == "constant" or node in chain:
            continue
        chain.append(node)
        waiting += [
            made[v.name]
            for v in node.operands
            if v.name in made and v.name not in reads
        ]
    left = list(inside)
    for node in chain:
        twin = next((n for n in left if (n.op, n.attrs) == (node.op, node.attrs)), None)
        if twin is not None:
            left.remove(twin)
            continue
        other = next((n for n in left if n.op == node.op), None)
        if other is None:
            return Parting(node, f"{first}: the kernel has no {node.op}")
        return Parting(node, f"{first}: in the kernel, {node.op} has other attributes")
    return Parting(old, f"{first}: the kernel has its ops in another order")
