"""Runs programs of the NumPy backend: live views of one arena, threads, barriers."""

import weakref
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from time import perf_counter
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from convc.backends.base import Emitted
from convc.engines.base import Resident, load_source
from convc.ir.errors import RunError
from convc.ir.graph import Graph, Value
from convc.ir.ops.base import Array


class NumpyEngine:
    """The emitted program; ``emitted`` is the instance of its own class."""

    def __init__(self, graph: Graph, emitted: Emitted) -> None:
        assert graph.arena is not None
        self._graph, self._arena = graph, graph.arena
        module = load_source(emitted.source, graph.name)
        self.functions = module.KERNELS
        self.emitted = module.Program()
        _BlasHold.take(self)

    @cached_property
    def parameters(self) -> Mapping[str, Array]:
        """Live views."""
        names = [p.value.name for p in self._graph.parameters]
        return {name: self.emitted.array(name) for name in names}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Set every parameter."""
        for name, view in self.parameters.items():
            view[...] = arrays[name]

    def input(self, name: str, n: int) -> Array:
        """A live view."""
        array: Array = self.emitted.array(name, n)
        return array

    def run(self, n: int) -> dict[str, Array]:
        """One step by all threads; RunError if it left its arena."""
        self.emitted.run(n)
        if self.emitted.memory.used > self._arena.size:
            raise RunError(
                f"the program used {self.emitted.memory.used} bytes, its plan says "
                f"{self._arena.size}"
            )
        return {
            name: np.array(self.emitted.array(f"-> {name}", n))
            for name, _ in self._graph.outputs
        }

    def resident(
        self, images: tuple[str, Array], labels: tuple[str, Array], graphed: int
    ) -> Resident | None:
        """None: a gather into the live inputs is all there is to it."""
        del images, labels, graphed
        return None

    def kernel_seconds(self, rounds: int, n: int) -> list[list[float]]:
        """Times of kernels, from the first worker's begin to the last one's end."""
        spans = self.spans(rounds, n)
        times = spans[..., 1].max(axis=2) - spans[..., 0].min(axis=2)
        return [list(map(float, kernel)) for kernel in times.T]

    def spans(self, rounds: int, n: int) -> Array:
        """Each worker reads the clock before and after its part of a kernel."""
        emitted = self.emitted
        stamps: list[list[float]] = [[] for _ in range(self._arena.threads)]
        steps = []
        for worker, own in enumerate(stamps):
            mark, calls = partial(_note, own), list[Any]()
            for kernel in self.functions:
                made = kernel(emitted.memory, n, worker)
                calls += [
                    mark,
                    *(emitted.barrier.wait if c is None else c for c in made),
                ]
                calls += [mark, emitted.barrier.wait]
            steps.append(calls)
        usual = emitted.steps.get(n)
        emitted.steps[n] = steps
        try:
            for _ in range(rounds + 1):  # the first round warms the caches up
                emitted.run(n)
        finally:
            emitted.steps.pop(n)
            if usual is not None:
                emitted.steps[n] = usual
        shape = (len(stamps), rounds + 1, len(self.functions), 2)
        return np.reshape(stamps, shape)[:, 1:].transpose(1, 2, 0, 3)

    def stepwise(self, n: int) -> Iterator[None]:
        """A step in this thread; up to each barrier the workers take turns."""
        for function in self.functions:
            calls = [
                list(function(self.emitted.memory, n, t))
                for t in range(self._arena.threads)
            ]
            with np.errstate(all="ignore"):
                _take_turns(calls)
            yield

    def peek(self, value: Value, n: int) -> Array:
        """A live view of any value."""
        offset = next(b.offset for b in self._arena.buffers if b.name == value.name)
        kind, order = value.type.dtype.numpy, value.type.order
        shape = value.type.storage(n)
        stored: Array = self.emitted.memory.view(kind, offset, *shape)
        return stored.transpose([order.index(axis) for axis in range(len(order))])

    def poke(self, value: Value, array: Array, n: int) -> None:
        """Write to that view."""
        self.peek(value, n)[...] = array

    def forget(self) -> None:
        """Fill the arena."""
        self.emitted.memory.bytes.fill(255)


def _note(stamps: list[float]) -> None:
    """Note the time."""
    stamps.append(perf_counter())


def _take_turns(workers: list[list[Any]]) -> None:
    """Make all workers' calls, one of each in turn, as they might come to be made.

    None is where all wait for each other.
    """
    at = [0] * len(workers)
    while any(i < len(calls) for i, calls in zip(at, workers, strict=True)):
        waiting = True
        for t, calls in enumerate(workers):
            if at[t] < len(calls) and calls[at[t]] is not None:
                calls[at[t]]()
                at[t] += 1
                waiting = False
        if waiting:
            at = [i + 1 for i in at]


class _BlasHold:
    """Holds the BLAS library to one thread while there are programs.

    To set it back after each step would leave the library's own threads spinning for
    a while, beside the program's.
    """

    _programs = 0
    _limits: Any = None

    @classmethod
    def take(cls, program: NumpyEngine) -> None:
        """Hold the library until ``program`` and all other programs are gone."""
        if not cls._programs:
            cls._limits = ThreadpoolController().limit(limits=1, user_api="blas")
        cls._programs += 1
        weakref.finalize(program, cls._release)

    @classmethod
    def _release(cls) -> None:
        cls._programs -= 1
        if not cls._programs:
            cls._limits.restore_original_limits()
