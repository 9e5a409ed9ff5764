"""Runs programs of the NumPy backend: live views of one arena, threads, barriers."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from time import perf_counter
from typing import Any, ClassVar

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
        _BlasHold.take(self, self._arena.blas)

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
        """One step by all workers; RunError if it left its arena."""
        self.step(n)
        if self.emitted.memory.used > self._arena.size:
            raise RunError(
                f"the program used {self.emitted.memory.used} bytes, its plan says "
                f"{self._arena.size}"
            )
        return {
            name: np.array(self.emitted.array(f"-> {name}", n))
            for name, _ in self._graph.outputs
        }

    def step(self, n: int) -> None:
        """All kernels, by the emitted program's own threads."""
        self.emitted.run(n)

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
        emitted, count = self.emitted, self._arena.threads
        marked = [spanned(self.functions, emitted, n, t) for t in range(count)]
        usual = emitted.steps.get(n)
        emitted.steps[n] = [calls for calls, _ in marked]
        try:
            for _ in range(rounds + 1):  # the first round warms the caches up
                emitted.run(n)
        finally:
            emitted.steps.pop(n)
            if usual is not None:
                emitted.steps[n] = usual
        return self.timeline([stamps for _, stamps in marked], rounds)

    def timeline(self, stamps: Sequence[Sequence[float]], rounds: int) -> Array:
        """Each worker's times as ``spans`` gives them, without the first round."""
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


def spanned(
    functions: Sequence[Any], emitted: Any, n: int, worker: int
) -> tuple[list[Any], list[float]]:
    """A worker's calls for a step, and the list of times that they fill.

    It grows by two numbers for each kernel, begin and end, in each step.
    """
    barrier = getattr(emitted, "barrier", None)
    waits = [] if barrier is None else [barrier.wait]
    stamps, calls = list[float](), list[Any]()
    mark = partial(_note, stamps)
    for function in functions:
        calls.append(mark)
        for call in function(emitted.memory, n, worker):
            calls += waits if call is None else [call]
        calls += [mark, *waits]
    return calls, stamps


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
    """Holds the BLAS library to the threads that all programs there are can bear.

    To set it back after each step would leave the library's own threads spinning for
    a while, beside the program's.
    """

    _programs: ClassVar[list[int]] = []
    _limits: Any = None

    @classmethod
    def take(cls, program: NumpyEngine, threads: int) -> None:
        """Hold the library until ``program`` and all other programs are gone."""
        cls._programs.append(threads)
        cls._hold()
        weakref.finalize(program, cls._release, threads)

    @classmethod
    def _release(cls, threads: int) -> None:
        cls._programs.remove(threads)
        cls._hold()

    @classmethod
    def _hold(cls) -> None:
        if cls._limits is not None:
            cls._limits.restore_original_limits()
            cls._limits = None
        if cls._programs:
            limit = min(cls._programs)
            cls._limits = ThreadpoolController().limit(limits=limit, user_api="blas")
