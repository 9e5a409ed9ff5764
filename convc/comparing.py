"""Layers on several backends: how far each is from float64, and how long it takes.

A block is a layer with parameters and what follows it up to the next. Each of its
directions is a program of its own on made-up data:

- forward: with what the backward directions read kept, as in a training step;
- input gradient: of the block's input, from a gradient of its results;
- weight gradient: of its parameters.

convc's backends compile graphs of their own rules of differentiation; PyTorch gets the
forward graph alone and makes the gradients itself. Every backend runs in a process of
its own, and they take turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from convc.autodiff import pull_back
from convc.backends import backend_named
from convc.engines import family, targeted
from convc.explain import schedule_text
from convc.ir.builder import GraphBuilder
from convc.ir.errors import ConvcError
from convc.ir.graph import Graph
from convc.ir.ops import OPS
from convc.ir.ops.base import Array
from convc.ir.rounding import Bounds, bounded
from convc.loading import load_model
from convc.lockfile import VARIABLE
from convc.passes.canonicalize import CANONICALIZE, drop_dead
from convc.passes.commute_relu import COMMUTE_RELU
from convc.passes.fold_padding import FOLD_PADDING
from convc.passes.manager import Pass
from convc.passes.samples import Samples, State
from convc.pipeline import EXACT_LOWERING, LOWERING, Step, default_threads
from convc.roofline import Peaks, machine_peaks
from convc.summary import layer_of
from convc.team import Member, MemberError, Team, team
from convc.trust.audit import blocks
from convc.trust.window import window

if TYPE_CHECKING:
    from convc.engines.torch_engine import TorchNetwork
    from convc.model import Model
    from convc.program import Program

FORWARD, INPUT, WEIGHT = "forward", "input gradient", "weight gradient"
DIRECTIONS = (FORWARD, INPUT, WEIGHT)
IMAGES = 4
"""Images whose results are compared with float64."""
TURN = 0.03
"""Seconds that a backend's turn lasts at least."""
MOST = 50
"""The most calls in a turn."""
SAVED = ("max_pool2d_argmax",)
"""Ops of the rules of differentiation that belong to the forward direction."""

_BEFORE = (CANONICALIZE, FOLD_PADDING, COMMUTE_RELU)
_AFTER = Pass("simplify", CANONICALIZE.rewrite)


@dataclass(frozen=True)
class Block:
    """A layer and the layers with it: their ops as traced, and all directions.

    ``joint`` has the forward outputs and the gradients; ``cotangents`` names the input
    that weighs each forward output, ``gradients`` the outputs of each direction with
    the input or parameter whose gradient they are.
    """

    layer: str
    others: tuple[str, ...]
    traced: Graph
    joint: Graph
    cotangents: Mapping[str, str]
    gradients: Mapping[str, Mapping[str, str]]

    @property
    def directions(self) -> tuple[str, ...]:
        """Those that the block has."""
        return (FORWARD, *(d for d in (INPUT, WEIGHT) if self.gradients[d]))

    @cached_property
    def flow(self) -> nx.DiGraph[str]:
        """The joint graph's data flow."""
        return self.joint.dataflow()

    @cached_property
    def backward(self) -> frozenset[str]:
        """The nodes that depend on a cotangent, or belong to the rules alone."""
        own = {n.name for n in self.traced.nodes}
        return frozenset(
            n.name
            for n in self.joint.nodes
            if n.name not in own and n.op not in SAVED and n.op != "constant"
        )

    def graph(self, direction: str) -> Graph:
        """One direction as a graph; what it reads from others is an input."""
        if direction == FORWARD:
            kept = [n.name for n in self.joint.nodes if n.name not in self.backward]
            return window(self.joint, kept)
        outputs = self.gradients[direction]
        results = dict(self.joint.outputs)
        wanted = {results[name].name for name in outputs}
        needed = set(wanted)
        for name in wanted & set(self.flow):
            needed |= nx.ancestors(self.flow, name)
        part = window(self.joint, needed & self.backward)
        shown = tuple((name, results[name]) for name in outputs)
        return replace(part, outputs=shown, updates=())


def blocks_of(model: Model) -> Iterator[Block]:
    """The blocks of a model's training step, in order."""
    graph = model.training_step().graph
    images = {v.name for v in graph.inputs}
    for layer, nodes in blocks(graph):
        part = window(graph, [n.name for n in nodes])
        part = drop_dead(replace(part, updates=()))
        names = dict.fromkeys(layer_of(loc) for n in nodes for loc in n.locs)
        others = tuple(name for name in names if name != layer)
        yield Block(layer, others, part, *_joint(part, images))


def _joint(
    part: Graph, images: set[str]
) -> tuple[Graph, dict[str, str], dict[str, dict[str, str]]]:
    """A part with the adjoint of its rules, and the names that ``Block`` wants."""
    graph = Step(part, _BEFORE).stages(batch=1, threads=1)[-1].graph
    b = GraphBuilder(graph.name, graph)
    results = [(k, v) for k, v in graph.outputs if v.type.dtype.is_float]
    cotangents = {k: f"cotangent/{k}" for k, _ in results}
    weighed = [(v, b.input(cotangents[k], v.type.plain)) for k, v in results]
    leaves = {
        INPUT: [
            v for v in graph.inputs if v.type.dtype.is_float and v.name not in images
        ],
        WEIGHT: [p.value for p in graph.parameters if p.trainable],
    }
    every = [*leaves[INPUT], *leaves[WEIGHT]]
    found = dict(
        zip((v.name for v in every), pull_back(b, weighed, every), strict=True)
    )
    gradients: dict[str, dict[str, str]] = {}
    for direction, values in leaves.items():
        gradients[direction] = {}
        for value in values:
            gradient = found[value.name]
            if gradient is not None:
                gradients[direction][f"gradient/{value.name}"] = value.name
                b.output(f"gradient/{value.name}", gradient)
    joint = Step(b.finish(), (_AFTER,)).stages(batch=1, threads=1)[-1].graph
    return joint, cotangents, gradients


def work_of(block: Block, direction: str, batch: int) -> tuple[int, int]:
    """FLOPs by definition, and bytes of what is read and given, each once."""
    graph = block.graph(direction)
    flops = sum(
        OPS[n.op].flops([v.type for v in n.operands], n.attrs, batch)
        for n in graph.nodes
    )
    moved = [*graph.inputs, *(p.value for p in graph.parameters)]
    moved += [v for _, v in graph.outputs]
    return flops, sum(v.type.nbytes(batch) for v in moved)


# -- in each backend's process


@dataclass(frozen=True)
class Job:
    """What every backend is given."""

    model: str
    input_type: str | None
    batch: int
    threads: int | None
    exact: bool
    lockfile: str | None

    def blocks(self) -> list[Block]:
        """The model's blocks, traced again."""
        return list(blocks_of(load_model(self.model, self.input_type)))

    @property
    def workers(self) -> int:
        """Threads of the host, where no number is given every core."""
        return self.threads or default_threads(backend_named("numpy"))


@dataclass
class Contender:
    """A backend on the blocks, one after the other; ``calls`` run a direction once."""

    job: Job
    backend: str
    block: Block | None = None
    calls: dict[str, Callable[[], float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.job.lockfile is not None:
            os.environ[VARIABLE] = self.job.lockfile
        self.blocks = self.job.blocks()

    def ready(self, number: int) -> dict[str, tuple[float, str]]:
        """Make a block's programs; each direction's error in bounds, and its choice."""
        self.block, self.calls = self.blocks[number], {}
        return self.prepare(self.block)

    def prepare(self, block: Block) -> dict[str, tuple[float, str]]:
        """The same for a block."""
        raise NotImplementedError

    def turn(self, direction: str) -> float | None:
        """The median seconds of a few calls; None where time says nothing."""
        call = self.calls.get(direction)
        if call is None:
            return None
        times = [call()]
        while sum(times) < TURN and len(times) < MOST:
            times.append(call())
        return median(times)


class Compiled(Contender):
    """One of convc's backends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.backend = targeted(self.backend)

    def prepare(self, block: Block) -> dict[str, tuple[float, str]]:
        """Compile each direction; gradients read what the forward program made."""
        few, many = min(IMAGES, self.job.batch), self.job.batch
        drawn = {n: Samples(whole=False, batch=n).of(block.joint) for n in {few, many}}
        timed = self.backend != "triton:interpret"
        found = {}
        for direction in block.directions:
            graph = block.graph(direction)
            program = self._compiled(graph)
            program.load(_held(graph, drawn[few][1]))
            inputs = _held(graph, drawn[few][0])
            made = program(**inputs)
            bounds = bounded(program.graph, inputs, program.state())
            found[direction] = worst(made, bounds), self._choice(program)
            if direction == FORWARD:
                names = {k: v.name for k, v in graph.outputs}
                drawn[few][0].update({names[k]: a for k, a in made.items()})
            if not timed:
                continue
            inputs = _held(graph, drawn[many][0])
            made = program(**inputs)
            if direction == FORWARD:
                drawn[many][0].update({names[k]: a for k, a in made.items()})
            self.calls[direction] = self._call(program, block)
        return found

    def _compiled(self, graph: Graph) -> Program:
        passes = EXACT_LOWERING if self.job.exact else LOWERING
        step = Step(graph, passes)
        threads = self.job.threads if family(self.backend) == "numpy" else None
        return step.compile(self.backend, self.job.batch, threads)

    def _choice(self, program: Program) -> str:
        """The schedules of the kernels that do arithmetic, each once."""
        texts = [
            schedule_text(node.schedule or {})
            for node in program.graph.nodes
            if node.region is not None and any(_sums(n.op) for n in node.region.nodes)
        ]
        return "; ".join(dict.fromkeys(texts))

    def _call(self, program: Program, block: Block) -> Callable[[], float]:
        """Time the kernels of a step, but for copies of what the net has in layout."""
        images = {v.name for v in block.traced.inputs if v.name in self._images}
        left_out = {
            f"{v.name}.stored" for v in program.graph.inputs if v.name not in images
        }
        counted = [k.node not in left_out for k in program.kernels]

        def call() -> float:
            times = program.engine.kernel_seconds(1, self.job.batch)
            return sum(t[0] for t, take in zip(times, counted, strict=True) if take)

        return call

    @cached_property
    def _images(self) -> set[str]:
        return {v.name for v in self.blocks[0].traced.inputs}


def _sums(op: str) -> bool:
    return op.startswith(("conv2d", "matmul"))


def _held(graph: Graph, arrays: Mapping[str, Array]) -> State:
    """Those that a graph takes, by name."""
    names = [v.name for v in graph.inputs] + [p.value.name for p in graph.parameters]
    return {name: arrays[name] for name in names if name in arrays}


def worst(made: Mapping[str, Array], bounds: Bounds) -> float:
    """The largest error of the outputs over its bound; inf where it must be none."""
    most = 0.0
    for name, bound in bounds.output_bounds.items():
        actual = np.asarray(made[name], np.float64)
        reference = np.asarray(bounds.outputs[name], np.float64)
        with np.errstate(all="ignore"):
            error = np.abs(actual - reference)
            same = (actual == reference) | (np.isnan(actual) & np.isnan(reference))
            units = np.where(same | np.isposinf(bound), 0.0, error / bound)
        most = max(most, float(np.where(np.isnan(units), np.inf, units).max(initial=0)))
    return most


class InTorch(Contender):
    """PyTorch in one of its modes."""

    def __post_init__(self) -> None:
        from convc.engines.torch_engine import checked_mode

        checked_mode(self.backend)
        super().__post_init__()

    def prepare(self, block: Block) -> dict[str, tuple[float, str]]:
        """Emit the forward graph; autograd makes the gradients."""
        from convc.engines.torch_engine import TorchNetwork

        few, threads = min(IMAGES, self.job.batch), self.job.workers
        network = TorchNetwork(block.traced, self.backend, self.job.batch, threads)
        inputs, parameters = Samples(whole=False, batch=few).of(block.joint)
        network.load(parameters)
        given, held = _held(block.joint, inputs), _held(block.joint, parameters)
        bounds = bounded(block.joint, given, held)
        own = _held(block.traced, inputs)
        made = dict(network(**own))
        for direction in block.directions[1:]:
            _, arrays = network.gradients(own, *self._asked(block, direction, inputs))
            leaves = block.gradients[direction]
            made |= {name: arrays[leaf] for name, leaf in leaves.items()}
        found = {}
        for direction in block.directions:
            names = [*block.gradients.get(direction, ())] or [
                k for k, _ in block.traced.outputs
            ]
            found[direction] = worst(made, _only(bounds, names)), ""
        self._timed(block, network)
        return found

    def _asked(
        self, block: Block, direction: str, inputs: State
    ) -> tuple[State, list[str]]:
        """Cotangents by output, and the leaves of a direction."""
        weights = {k: inputs[name] for k, name in block.cotangents.items()}
        return weights, list(block.gradients[direction].values())

    def _timed(self, block: Block, network: TorchNetwork) -> None:
        inputs, _ = Samples(whole=False, batch=self.job.batch).of(block.joint)
        own = _held(block.traced, inputs)
        tensors = network.tensors(own)
        self.calls[FORWARD] = _clocked(lambda: network.call(*tensors))
        for direction in block.directions[1:]:
            call, _ = network.gradients(own, *self._asked(block, direction, inputs))
            self.calls[direction] = _clocked(call)


def _only(bounds: Bounds, names: Collection[str]) -> Bounds:
    return Bounds(
        {k: a for k, a in bounds.outputs.items() if k in names},
        {},
        {k: a for k, a in bounds.output_bounds.items() if k in names},
        {},
    )


def _clocked(call: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        start = perf_counter()
        call()
        return perf_counter() - start

    return run


# -- all of them


@dataclass(frozen=True)
class Cell:
    """A direction on a backend.

    ``units`` is its largest error in units of the derived bound; ``seconds`` None where
    time says nothing; ``choice`` the schedules of its products; ``fault`` why it could
    not be run.
    """

    units: float | None = None
    seconds: float | None = None
    choice: str = ""
    fault: str = ""

    @property
    def wrong(self) -> bool:
        """Whether the error is more than rounding explains."""
        return self.units is not None and not self.units <= 1


@dataclass(frozen=True)
class Row:
    """A direction of a block on every backend.

    ``ratios`` has the first backend's time over that of each other, the median of the
    rounds; ``roof`` the share of the roofline that the first one reached.
    """

    layer: str
    others: tuple[str, ...]
    direction: str
    flops: int
    nbytes: int
    cells: Mapping[str, Cell]
    ratios: Mapping[str, float]
    roof: float | None = None


@dataclass
class Comparison:
    """Blocks on backends, which take turns; ``absent`` says which are not there."""

    job: Job
    backends: Sequence[str]
    rounds: int = 7
    absent: dict[str, str] = field(default_factory=dict)

    def rows(self, tell: Callable[[str], None] = lambda _: None) -> Iterator[Row]:
        """Row by row: one block's programs at a time; ``tell`` hears what is done."""
        found = self.job.blocks()
        peaks = None
        if family(self.backends[0]) in ("numpy", "torch"):
            tell("the machine's peaks")
            peaks = machine_peaks(self.job.workers)
        tell("the backends")
        makers = {name: (_kind(name), (self.job, name)) for name in self.backends}
        with team(makers) as those:
            self.absent = those.absent
            for number, block in enumerate(found):
                tell(f"{block.layer}: programs")
                ready = {m.name: _asked(those, m, number) for m in list(those.members)}
                for direction in block.directions:
                    tell(f"{block.layer}: {direction}")
                    yield self._row(block, direction, ready, those, peaks)

    def _row(
        self,
        block: Block,
        direction: str,
        ready: Mapping[str, dict[str, tuple[float, str]] | str],
        those: Team,
        peaks: Peaks | None,
    ) -> Row:
        able = [m for m in those.members if isinstance(ready[m.name], dict)]
        times = _rounds(those, able, direction, self.rounds)
        cells = {}
        for name, made in ready.items():
            if isinstance(made, str):
                cells[name] = Cell(fault=made)
                continue
            seconds = median(times[name]) if times.get(name) else None
            cells[name] = Cell(made[direction][0], seconds, made[direction][1])
        first = self.backends[0]
        ratios = {
            name: median(a / b for a, b in zip(times[first], own, strict=True))
            for name, own in times.items()
            if name != first and own and times.get(first)
        }
        flops, nbytes = work_of(block, direction, self.job.batch)
        own = cells[first].seconds if first in cells else None
        roof = peaks.share(flops, nbytes, own) if peaks and own else None
        return Row(
            *(block.layer, block.others, direction, flops, nbytes),
            *(cells, ratios, roof),
        )


def _kind(name: str) -> type[Contender]:
    return InTorch if family(name) == "torch" else Compiled


def _asked(
    those: Team, member: Member, number: int
) -> dict[str, tuple[float, str]] | str:
    """What a member made of a block, or why it could not."""
    try:
        made: dict[str, tuple[float, str]] = member.ask("ready", number)
    except MemberError as error:
        _left(those, member, error)
        return str(error).removeprefix(f"{member.name}: ")
    return made


def _left(those: Team, member: Member, error: ConvcError) -> None:
    """A member whose process is gone leaves."""
    if not member.process.is_alive():
        those.dismiss(member, str(error))


def _rounds(
    those: Team, members: Sequence[Member], direction: str, rounds: int
) -> dict[str, list[float]]:
    """For each member the seconds of every round after the first, which warms up."""
    times: dict[str, list[float]] = {m.name: [] for m in members}
    for turn in range(rounds + 1):
        for member in members:
            if member not in those.members:
                continue
            try:
                seconds = member.ask("turn", direction)
            except MemberError as error:
                _left(those, member, error)
                times[member.name] = []
                continue
            if turn and seconds is not None:
                times[member.name].append(seconds)
    return times


def totals(rows: Sequence[Row], backends: Sequence[str]) -> dict[str, float]:
    """The seconds of all rows, for each backend that has all of them."""
    found = {}
    for name in backends:
        cells = [row.cells.get(name) for row in rows]
        seconds = [c.seconds for c in cells if c is not None and c.seconds is not None]
        if seconds and len(seconds) == len(rows):
            found[name] = sum(seconds)
    return found
