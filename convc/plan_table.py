"""A table of a planned program: what each layer gives, holds and costs, by kernel.

A kernel often runs ops of several layers, and its time cannot be divided among them.
So each kernel is listed once, below the layer that leads it (that of its first op),
with the names of the others; a layer that leads none says where its ops are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convc.backends import backend_named
from convc.backends.base import OPTIMIZERS, Candidate
from convc.ir.errors import CompileError
from convc.ir.graph import Arena, Graph, Node
from convc.ir.ops import OPS
from convc.memory import MemoryPlan
from convc.passes.manager import Stage
from convc.passes.samples import sample
from convc.program import Program
from convc.roofline import Peaks
from convc.summary import Row, layer_of, summary_table, title

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = ("layer", "output", "params", "FLOPs", "bytes", "F/B", "predicted")
MEASURED = ("measured", "ratio", "roof")
SPARE = ("output", "params", "F/B", "bytes", "FLOPs")
"""Columns that may go where there is no room, in this order."""
_WORDS = 2
"""Columns of words, before those of numbers."""
_FEW = 2
"""So many layers are named, more are counted."""


@dataclass(frozen=True)
class Work:
    """What kernels do for one batch; two of them add up.

    ``flops`` are those of the ops by definition, whatever the algorithm does, and
    ``nbytes`` operands and results, each once. Times are in seconds, None where
    they are not known: ``predicted`` by the backend, ``measured`` in a run, ``least``
    at the machine's roofline.
    """

    flops: int = 0
    nbytes: int = 0
    predicted: float | None = 0.0
    measured: float | None = 0.0
    least: float | None = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.nbytes + other.nbytes,
            _plus(self.predicted, other.predicted),
            _plus(self.measured, other.measured),
            _plus(self.least, other.least),
        )

    @property
    def intensity(self) -> float:
        """FLOPs per byte; 0 where nothing is moved."""
        return self.flops / self.nbytes if self.nbytes else 0.0

    @property
    def ratio(self) -> float | None:
        """Measured over predicted: above 1 it took longer than was predicted."""
        return _over(self.measured, self.predicted)

    @property
    def roof(self) -> float | None:
        """The share of the roofline that was reached."""
        return _over(self.least, self.measured)


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _over(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


@dataclass(frozen=True)
class KernelRow:
    """A kernel: its name, its node's, the layers it runs ops of, and its work.

    ``leader`` is the layer it is listed below, empty for what serves the whole step.
    """

    name: str
    node: str
    leader: str
    layers: tuple[str, ...]
    work: Work

    @property
    def others(self) -> tuple[str, ...]:
        """The layers besides the leader."""
        return tuple(name for name in self.layers if name != self.leader)


@dataclass(frozen=True)
class LayerRow:
    """A layer as the user wrote it, the kernels it leads, and the leaders of others.

    ``params`` counts the numbers in its parameters and states; ``within`` names the
    layers below which further kernels stand that run its ops.
    """

    layer: str
    kind: str
    output: str
    params: int
    kernels: tuple[KernelRow, ...]
    within: tuple[str, ...]

    @property
    def work(self) -> Work:
        """That of the kernels it leads."""
        return sum((kernel.work for kernel in self.kernels), Work())


@dataclass(frozen=True)
class Plan:
    """The table: ``str`` gives plain text, a rich console draws it.

    ``others`` are the kernels that no layer leads, such as the optimizer.
    """

    name: str
    layers: tuple[LayerRow, ...]
    others: tuple[KernelRow, ...]
    memory: MemoryPlan
    peaks: Peaks | None = None

    @property
    def kernels(self) -> tuple[KernelRow, ...]:
        """Every kernel once."""
        led = (kernel for layer in self.layers for kernel in layer.kernels)
        return (*led, *self.others)

    @property
    def measured(self) -> bool:
        """Whether the program was run."""
        return any(kernel.work.measured is not None for kernel in self.kernels)

    def headings(self) -> tuple[str, ...]:
        """Of the columns; those of a run stand last, and only after one."""
        return (*HEADINGS, *(MEASURED if self.measured else ()))

    def cells(self) -> list[tuple[str, ...]]:
        """The rows as text, the total last; a kernel is indented."""
        lines = []
        for row in self.layers:
            count = f"{row.params:,}" if row.params else ""
            lines.append((_label(row), row.output, count, *self._numbers(row.work)))
            lines += [self._kernel(kernel) for kernel in row.kernels]
        lines += [self._kernel(kernel) for kernel in self.others]
        total = sum((kernel.work for kernel in self.kernels), Work())
        params = sum(row.params for row in self.layers)
        return [*lines, ("total", "", f"{params:,}", *self._numbers(total))]

    def _kernel(self, kernel: KernelRow) -> tuple[str, ...]:
        prefix = kernel.leader.replace("/", "_") + "_"
        name = kernel.name.removeprefix(prefix) if kernel.leader else kernel.name
        others = ", ".join(kernel.others)
        if len(kernel.others) > _FEW:
            others = f"{len(kernel.others)} layers"
        shared = f"with {others}" if others else ""
        indent = "  " if kernel.leader else ""
        return (f"{indent}{name}", shared, "", *self._numbers(kernel.work))

    def _numbers(self, work: Work) -> tuple[str, ...]:
        if not work.nbytes:
            return ("",) * (len(self.headings()) - _WORDS - 1)
        numbers = (
            amount(work.flops),
            amount(work.nbytes, "B"),
            digits(work.intensity),
            duration(work.predicted),
        )
        if not self.measured:
            return numbers
        ratio = "" if work.ratio is None else digits(work.ratio)
        roof = "" if work.roof is None else f"{work.roof:.0%}"
        return (*numbers, duration(work.measured), ratio, roof)

    def foot(self) -> list[str]:
        """The lines below the table."""
        lines = [str(self.memory)]
        if self.measured:
            lines.append("ratio: measured / predicted")
        if self.peaks:
            lines.append(f"roof: {self.peaks}")
        return lines

    def __str__(self) -> str:
        lines = [self.headings(), *self.cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = []
        for line in lines:
            words, numbers = line[:_WORDS], line[_WORDS:]
            left = [f"{c:<{w}}" for c, w in zip(words, widths, strict=False)]
            right = [f"{c:>{w}}" for c, w in zip(numbers, widths[_WORDS:], strict=True)]
            texts.append("  ".join([*left, *right]).rstrip())
        rule = "-" * max(map(len, texts))
        parts = [self.name, texts[0], rule, *texts[1:-1], rule, texts[-1]]
        return "\n".join([*parts, *self.foot()])

    def __rich__(self) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(self.name),
            caption=Text("\n".join(self.foot())),
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
        for i, heading in enumerate(self.headings()):
            words = i < _WORDS
            table.add_column(
                heading,
                justify="left" if words else "right",
                no_wrap=not words,
                overflow="fold",
            )
        *body, total = self.cells()
        for line in body:
            style = "dim" if line[0].startswith(" ") else ""
            table.add_row(*map(Text, line), style=style)
        table.add_section()
        table.add_row(*map(Text, total), style="bold")
        return table


def _label(row: LayerRow) -> str:
    """``pool1 (max_pool2d) in conv1``."""
    name = title(row.layer, row.kind)
    if row.kernels:
        return name
    where = f" in {', '.join(row.within)}" if row.within else ", no kernel"
    return name + where


def plan_table(
    stages: Sequence[Stage],
    backend: str = "numpy",
    times: Mapping[str, float] | None = None,
    peaks: Peaks | None = None,
) -> Plan:
    """What each layer of a planned program gives, holds and costs.

    ``times`` are the seconds of each kernel by its node's name, as
    ``Program.time_kernels`` gives them; ``peaks`` those of the machine.
    """
    graph = stages[-1].graph
    if graph.arena is None:
        raise CompileError("only a planned program has a plan; run plan-memory last")
    rows = summary_table(stages[0].graph).rows
    kernels = kernel_rows(graph, graph.arena, backend, times or {}, peaks)
    known = {row.layer for row in rows}
    return Plan(
        f"{graph.name}, batch {graph.arena.batch}, {team(graph.arena)}, {backend}",
        tuple(_layer_row(row, kernels) for row in rows),
        tuple(k for k in kernels if k.leader not in known),
        MemoryPlan.of(graph),
        peaks,
    )


def team(arena: Arena) -> str:
    """How many threads there are, as text."""
    if arena.blas > 1:
        return f"{arena.blas} threads in products"
    return "1 thread" if arena.threads == 1 else f"{arena.threads} threads"


def _layer_row(row: Row, kernels: Sequence[KernelRow]) -> LayerRow:
    led = tuple(k for k in kernels if k.leader == row.layer)
    within = (k.leader or k.name for k in kernels if row.layer in k.others)
    return LayerRow(
        row.layer, row.kind, row.shape, row.count, led, tuple(dict.fromkeys(within))
    )


def kernel_rows(
    graph: Graph,
    arena: Arena,
    backend: str,
    times: Mapping[str, float],
    peaks: Peaks | None,
) -> list[KernelRow]:
    """Every kernel of a planned graph in launch order."""
    rows = []
    for node in graph.nodes:
        if node.region is not None:
            work = kernel_work(node, arena, backend)
            least = peaks.seconds(work.flops, work.nbytes) if peaks else None
            work = replace(work, measured=times.get(node.name), least=least)
            layers = tuple(dict.fromkeys(map(layer_of, node.locs)))
            name = str(node.attrs["name"])
            rows.append(KernelRow(name, node.name, leader(node), layers, work))
    return rows


def leader(kernel: Node) -> str:
    """The layer a kernel is listed with: its first op's; none if it serves them all."""
    ops = {n.op for n in kernel.region.nodes} if kernel.region else set()
    layers = {layer_of(loc) for loc in kernel.locs}
    if not layers or (len(layers) > 1 and not ops.isdisjoint(OPTIMIZERS)):
        return ""
    return layer_of(kernel.locs[0])


def kernel_work(kernel: Node, arena: Arena, backend: str) -> Work:
    """What a scheduled kernel does by definition, and its predicted time."""
    inside = kernel.region.nodes if kernel.region else ()
    flops = sum(
        OPS[n.op].flops([v.type for v in n.operands], n.attrs, arena.batch)
        for n in inside
    )
    moved = (*kernel.operands, *kernel.results)
    nbytes = sum(v.type.nbytes(arena.batch) for v in moved)
    predicted = next(
        (
            c.cost.seconds
            for c in candidates_of(kernel, arena, backend)
            if c.schedule == kernel.schedule
        ),
        None,
    )
    return Work(flops, nbytes, predicted, None, None)


def candidates_of(kernel: Node, arena: Arena, backend: str) -> tuple[Candidate, ...]:
    """What a kernel could be run with, whatever it is run with."""
    free = replace(kernel, schedule=None)
    return backend_named(backend).candidates(free, arena.batch, arena.threads)


def kernel_times(program: Program) -> dict[str, float]:
    """Seconds of each kernel on made-up images, by its node's name.

    The inputs are overwritten, but for what the graph feeds, the parameters put back.
    """
    fill_inputs(program)
    return program.time_kernels()


def fill_inputs(program: Program) -> None:
    """Give a program made-up images, but leave what its graph feeds."""
    feeds = dict(program.graph.feeds)
    for value in (v for v in program.graph.inputs if v.name not in feeds):
        array = sample(value, program.batch, classes=1, whole=False)
        program.input(value.name)[...] = array


def duration(seconds: float | None) -> str:
    """A time for people: 34.1 us, 2.13 ms, 1.20 s; empty if there is none."""
    if seconds is None:
        return ""
    for unit, step in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * step:
            return f"{digits(seconds / step)} {unit}"
    return f"{digits(1e6 * seconds)} us"


def amount(number: float, unit: str = "") -> str:
    """A count for people, with three digits: 80.3 M, or with a unit 80.3 MFLOP."""
    for prefix, step in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * step:
            return f"{digits(number / step)} {prefix}{unit}"
    return f"{number:.0f} {unit}".rstrip()


def digits(number: float) -> str:
    """Three digits of a number, two places at the most: 0.52, 1.28, 52.3, 154."""
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f}"
