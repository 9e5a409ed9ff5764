"""What the compiler made of one layer, and why: records that a page or screen shows.

They hold strings, numbers and each other, so ``dataclasses.asdict`` makes them JSON.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import groupby, pairwise
from pathlib import Path

from convc.backends.base import Cost
from convc.diff import Change, diff
from convc.ir.errors import ModelError
from convc.ir.graph import Attrs, Graph, Loc, Node
from convc.ir.printer import attr_text, node_lines, parameter_line
from convc.matching import kernel_names
from convc.passes.manager import Stage
from convc.places import files_called
from convc.plan_table import KernelRow, Plan, candidates_of, plan_table
from convc.program import Program
from convc.roofline import Peaks
from convc.summary import Row, layer_of, summary_table


@dataclass(frozen=True)
class Line:
    """A line of the user's file; ``text`` is empty where the file cannot be read."""

    file: str
    line: int
    text: str = ""


@dataclass(frozen=True)
class Touch:
    """What a pass did to a layer, in a few phrases, and what it refused to do.

    A refusal is the subject and the reason.
    """

    stage: str
    did: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Alternative:
    """A schedule that a kernel could have, with its times in seconds.

    ``predicted`` is None for one that the backend does not propose, ``measured`` where
    no lockfile has it.
    """

    schedule: str
    predicted: float | None
    measured: float | None
    chosen: bool


@dataclass(frozen=True)
class Memory:
    """Bytes of the arena that a kernel uses while it runs.

    ``values`` it reads or writes, parameters among them; ``scratch`` is that of all
    workers; ``share`` is both as a part of the arena.
    """

    values: int
    scratch: int
    share: float


@dataclass(frozen=True)
class Code:
    """The lines of a kernel's function in the emitted source, the first numbered."""

    function: str
    first: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class KernelFacts:
    """A kernel that a layer takes part in.

    ``ops`` has the ops by layer, this one's first. ``origin`` says who chose the
    schedule: "cost model", "lockfile", "compiled" or "given". ``cost`` is the
    prediction's reasons, None for a schedule that the backend does not propose.
    ``share`` is the part of the step's time that it takes, measured if that is known,
    else predicted.
    """

    row: KernelRow
    ops: tuple[tuple[str, tuple[str, ...]], ...]
    schedule: str
    origin: str
    cost: Cost | None
    alternatives: tuple[Alternative, ...]
    memory: Memory
    share: float | None
    code: Code


@dataclass(frozen=True)
class Explanation:
    """A layer from the user's line to the lines of its kernels."""

    layer: str
    kind: str
    output: str
    lines: tuple[Line, ...]
    ops: tuple[str, ...]
    parameters: tuple[str, ...]
    passes: tuple[Touch, ...]
    kernels: tuple[KernelFacts, ...]


def explain(
    program: Program,
    layer: str,
    file: Path | None = None,
    times: Mapping[str, float] | None = None,
    peaks: Peaks | None = None,
) -> Explanation:
    """Everything that is known of ``layer`` in a compiled program.

    ``file`` is where the network was written, ``times`` the seconds of each kernel by
    its node's name (``Program.time_kernels``). ModelError, with the layers and those
    of like names, if there is no such layer.
    """
    row = known_layer(program.stages[0].graph, layer)
    plan = plan_table(program.stages, program.backend, times, peaks)
    return Explanation(
        layer,
        row.kind,
        row.shape,
        tuple(user_lines(row, file)),
        tuple("\n".join(node_lines(replace(n, locs=()))) for n in row.nodes),
        tuple(parameter_line(replace(p, locs=())) for p in row.parameters),
        tuple(touches(program.stages, layer)),
        tuple(_kernels(program, plan, layer)),
    )


def layers(traced: Graph) -> tuple[Row, ...]:
    """The layers of a traced graph, as the user wrote them."""
    return summary_table(traced).rows


def known_layer(traced: Graph, name: str) -> Row:
    """The layer called ``name``; ModelError, with those of like names, if none is."""
    rows = {row.layer: row for row in layers(traced)}
    if name not in rows:
        near = get_close_matches(name, rows)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ModelError(
            f"no layer is called {name!r}{meant}\n  the layers are {', '.join(rows)}"
        )
    return rows[name]


# -- the user's lines


def user_lines(row: Row, file: Path | None = None) -> Iterator[Line]:
    """The lines that made a layer, with their text where their file was run."""
    made = [item.locs for item in row.nodes] + [item.locs for item in row.parameters]
    for loc in dict.fromkeys(loc for locs in made for loc in locs):
        if layer_of(loc) == row.layer:
            yield Line(loc.file, loc.line, _text(loc, file))


def _text(loc: Loc, first: Path | None) -> str:
    for path in files_called(loc.file, first):
        try:
            rows = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        if loc.line <= len(rows):
            return rows[loc.line - 1].strip()
    return ""


# -- passes


def touches(stages: Sequence[Stage], layer: str) -> Iterator[Touch]:
    """The passes that changed something of a layer, or refused to."""
    for before, after in pairwise(stages):
        changes = [c for c in diff(before.graph, after.graph) if _of(layer, c.locs)]
        refused = tuple(
            (r.subject, r.reason) for r in after.refusals if _of(layer, r.locs)
        )
        did = tuple(_phrases(changes))
        if did or refused:
            yield Touch(after.name, did, refused)


def _of(layer: str, locs: Iterable[Loc]) -> bool:
    return any(layer_of(loc) == layer for loc in locs)


def _phrases(changes: Sequence[Change]) -> Iterator[str]:
    """One phrase for all changes of a kind, for fusions one for each kernel."""
    for (kind, kernel), group in groupby(changes, key=_together):
        members = list(group)
        subjects = ", ".join(dict.fromkeys(c.subject for c in members))
        if kind == "fused":
            yield f"fused {subjects} into {kernel}"
        elif kind in ("added", "deleted", "unfused"):
            yield f"{kind} {_counted(c.subject.partition(' ')[0] for c in members)}"
        elif kind == "copied":
            yield "computes again " + ", ".join(c.old for c in members)
        elif kind == "parameter":
            yield _declared(members)
        else:
            yield from (_changed(c) for c in members)


def _together(change: Change) -> tuple[str, str]:
    return change.kind, change.new if change.kind == "fused" else ""


def _declared(changes: Sequence[Change]) -> str:
    verb = "added" if all(not c.old for c in changes) else "changed"
    names = ", ".join(c.subject for c in changes)
    return f"{verb} {names}" if len(changes) < 3 else f"{verb} {len(changes)} states"


def _changed(change: Change) -> str:
    """What happened to one op, kernel or value."""
    old, new = change.old or "nothing", change.new or "nothing"
    match change.kind:
        case "moved":
            return f"moved {change.subject} {new}"
        case "renamed":
            return f"renamed {old} to {new}"
        case "operand":
            return f"{change.subject} reads {new}, not {old}"
        case "layout":
            return f"stores {change.subject} as {new}"
        case "schedule" if not change.key:
            return f"runs {change.kernel} with {new}"
    about = f"{change.subject}'s {change.key}" if change.key else change.subject
    return f"{about} is {new}, was {old}"


def _counted(names: Iterable[str]) -> str:
    """``adam x2, cast``."""
    counts = Counter(names).items()
    return ", ".join(name if n == 1 else f"{name} x{n}" for name, n in counts)


# -- kernels


def _kernels(program: Program, plan: Plan, layer: str) -> Iterator[KernelFacts]:
    """The kernels that run a layer's ops, in launch order."""
    nodes = {node.name: node for node in program.graph.nodes}
    names = kernel_names(program.graph)
    rows = {k.node: replace(k, name=names[k.node]) for k in plan.kernels}
    lines = program.source.splitlines()
    for place in program.kernels:
        row, node = rows[place.node], nodes[place.node]
        if layer in row.layers:
            code = tuple(lines[place.first - 1 : place.last])
            yield KernelFacts(
                row,
                _ops(node, layer),
                *_choice(program, node),
                memory_of(node, program.graph),
                _share(row, plan),
                Code(place.function, place.first, code),
            )


def _ops(node: Node, layer: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[str, list[str]] = {layer: []}
    for inner in node.region.nodes if node.region else ():
        name = layer_of(inner.locs[0]) if inner.locs else ""
        found.setdefault(name, []).append(inner.op)
    return tuple((name, tuple(ops)) for name, ops in found.items() if ops)


def _choice(
    program: Program, node: Node
) -> tuple[str, str, Cost | None, tuple[Alternative, ...]]:
    """A kernel's schedule, who chose it, its predicted cost, and what it could be.

    The best predicted alternatives stand first, those that are only measured last.
    """
    graph, made = program.graph, schedule_text(node.schedule or {})
    assert graph.arena is not None, "a program has a planned graph"
    found = candidates_of(node, graph.arena, program.backend)
    costs = {schedule_text(c.schedule): c.cost for c in found}
    choices = (c for stage in program.stages for c in stage.choices)
    choice = next((c for c in choices if c.node == node.name), None)
    entry = choice.entry if choice else None
    times = entry.measured if entry and entry.rounds else ()
    measured = {schedule_text(m.schedule): m.seconds for m in times}
    alternatives = (
        Alternative(
            text,
            costs[text].seconds if text in costs else None,
            measured.get(text),
            text == made,
        )
        for text in dict.fromkeys((*costs, *measured, made))
    )
    origin = choice.origin if choice else "given"
    return made, origin, costs.get(made), tuple(alternatives)


def schedule_text(schedule: Attrs) -> str:
    """``im2col_rows, images=32, rows=5``: the algorithm, then its tile."""
    tile = (f"{k}={attr_text(v)}" for k, v in sorted(schedule.items()))
    rest = (text for text in tile if not text.startswith("algorithm="))
    return ", ".join([str(schedule.get("algorithm", "")), *rest])


def memory_of(kernel: Node, graph: Graph) -> Memory:
    """What a planned kernel uses of the arena; values that share bytes count once."""
    assert graph.arena is not None, "memory is known of planned graphs"
    names = {v.name for v in (*kernel.operands, *kernel.results)}
    buffers = [b for b in graph.arena.buffers if b.name in names]
    values = sum(size for _, size in {(b.offset, b.size) for b in buffers})
    private = f"{kernel.name}!"
    scratch = sum(b.size for b in graph.arena.buffers if b.name.startswith(private))
    share = (values + scratch) / graph.arena.size if graph.arena.size else 0.0
    return Memory(values, scratch, share)


def _share(row: KernelRow, plan: Plan) -> float | None:
    """A kernel's part of the step's measured time, else of the predicted time."""
    for time in ("measured", "predicted"):
        times = [getattr(kernel.work, time) for kernel in plan.kernels]
        if None not in times and sum(times):
            return float(getattr(row.work, time) / sum(times))
    return None
