"""The text form of a graph; ``parse(print_graph(g)) == g`` at every stage."""

import json
import re
from collections.abc import Iterable

from convc.ir.graph import Arena, Attr, Attrs, Graph, Loc, Node, Parameter, Value
from convc.ir.ops import OPS

BARE = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
"""A string that needs no quotes."""
KEYWORDS = frozenset({"true", "false", "schedule"})


def print_graph(graph: Graph) -> str:
    """The graph as text, one line a node, ending with a newline."""
    return "\n".join(graph_lines(graph)) + "\n"


def graph_lines(graph: Graph) -> list[str]:
    """The lines of ``print_graph``."""
    inputs = ", ".join(f"{v}: {input_text(graph, v)}" for v in graph.inputs)
    outputs = ", ".join(f"{text(k)}={v}" for k, v in graph.outputs)
    stage = "" if graph.stage == "tensor" else f" stage {graph.stage}"
    lines = [f"graph {text(graph.name)}({inputs}) -> ({outputs}){stage} {{"]
    lines += [f"  {parameter_line(p)}" for p in graph.parameters]
    for node in graph.nodes:
        lines += [f"  {line}" for line in node_lines(node)]
    lines += [f"  update {p} = {v}" for p, v in graph.updates]
    if graph.arena:
        lines += [f"  {line}" for line in _arena_lines(graph.arena)]
    return [*lines, "}"]


def input_text(graph: Graph, value: Value) -> str:
    """An input's type, and the number it holds if it is fed one."""
    feeds = dict(graph.feeds)
    fed = f" = {attr_text(feeds[value.name])}" if value.name in feeds else ""
    return f"{value.type}{fed}"


def parameter_line(parameter: Parameter) -> str:
    """A parameter's declaration."""
    kind = "param" if parameter.trainable else "state"
    value, initializer = parameter.value, text(parameter.initializer)
    return (
        f"{kind} {value} : {value.type} = {initializer}({_pairs(parameter.attrs)})"
        + _locs(parameter.locs)
    )


def node_lines(node: Node) -> list[str]:
    """A node's lines: one, or several for a kernel with its body."""
    results = ", ".join(str(v) for v in node.results)
    types = ", ".join(str(v.type) for v in node.results)
    operands = ", ".join(str(v) for v in node.operands)
    if node.region is None:
        attrs = _attrs(nondefault(node))
        line = f"{results} = {node.op}({operands}){attrs} : {types}"
        return [line + _locs(node.locs)]
    name = text(str(node.attrs.get("name", "")))
    lines = [f"{results} = kernel {name}({operands}) : {types} {{"]
    for inner in node.region.nodes:
        lines += [f"  {line}" for line in node_lines(inner)]
    lines.append(f"  yield {_values(node.region.yields)}")
    schedule = ""
    if node.schedule is not None:
        schedule = f" schedule {{{_pairs(node.schedule)}}}"
    return [*lines, "}" + schedule + _locs(node.locs)]


def _arena_lines(arena: Arena) -> list[str]:
    blas = f" blas {arena.blas}" if arena.blas > 1 else ""
    head = f"arena {arena.size} batch {arena.batch} threads {arena.threads}{blas} {{"
    rows = [
        f"  %{b.name} {b.offset} {b.size} live {b.first} {b.last}"
        for b in arena.buffers
    ]
    return [head, *rows, "}"]


def _values(values: Iterable[Value]) -> str:
    return ", ".join(str(v) for v in values)


def nondefault(node: Node) -> Attrs:
    """The attributes that the text form shows: those that are not the op's defaults."""
    # A graph that is not legal must print too: the verifier shows it.
    defaults = {
        k: attr_text(spec.default)
        for k, spec in (OPS[node.op].attrs if node.op in OPS else {}).items()
        if not spec.required
    }
    return {k: v for k, v in node.attrs.items() if attr_text(v) != defaults.get(k)}


def _attrs(attrs: Attrs) -> str:
    return f" {{{_pairs(attrs)}}}" if attrs else ""


def _pairs(attrs: Attrs) -> str:
    return ", ".join(f"{text(k)}={attr_text(v)}" for k, v in attrs.items())


def attr_text(value: Attr) -> str:
    """An attribute value as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ",".join(attr_text(v) for v in value) + "]"
    if isinstance(value, float):
        return repr(float(value))  # a NumPy float has a repr of its own
    return text(value) if isinstance(value, str) else repr(value)


def text(value: str) -> str:
    """A string bare where the grammar allows it, else in JSON quotes."""
    bare = BARE.fullmatch(value) and value not in KEYWORDS
    return value if bare else json.dumps(value)


def _locs(locs: tuple[Loc, ...]) -> str:
    return "   @ " + "; ".join(_loc(loc) for loc in locs) if locs else ""


def _loc(loc: Loc) -> str:
    return f"{text(loc.file)}:{loc.line}" + (f" {text(loc.layer)}" if loc.layer else "")
