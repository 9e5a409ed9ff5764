"""Checks a graph by recomputing every type with the op's own rule."""

from collections import Counter
from collections.abc import Iterable

from convc.ir.errors import TypeRuleError, VerifyError
from convc.ir.graph import STAGES, Graph, Node, Region, Value
from convc.ir.ops import OPS
from convc.ir.printer import graph_lines

VIEWS = ("reshape",)
"""Ops that may stand outside a kernel after fusion: they only rename memory."""

CONTEXT = 6
"""Lines shown before and after a culprit."""


def verify(graph: Graph) -> Graph:
    """``graph`` itself when it is legal at its stage.

    VerifyError, with the program and the culprit underlined, when a value is used
    before its definition or defined twice, a type is not what the op's rule gives, or
    the stage's own rules are broken (see ``STAGES``).
    """
    if graph.stage not in STAGES:
        raise VerifyError(f"unknown stage {graph.stage!r}, known: {', '.join(STAGES)}")
    _check_names(graph)
    defined = {v.name: v for v in (*graph.inputs, *(p.value for p in graph.parameters))}
    for node in graph.nodes:
        try:
            _check_node(node, defined, graph.stage)
        except (TypeRuleError, VerifyError) as error:
            raise VerifyError(underline(graph, node.name, str(error))) from None
        defined.update((v.name, v) for v in node.results)
    ends = [*graph.outputs, *((f"update of {p}", v) for p, v in graph.updates)]
    for name, value in ends:
        if defined.get(value.name) != value:
            raise VerifyError(underline(graph, value.name, f"{name}: no such value"))
    _check_updates(graph)
    if graph.stage == "planned":
        _check_arena(graph)
    return graph


def underline(graph: Graph, name: str, reason: str) -> str:
    """``reason`` and the part of the program where %``name`` is defined, marked."""
    lines = graph_lines(graph)
    marks = (f"  %{name} ", f"  %{name},", f"param %{name} ", f"state %{name} ")
    hits = [i for i, line in enumerate(lines) if any(m in line[:240] for m in marks)]
    at = hits[0] if hits else 0
    text = lines[at]
    indent = len(text) - len(text.lstrip())
    shown = lines[max(0, at - CONTEXT) : at + 1]
    shown.append(" " * indent + "^" * max(1, min(len(text) - indent, 100)))
    shown += lines[at + 1 : at + 1 + CONTEXT]
    return reason + "\n" + "\n".join(shown)


def _check_names(graph: Graph) -> None:
    counts = Counter(v.name for v in graph.values())
    for name, count in counts.items():
        if count > 1:
            raise VerifyError(underline(graph, name, f"%{name} is defined {count} times"))
    names = Counter(k for k, _ in graph.outputs)
    for name, count in names.items():
        if count > 1:
            raise VerifyError(f"the output {name!r} is declared {count} times")


def _check_node(node: Node, defined: dict[str, Value], stage: str) -> None:
    for value in node.operands:
        if defined.get(value.name) != value:
            known = defined.get(value.name)
            raise VerifyError(
                f"{value}: {value.type} is used before it is defined"
                if known is None
                else f"{value} is used as {value.type}, defined as {known.type}"
            )
    if node.region is not None:
        if stage == "tensor":
            raise VerifyError("a kernel cannot stand in a graph at the tensor stage")
        _check_region(node, node.region)
    else:
        if stage != "tensor" and node.op not in VIEWS:
            raise VerifyError(f"{node.op} must stand in a kernel at the {stage} stage")
        _check_types(node)


def _check_types(node: Node) -> None:
    rule = OPS.get(node.op)
    if rule is None:
        raise VerifyError(f"unknown op {node.op!r}")
    types = [v.type for v in node.operands]
    full = rule.check(types, node.attrs)
    if full != dict(node.attrs):
        raise VerifyError(f"{node.op}: attributes are incomplete, expected {full}")
    expected = rule.result_types(types, node.attrs)
    actual = tuple(v.type.plain for v in node.results)
    if expected != actual:
        raise VerifyError(
            f"{node.op}: its rule gives {_types(expected)}, "
            f"the program says {_types(actual)}"
        )


def _check_region(node: Node, region: Region) -> None:
    if not isinstance(node.attrs.get("name"), str):
        raise VerifyError("a kernel needs a name")
    expected = tuple(Value(str(i), v.type.plain) for i, v in enumerate(node.operands))
    if region.inputs != expected:
        raise VerifyError("a kernel's inputs must be %0, %1, … of its operands' types")
    defined = {v.name: v for v in region.inputs}
    for inner in region.nodes:
        if inner.region is not None:
            raise VerifyError("a kernel cannot stand inside a kernel")
        _check_node(inner, defined, "tensor")
        for value in inner.results:
            if value.name in defined:
                raise VerifyError(f"{value} is defined twice in the kernel")
            defined[value.name] = value
    for value in region.yields:
        if defined.get(value.name) != value:
            raise VerifyError(f"the kernel yields {value}, which it does not define")
    yielded = tuple(v.type for v in region.yields)
    results = tuple(v.type.plain for v in node.results)
    if yielded != results:
        raise VerifyError(
            f"the kernel yields {_types(yielded)}, its results are {_types(results)}"
        )


def _check_updates(graph: Graph) -> None:
    parameters = {p.value.name: p.value for p in graph.parameters}
    seen: set[str] = set()
    for target, value in graph.updates:
        if parameters.get(target.name) != target or target.name in seen:
            raise VerifyError(
                f"update of {target}: must name a parameter, each at most once"
            )
        if target.type != value.type:
            raise VerifyError(
                f"update of {target}: {target.type} cannot take {value}: {value.type}"
            )
        seen.add(target.name)


def _check_arena(graph: Graph) -> None:
    arena = graph.arena
    if arena is None:
        raise VerifyError("a graph at the planned stage needs an arena")
    by_name = {b.name: b for b in arena.buffers}
    for value in graph.values():
        buffer = by_name.get(value.name)
        if buffer is None or buffer.size < value.type.nbytes(arena.batch):
            raise VerifyError(
                underline(graph, value.name, f"{value} has no buffer large enough")
            )
    for buffer in arena.buffers:
        if buffer.offset < 0 or buffer.offset + buffer.size > arena.size:
            raise VerifyError(f"%{buffer.name} lies outside the arena of {arena.size}")
    _check_overlaps(graph)


def _check_overlaps(graph: Graph) -> None:
    """No two values share bytes while both are live, unless one is the other's view
    or its update in place.
    """
    assert graph.arena is not None
    kin = _aliases(graph)
    live = sorted(graph.arena.buffers, key=lambda b: b.offset)
    for i, a in enumerate(live):
        for b in live[i + 1 :]:
            if b.offset >= a.offset + a.size:
                break
            together = a.first <= b.last and b.first <= a.last
            if together and kin.get(a.name, a.name) != kin.get(b.name, b.name):
                raise VerifyError(
                    f"%{a.name} and %{b.name} share bytes of the arena while both live"
                )


def _aliases(graph: Graph) -> dict[str, str]:
    """The value whose memory each view and each update may use, by name."""
    kin: dict[str, str] = {}
    for node in graph.nodes:
        if node.op in VIEWS:
            source = node.operands[0].name
            kin[node.name] = kin.get(source, source)
    for target, value in graph.updates:
        kin[value.name] = target.name
    return kin


def _types(types: Iterable[object]) -> str:
    return ", ".join(str(t) for t in types)
