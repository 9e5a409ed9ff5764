"""The order in which values are stored: the backend's, with as few copies as may be."""

from dataclasses import replace

from convc.ir.graph import VIEWS, Graph, Node, Value
from convc.passes.manager import Context, Pass
from convc.passes.outline import outline


def choose_layout(graph: Graph, context: Context) -> Graph:
    """Store every value as the backend likes it; inputs are copied into that layout.

    Inputs are given batch first. One is copied, once, only where the backend's layout
    differs and a kernel that reads it, itself or through a view, wants that. A single
    image is stored alike both ways: there the copy is a view. Weights that no step
    changes are stored as the one kernel that reads them likes it.
    """
    table = _stored_weights(graph, context)
    given, first = _read_as_given(graph, context), list[Node]()
    for value in graph.inputs:
        stored = context.backend.layout(value.type)
        if stored != value.type and value.name not in given:
            target = table[value.name] = Value(f"{value.name}.stored", stored)
            make = _view if context.batch == 1 else _copy_kernel
            first.append(make(value, target))
    nodes = [_stored_node(node, table, given, context) for node in graph.nodes]
    outputs = tuple((k, table.get(v.name, v)) for k, v in graph.outputs)
    updates = tuple((p, table.get(v.name, v)) for p, v in graph.updates)
    parameters = tuple(
        replace(p, value=table.get(p.value.name, p.value)) for p in graph.parameters
    )
    nodes = [*first, *nodes]
    return replace(
        graph,
        parameters=parameters,
        nodes=tuple(nodes),
        outputs=outputs,
        updates=updates,
    )


def _stored_weights(graph: Graph, context: Context) -> dict[str, Value]:
    """The parameters that are stored otherwise than they are given, by name."""
    users, found = graph.users(), dict[str, Value]()
    kept = {value.name for _, value in graph.outputs}
    kept |= {updated.name for updated, _ in graph.updates}
    for value in (p.value for p in graph.parameters):
        readers = users[value.name]
        if value.name in kept or len(readers) != 1 or readers[0].op in VIEWS:
            continue
        (reader,) = readers
        if reader.operands.count(value) == 1:
            at = reader.operands.index(value)
            stored = context.backend.stores_weights(reader, at, context.batch)
            if stored != value.type:
                found[value.name] = Value(value.name, stored)
    return found


def _read_as_given(graph: Graph, context: Context) -> set[str]:
    """Names of inputs that all readers, if any, take batch first, and their views."""
    found, users = set[str](), graph.users()
    for value in graph.inputs:
        aliases = _aliases(value, users)
        readers = [(r, a) for a in aliases for r in users[a.name] if r.op not in VIEWS]
        if all(
            context.backend.reads_as_given(reader, reader.operands.index(alias))
            for reader, alias in readers
        ):
            found.update(alias.name for alias in aliases)
    return found


def _aliases(value: Value, users: dict[str, list[Node]]) -> list[Value]:
    """``value`` and its views, and theirs."""
    found = [value]
    for alias in found:  # it grows on the way
        found += [r.result for r in users[alias.name] if r.op in VIEWS]
    return found


def _stored_node(
    node: Node, table: dict[str, Value], given: set[str], context: Context
) -> Node:
    operands = tuple(table.get(v.name, v) for v in node.operands)
    results = []
    for value in node.results:
        if value.name not in given:
            table[value.name] = Value(value.name, context.backend.layout(value.type))
        results.append(table.get(value.name, value))
    return replace(node, operands=operands, results=tuple(results))


def _copy_kernel(source: Value, target: Value) -> Node:
    bare = Node("copy", (source,), (Value(target.name, source.type),))
    graph = Graph("", (source,), (), (bare,), (("", bare.result),), stage="fusing")
    (kernel,) = outline(graph, [bare.name], f"{source.name}_stored").nodes
    return replace(kernel, results=(target,))


def _view(source: Value, target: Value) -> Node:
    return Node("reshape", (source,), (target,), {"shape": source.type.shape})


CHOOSE_LAYOUT = Pass("choose-layout", choose_layout, ("kernel",))
