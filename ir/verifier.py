"""Checks a graph by recomputing every type with the op's own rule."""

from collections import Counter
from collections.abc import Iterable
from math import isfinite

from convc.ir.builder import NAME
from convc.ir.errors import TypeRuleError, VerifyError
from convc.ir.graph import STAGES, VIEWS, Arena, Buffer, Graph, Node, Region, Value
from convc.ir.liveness import homes, lives, takeovers
from convc.ir.ops import OPS
from convc.ir.printer import graph_lines
from convc.ir.types import DType, TensorType, batch_last

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
    _check_feeds(graph)
    _check_parameters(graph)
    defined = {v.name: v for v in (*graph.inputs, *(p.value for p in graph.parameters))}
    for node in graph.nodes:
        try:
            _check_node(node, defined, graph.stage)
        except (TypeRuleError, VerifyError) as error:
            raise VerifyError(underline(graph, node.name, str(error))) from None
        defined.update((v.name, v) for v in node.results)
    for name, value in graph.outputs:
        if defined.get(value.name) != value:
            raise VerifyError(_mark(graph, (), _undefined(f"output {name}", value)))
    _check_updates(graph, defined)
    if graph.stage == "planned":
        _check_arena(graph)
    return graph


def underline(graph: Graph, name: str, reason: str) -> str:
    """``reason`` and the part of the program where %``name`` is defined, marked."""
    kinds = ("", "param ", "state ")
    starts = tuple(f"  {kind}%{name}{end}" for kind in kinds for end in " ,")
    return _mark(graph, starts, reason)


def _mark(graph: Graph, starts: tuple[str, ...], reason: str) -> str:
    """``reason`` over the first line that starts so; the head if there is none."""
    lines = graph_lines(graph)
    at = next((i for i, line in enumerate(lines) if line.startswith(starts)), 0)
    text = lines[at]
    indent = len(text) - len(text.lstrip())
    shown = lines[max(0, at - CONTEXT) : at + 1]
    shown.append(" " * indent + "^" * max(1, min(len(text) - indent, 100)))
    shown += lines[at + 1 : at + 1 + CONTEXT]
    return reason + "\n" + "\n".join(shown)


def _undefined(use: str, value: Value) -> str:
    return f"{use} is {value}: {value.type}, which nothing defines"


def _check_names(graph: Graph) -> None:
    counts = Counter(v.name for v in graph.values())
    for name, count in counts.items():
        if not NAME.fullmatch(name):
            rule = f"a name has letters, digits and _ . / - only, got {name!r}"
            raise VerifyError(underline(graph, name, rule))
        if count > 1:
            raise VerifyError(
                underline(graph, name, f"%{name} is defined {count} times")
            )
    names = Counter(k for k, _ in graph.outputs)
    for name, count in names.items():
        if count > 1:
            reason = f"the output {name!r} is declared {count} times"
            raise VerifyError(_mark(graph, (), reason))


def _check_feeds(graph: Graph) -> None:
    inputs, seen = {v.name: v for v in graph.inputs}, set[str]()
    for name, number in graph.feeds:
        value, reason = inputs.get(name), ""
        if value is None or name in seen:
            reason = f"%{name} is fed a number: it must be an input, fed one only"
        elif value.type != TensorType(DType.F32, ()):
            reason = f"an input that is fed a number is f32[], {value} is {value.type}"
        elif not isfinite(number):
            reason = f"{value} is fed {number}; it must be finite"
        if reason:
            raise VerifyError(_mark(graph, (), reason))
        seen.add(name)


def _check_parameters(graph: Graph) -> None:
    for parameter in graph.parameters:
        value = parameter.value
        if value.type.batched:
            rule = f"a parameter has no batch axis, {value} is {value.type}"
            raise VerifyError(underline(graph, value.name, rule))
        for key, attr in parameter.attrs.items():
            if isinstance(attr, float) and not isfinite(attr):
                rule = f"{parameter.initializer}: {key} must be finite, is {attr}"
                raise VerifyError(underline(graph, value.name, rule))


def _check_node(node: Node, defined: dict[str, Value], stage: str) -> None:
    for value in node.operands:
        if defined.get(value.name) != value:
            known = defined.get(value.name)
            raise VerifyError(
                f"{value}: {value.type} is used before it is defined"
                if known is None
                else f"{value} is used as {value.type}, defined as {known.type}"
            )
    if node.region is None and node.schedule is not None:
        raise VerifyError(f"{node.op}: only a kernel has a schedule")
    if node.region is not None:
        if stage == "tensor":
            raise VerifyError("a kernel cannot stand in a graph at the tensor stage")
        _check_region(node, node.region)
    else:
        if stage in ("kernel", "planned") and node.op not in VIEWS:
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
    if node.op != "kernel":
        raise VerifyError(f"{node.op}: only a kernel has a body")
    if node.attrs.keys() != {"name"} or not isinstance(node.attrs["name"], str):
        raise VerifyError(f"a kernel has a name and no more, got {dict(node.attrs)}")
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
            if not NAME.fullmatch(value.name):
                raise VerifyError(f"a kernel's value cannot be called {value.name!r}")
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


def _check_updates(graph: Graph, defined: dict[str, Value]) -> None:
    parameters = {p.value.name: p.value for p in graph.parameters}
    seen: set[str] = set()
    for target, value in graph.updates:
        reason = ""
        if defined.get(value.name) != value:
            reason = _undefined(f"update of {target}", value)
        elif parameters.get(target.name) != target or target.name in seen:
            reason = f"update of {target}: must name a parameter, each at most once"
        elif target.type != value.type:
            reason = (
                f"update of {target}: {target.type} cannot take {value}: {value.type}"
            )
        if reason:
            raise VerifyError(_mark(graph, (f"  update {target} = {value}",), reason))
        seen.add(target.name)


def _check_arena(graph: Graph) -> None:
    arena = graph.arena
    if arena is None:
        reason = "a graph at the planned stage needs an arena"
        raise VerifyError(_mark(graph, (), reason))
    if arena.size < 0 or min(arena.batch, arena.threads, arena.blas) < 1:
        reason = "an arena has a batch and threads of at least 1 and no negative size"
        raise VerifyError(_mark(graph, ("  arena ",), reason))
    by_name = {b.name: b for b in arena.buffers}
    for value in graph.values():
        buffer = by_name.get(value.name)
        needed = value.type.nbytes(arena.batch)
        if buffer is None or buffer.size < needed:
            has = f"{buffer.size}" if buffer else "none"
            reason = f"{value} needs a buffer of {needed} bytes, has {has}"
            raise VerifyError(underline(graph, value.name, reason))
    _check_views(graph, arena)
    _check_buffers(graph, arena)
    _check_lives(graph, arena)
    _check_donations(graph)
    _check_overlaps(graph, arena)


def _check_views(graph: Graph, arena: Arena) -> None:
    """A view has its source's elements in the same places: batch first, or last."""
    for node in graph.nodes:
        if node.op in VIEWS and arena.batch > 1:
            source, view = node.operands[0].type, node.result.type
            if not _places_of_batch(source) & _places_of_batch(view):
                reason = (
                    f"{node.result} is a view of {node.operands[0]}, but {source} and "
                    f"{view} keep the batch in different places; copy it instead"
                )
                raise VerifyError(underline(graph, node.name, reason))


def _places_of_batch(tensor: TensorType) -> set[str]:
    places = {"first": tensor.plain, "last": batch_last(tensor)}
    return {place for place, t in places.items() if t == tensor}


def _check_buffers(graph: Graph, arena: Arena) -> None:
    counts = Counter(b.name for b in arena.buffers)
    for buffer in arena.buffers:
        reason = ""
        if counts[buffer.name] > 1:
            reason = f"%{buffer.name} has {counts[buffer.name]} buffers"
        elif min(buffer.offset, buffer.size) < 0 or (
            buffer.offset + buffer.size > arena.size
        ):
            reason = f"%{buffer.name} lies outside the arena of {arena.size} bytes"
        elif buffer.first > buffer.last:
            reason = f"%{buffer.name} dies at {buffer.last}, before its {buffer.first}"
        if reason:
            raise VerifyError(_mark(graph, (f"    %{buffer.name} ",), reason))


def _check_lives(graph: Graph, arena: Arena) -> None:
    """Every buffer lives as long as somebody needs what is in it."""
    home, needed = homes(graph), lives(graph)
    launches = {node.name: (at, at) for at, node in enumerate(graph.nodes)}
    for buffer in arena.buffers:
        name, _, scratch = buffer.name.partition("!")
        span = launches.get(name) if scratch else needed.get(home.get(name, ""))
        first, last = span or (buffer.first, buffer.last)
        if first < buffer.first or buffer.last < last:
            reason = (
                f"%{buffer.name} is needed from launch {first} to {last}, its buffer "
                f"lives from {buffer.first} to {buffer.last}"
            )
            raise VerifyError(_mark(graph, (f"    %{buffer.name} ",), reason))


def _check_donations(graph: Graph) -> None:
    """Nothing reads a parameter once its update has taken its place."""
    donated = {value.name: target for target, value in graph.updates}
    old = {target.name: target for target in donated.values()}
    gone: dict[Value, Value] = {}
    for node in graph.nodes:
        for value in node.operands:
            target = old.get(value.name)
            if target and target in gone:
                reason = f"{value} is read after {gone[target]} has taken its place"
                raise VerifyError(underline(graph, node.name, reason))
            if target and node.op in VIEWS:
                old[node.name] = target
        gone |= {donated[v.name]: v for v in node.results if v.name in donated}


def _check_overlaps(graph: Graph, arena: Arena) -> None:
    """No two values share bytes while both live, with three exceptions.

    A view lies on its source and an update on its parameter; and a result may begin
    where an operand ends, in its very place, if that is legal by ``takeovers``.
    """
    home, taken = homes(graph), dict[tuple[str, str], int]()
    for at, pairs in takeovers(graph).items():
        node = graph.nodes[at]
        for i, j in pairs:
            taken[home[node.operands[i].name], node.results[j].name] = at

    def follows(a: Buffer, b: Buffer) -> bool:
        launch = taken.get((home.get(a.name, ""), home.get(b.name, "")))
        return launch is not None and a.last == launch == b.first

    live = sorted(arena.buffers, key=lambda b: b.offset)
    for i, a in enumerate(live):
        for b in live[i + 1 :]:
            if b.offset >= a.offset + a.size:
                break
            if a.first > b.last or b.first > a.last:
                continue
            kin = home.get(a.name, a.name) == home.get(b.name, b.name)
            replaced = a.offset == b.offset and (follows(a, b) or follows(b, a))
            if not kin and not replaced:
                reason = f"%{a.name} and %{b.name} share bytes while both live"
                raise VerifyError(_mark(graph, (f"    %{b.name} ",), reason))


def _types(types: Iterable[object]) -> str:
    return ", ".join(str(t) for t in types)
