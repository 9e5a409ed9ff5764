"""A graph as DOT text, for Graphviz and whatever else draws that language.

Each op is a box, a kernel a frame around its ops, an edge a value with its type. What
is not read is not drawn.
"""

from convc.ir.graph import Graph
from convc.ir.printer import attr_text, nondefault
from convc.matching import Item, Ops, Ref, ops_of


def dot(graph: Graph) -> str:
    """The graph as a ``digraph``, its outputs and updates at the end."""
    ops = ops_of(graph)
    names = {name: f"v{at}" for at, name in enumerate(_read(graph, ops))}
    lines = [
        f"digraph {_quoted(graph.name)} {{",
        '  graph [fontname="Helvetica", fontsize=11]',
        '  node [shape=box, fontname="Helvetica", fontsize=10]',
        '  edge [fontname="Helvetica", fontsize=8]',
    ]
    types = {v.name: str(v.type) for v in graph.values()}
    lines += [
        f"  {short} [shape=ellipse, label={_quoted(f'%{name}', types[name])}]"
        for name, short in names.items()
    ]
    lines += _boxes(ops)
    for at, item in enumerate(ops.items):
        lines += [f"  {_edge(ops, names, ref, f'n{at}')}" for ref in item.operands]
    ends = list(graph.outputs)
    ends += [(f"update %{p.name}", value) for p, value in graph.updates]
    for at, (name, value) in enumerate(ends):
        lines.append(f"  e{at} [shape=ellipse, label={_quoted(name)}]")
        lines.append(f"  {_edge(ops, names, ops.refs[value.name], f'e{at}')}")
    return "\n".join([*lines, "}"]) + "\n"


def _read(graph: Graph, ops: Ops) -> list[str]:
    """The inputs and parameters that something reads."""
    read = [ref for item in ops.items for ref in item.operands]
    read += [ops.refs[v.name] for _, v in (*graph.outputs, *graph.updates)]
    return [ref for ref in dict.fromkeys(read) if isinstance(ref, str)]


def _boxes(ops: Ops) -> list[str]:
    """Every op as a box, those of a kernel in its frame."""
    lines, inside = [], ""
    for at, item in enumerate(ops.items):
        name = item.kernel.name if item.kernel else ""
        if inside and name != inside:
            lines.append("  }")
        if item.kernel and name != inside:
            how = (
                f"{k}={attr_text(v)}" for k, v in (item.kernel.schedule or {}).items()
            )
            label = _quoted(str(item.kernel.attrs["name"]), ", ".join(how))
            lines += [f"  subgraph cluster_{at} {{", f"    label={label}"]
        inside = name
        lines.append(f"{'    ' if inside else '  '}n{at} [label={_label(item)}]")
    return [*lines, "  }"] if inside else lines


def _label(item: Item) -> str:
    attrs = [f"{k}={attr_text(v)}" for k, v in nondefault(item.node).items()]
    return _quoted(item.node.op, ", ".join(attrs), *map(str, item.node.locs))


def _edge(ops: Ops, names: dict[str, str], ref: Ref, to: str) -> str:
    if isinstance(ref, str):
        return f"{names[ref]} -> {to}"
    value = ops.items[ref[0]].results[ref[1]]
    return f"n{ref[0]} -> {to} [label={_quoted(str(value.type))}]"


def _quoted(*lines: str) -> str:
    """Lines as one DOT string; nothing in them can end it."""
    kept = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines if line)
    return '"' + "\\n".join(" ".join(line.split()) for line in kept) + '"'
