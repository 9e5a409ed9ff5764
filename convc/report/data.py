"""What the page shows of a program, as one record of plain values.

Nodes, parameters and locations stand in tables and are referred to by number: most
nodes live through most passes, and a node that has one number on both sides of a pass
has not changed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from convc import __version__
from convc.backends import backend_named
from convc.diff import diff
from convc.ir.graph import Buffer, Graph, Loc, Node, Parameter
from convc.ir.printer import attr_text, input_text, node_lines, parameter_line
from convc.matching import Item, match
from convc.passes.manager import Stage
from convc.plan_table import kernel_rows, leader
from convc.program import Program
from convc.report.lanes import lanes
from convc.report.sources import excerpts
from convc.roofline import Peaks
from convc.summary import layer_of

Record = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What a program does not know of itself.

    ``step`` names which of the model's programs it is, ``measured`` has the seconds of
    each kernel by its node's name, ``file`` is where the network was written.
    """

    step: str
    compile_seconds: float | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    peaks: Peaks | None = None
    file: Path | None = None


def record(program: Program, facts: Facts) -> Record:
    """Everything on the page, as what JSON knows: dicts, lists, strings, numbers."""
    tables = _Tables()
    stages = [tables.stage(s, program.graph) for s in program.stages]
    kernels = _kernels(program, facts, tables)
    used: dict[str, set[int]] = {file: set() for file in tables.files}
    for file, line, _ in tables.locs:
        used[list(tables.files)[file]].add(line)
    texts = excerpts(used, facts.file)
    return {
        "head": _head(program, facts),
        "layers": list(tables.layers),
        "files": [{"name": name, "lines": texts[name]} for name in tables.files],
        "locs": tables.locs,
        "nodes": list(tables.nodes.values()),
        "parameters": list(tables.parameters.values()),
        "stages": stages,
        "kernels": kernels,
        "runs": _runs(program),
        "source": program.source,
        "memory": _memory(program, tables),
        "peaks": asdict(facts.peaks) if facts.peaks else None,
    }


def _head(program: Program, facts: Facts) -> Record:
    return {
        "model": program.graph.name,
        "step": facts.step,
        "backend": program.backend,
        "target": backend_named(program.backend).target(program.threads),
        "batch": program.batch,
        "threads": program.threads,
        "version": __version__,
        "compile_seconds": facts.compile_seconds,
        "step_seconds": sum(facts.measured.values()) if facts.measured else None,
    }


class _Tables:
    """Gives every node, parameter, location, file and layer one number."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.layers: dict[str, int] = {}
        self.locs: list[tuple[int, int, int]] = []
        self.nodes: dict[str, Record] = {}
        self.parameters: dict[str, Record] = {}
        self._locs: dict[Loc, int] = {}
        self._numbers: dict[str, int] = {}

    def loc(self, loc: Loc) -> int:
        """The number of a location: of (file, line, layer), numbers but the line."""
        if loc not in self._locs:
            file = self.files.setdefault(loc.file, len(self.files))
            layer = self.layers.setdefault(layer_of(loc), len(self.layers))
            self._locs[loc] = len(self.locs)
            self.locs.append((file, loc.line, layer))
        return self._locs[loc]

    def stage(self, stage: Stage, last: Graph) -> Record:
        """The program after a pass, in numbers.

        ``became`` has, for each op in order, those in kernels too, which op of the
        ``last`` stage it is; None if it did not live to see it.
        """
        graph = stage.graph
        return {
            "name": stage.name,
            "stage": graph.stage,
            "seconds": stage.seconds,
            "checked": stage.checked,
            "nodes": [self.node(n) for n in graph.nodes],
            "lanes": lanes(graph),
            "became": _became(graph, last),
            "changes": _changes(stage),
            "inputs": [[v.name, input_text(graph, v)] for v in graph.inputs],
            "parameters": [self.parameter(p) for p in graph.parameters],
            "outputs": [[k, v.name] for k, v in graph.outputs],
            "updates": [[p.name, v.name] for p, v in graph.updates],
            "refusals": [
                [r.subject, r.reason, [self.loc(loc) for loc in r.locs]]
                for r in stage.refusals
            ],
        }

    def node(self, node: Node) -> int:
        """The number of a node; two nodes that print alike have one."""
        ir = "\n".join(node_lines(node))
        if ir not in self.nodes:
            self.nodes[ir] = {**self._described(node), "ir": ir}
            self._numbers[ir] = len(self._numbers)
        return self._numbers[ir]

    def _described(self, node: Node) -> Record:
        """What the page says of a node, its body included."""
        attrs = {k: v for k, v in node.attrs.items() if k != "name"}
        found: Record = {
            "op": node.op,
            "title": str(node.attrs.get("name", node.op)),
            "reads": [v.name for v in node.operands],
            "gives": [[v.name, str(v.type)] for v in node.results],
            "attrs": _pairs(attrs),
            "locs": [self.loc(loc) for loc in node.locs],
            "layer": self.layer(node),
        }
        if node.region is not None:
            found["schedule"] = _pairs(node.schedule or {})
            found["takes"] = [v.name for v in node.region.inputs]
            found["yields"] = [v.name for v in node.region.yields]
            found["body"] = [self._described(n) for n in node.region.nodes]
        return found

    def layer(self, node: Node) -> int | None:
        """The number of the layer that a node is listed with, None if it has none."""
        name = leader(node)
        known = next((loc for loc in node.locs if layer_of(loc) == name), None)
        return None if known is None else self.locs[self.loc(known)][2]

    def parameter(self, parameter: Parameter) -> int:
        """The number of a parameter."""
        ir = parameter_line(parameter)
        if ir not in self.parameters:
            self.parameters[ir] = {
                "number": len(self.parameters),
                "name": parameter.value.name,
                "type": str(parameter.value.type),
                "trainable": parameter.trainable,
                "locs": [self.loc(loc) for loc in parameter.locs],
                "ir": ir,
            }
        return int(self.parameters[ir]["number"])


def _pairs(attrs: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={attr_text(v)}" for k, v in attrs.items())


def _became(graph: Graph, last: Graph) -> list[int | None]:
    found = match(graph, last)
    later = {old: new for new, old in found.pairs.items()}
    return [later.get(i) for i in range(len(found.old.items))]


def _changes(stage: Stage) -> list[list[str]]:
    """What the pass did: the kind of each change, its subject, old and new."""
    if stage.before is None:
        return []
    found = diff(stage.before, stage.graph)
    return [
        [c.kind, f"{c.subject} {c.key}".strip(), c.old, c.new]
        for c in found
        if c.kind != "buffer"  # the memory's picture shows them
    ]


def _kernels(program: Program, facts: Facts, tables: _Tables) -> list[Record]:
    """The kernels in launch order, with their lines, work and time."""
    nodes = {node.name: node for node in program.graph.nodes}
    arena = program.graph.arena
    assert arena is not None, "a program has a planned graph"
    rows = kernel_rows(
        program.graph, arena, program.backend, facts.measured, facts.peaks
    )
    works = {row.node: row.work for row in rows}
    return [
        {
            "node": tables.node(nodes[kernel.node]),
            "first": kernel.first,
            "last": kernel.last,
            **asdict(works[kernel.node]),
        }
        for kernel in program.kernels
    ]


def _runs(program: Program) -> list[int | None]:
    """The number of the kernel that runs each op of the last stage, None for views."""
    numbers = {kernel.node: i for i, kernel in enumerate(program.kernels)}

    def number(item: Item) -> int | None:
        return None if item.kernel is None else numbers[item.kernel.name]

    return [number(item) for item in match(program.graph, program.graph).new.items]


def _memory(program: Program, tables: _Tables) -> Record:
    """The arena's buffers, and how many bytes any plan must hold at each launch."""
    graph, arena = program.graph, program.graph.arena
    assert arena is not None, "a program has a planned graph"
    held = _held(graph, tables)
    return {
        "bytes": arena.size,
        "launches": [tables.node(n) for n in graph.nodes],
        "buffers": [_buffer(b, held) for b in arena.buffers],
        "live": list(program.memory.alive_bytes),
        "bound": program.memory.bound_bytes,
    }


_Held = tuple[str, str, int | None]


def _held(graph: Graph, tables: _Tables) -> dict[str, _Held]:
    """What each value is, its type, and its layer's number."""
    updates = {v.name for _, v in graph.updates}
    held: dict[str, _Held] = {
        v.name: ("input", str(v.type), None) for v in graph.inputs
    }
    for p in graph.parameters:
        kind = "parameter" if p.trainable else "state"
        layer = tables.locs[tables.loc(p.locs[0])][2] if p.locs else None
        held[p.value.name] = kind, str(p.value.type), layer
    for node in graph.nodes:
        kind = "value" if node.region is not None else "view"
        for value in node.results:
            here = "update" if value.name in updates else kind
            held[value.name] = here, str(value.type), tables.layer(node)
    return held


def _buffer(buffer: Buffer, held: Mapping[str, _Held]) -> Record:
    """A buffer with its kind, type and layer; scratch has no type."""
    if buffer.name in held:
        kind, text, layer = held[buffer.name]
    else:
        kind, text = "scratch", ""
        _, _, layer = held[buffer.name.rpartition("!")[0]]
    return {**asdict(buffer), "kind": kind, "type": text, "layer": layer}
