"""One backend on the blocks of a model, in a process of its own.

convc's backends compile graphs of their own rules of differentiation; PyTorch gets the
forward graph alone and makes the gradients itself.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from convc.backends import backend_named
from convc.directions import FORWARD, Block, blocks_of
from convc.engines import family, targeted
from convc.explain import schedule_text
from convc.ir.graph import Graph
from convc.ir.ops.base import Array
from convc.ir.rounding import Bounds, bounded, units
from convc.loading import load_model
from convc.lockfile import VARIABLE
from convc.passes.samples import Samples, State
from convc.pipeline import EXACT_LOWERING, LOWERING, Step, default_threads

if TYPE_CHECKING:
    from convc.engines.torch_engine import TorchNetwork
    from convc.program import Program

IMAGES = 4
"""Images whose results are compared with float64."""
TURN = 0.03
"""Seconds that a backend's turn lasts at least."""
MOST = 50
"""The most calls in a turn."""


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
class Contender(ABC):
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

    @abstractmethod
    def prepare(self, block: Block) -> dict[str, tuple[float, str]]:
        """The same for a block."""

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
    found = (
        units(made[name], bounds.outputs[name], bound)
        for name, bound in bounds.output_bounds.items()
    )
    return max(found, default=0.0)


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
