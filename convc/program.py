"""A compiled program: its source, its stages, its memory, and how to run it."""

import linecache
import weakref
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from convc.backends.base import Backend, EmittedKernel
from convc.initializers import first_value
from convc.ir.errors import CompileError, RunError
from convc.ir.graph import Graph, Value
from convc.ir.ops.base import Array
from convc.memory import MemoryPlan
from convc.passes.manager import Stage

_serial = count(1)


class Program:
    """Runs the emitted source of a planned graph.

    ``source`` is the program as text, ``kernels`` where each stands in it, ``stages``
    the IR after each pass, ``graph`` the planned graph. Arrays given and returned have
    the batch first. Not thread-safe. CompileError when there is no room for its arena.
    """

    def __init__(self, stages: tuple[Stage, ...], backend: Backend) -> None:
        self.stages = stages
        self.backend = backend.name
        self.graph: Graph = stages[-1].graph
        if self.graph.arena is None:
            raise CompileError("a program needs a planned graph; run plan-memory last")
        self.batch = self.graph.arena.batch
        self.threads = self.graph.arena.threads
        emitted = backend.emit(self.graph)
        self.source, self.kernels = emitted.source, emitted.kernels
        self.memory = MemoryPlan.of(self.graph)
        self._classes = _classes(self.graph)
        module = _load(self.source, self.graph.name)
        self._functions = module["KERNELS"]
        try:
            self._emitted = module["Program"]()
        except MemoryError as error:
            raise CompileError(
                f"there is no room for {self.memory.arena}; compile for fewer images "
                "or threads"
            ) from error
        _BlasHold.take(self)
        self.initialize(0)

    # -- parameters

    @cached_property
    def parameters(self) -> dict[str, Array]:
        """Live views of weights, optimizer state and counters, by name."""
        return {
            p.value.name: self._emitted.array(p.value.name)
            for p in self.graph.parameters
        }

    def initialize(self, seed: int) -> None:
        """Give every parameter its initial value for ``seed``."""
        for p in self.graph.parameters:
            self.parameters[p.value.name][...] = first_value(p, seed)

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Set the parameters this program has from ``arrays``.

        RunError, with both sides, if one is missing or has another shape; nothing is
        changed then. Arrays this program does not know are ignored.
        """
        for p in self.graph.parameters:
            name, shape = p.value.name, p.value.type.bind(1)
            if name not in arrays:
                raise RunError(f"parameter {name} ({p.value.type}) was not given")
            if np.shape(arrays[name]) != shape:
                given = np.shape(arrays[name])
                raise RunError(f"parameter {name} is {p.value.type}, got shape {given}")
        for name, view in self.parameters.items():
            view[...] = arrays[name]

    def state(self) -> dict[str, Array]:
        """Copies of all parameters by name."""
        return {name: view.copy() for name, view in self.parameters.items()}

    # -- running

    def input(self, name: str, n: int | None = None) -> Array:
        """The live array of an input for ``n`` images, to be filled before ``run``."""
        if name not in {v.name for v in self.graph.inputs}:
            known = ", ".join(v.name for v in self.graph.inputs)
            raise RunError(f"no input {name!r}, this program has: {known}")
        array: Array = self._emitted.array(name, self._images(n))
        return array

    def run(self, n: int | None = None) -> dict[str, Array]:
        """One step on the first ``n`` images in the inputs; copies of the outputs.

        The BLAS library is held to one thread as long as a program lives, for the
        program's own threads share the work; it is given back with the last one.
        RunError for a batch the program was not compiled for or a label out of range.
        """
        images = self._images(n)
        for name, classes in self._classes.items():
            _check_labels(name, classes, self.input(name, images))
        self._emitted.run(images)
        if self._emitted.memory.used > self.memory.arena_bytes:
            raise RunError(
                f"the program used {self._emitted.memory.used} bytes, its plan says "
                f"{self.memory.arena_bytes}"
            )
        return {
            name: np.array(self._emitted.array(f"-> {name}", images))
            for name, _ in self.graph.outputs
        }

    def __call__(self, **inputs: Any) -> dict[str, Array]:
        """Copy arrays into the inputs, run, return copies of the outputs.

        RunError for a missing, unknown or misshapen array, a label out of range, or
        arrays that disagree on the batch size.
        """
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        images = self._check(arrays)
        for name, array in arrays.items():
            self.input(name, images)[...] = array
        return self.run(images)

    def time_kernels(self, rounds: int = 5, n: int | None = None) -> dict[str, float]:
        """Median seconds of each kernel in a step on ``n`` images, by its node's name.

        The clock is read where all workers wait for each other, so a kernel takes as
        long as its slowest worker. Parameters are put back as they were.
        """
        images, emitted, stamps = self._images(n), self._emitted, list[float]()
        steps = []
        for worker in range(self.threads):
            mark = [lambda: stamps.append(perf_counter())] if not worker else []
            calls = [emitted.barrier.wait, *mark]
            for kernel in self._functions:
                made = kernel(emitted.memory, images, worker)
                calls += [emitted.barrier.wait if c is None else c for c in made]
                calls += [emitted.barrier.wait, *mark]
            steps.append(calls)
        before, own = self.state(), emitted.steps.get(images)
        emitted.steps[images] = steps
        try:
            for _ in range(rounds + 1):  # the first round warms the caches up
                emitted.run(images)
        finally:
            emitted.steps.pop(images)
            if own is not None:
                emitted.steps[images] = own
            self.load(before)
        times = np.diff(np.reshape(stamps, (rounds + 1, -1)), axis=1)[1:]
        medians = (float(m) for m in np.median(times, axis=0))
        return {k.node: m for k, m in zip(self.kernels, medians, strict=True)}

    def stepwise(self, n: int | None = None) -> Iterator[EmittedKernel]:
        """A step one kernel at a time, in this thread; yields each when it has run.

        From one barrier to the next the workers take turns, a call each.
        """
        images = self._images(n)
        for place, function in zip(self.kernels, self._functions, strict=True):
            calls = [
                list(function(self._emitted.memory, images, t))
                for t in range(self.threads)
            ]
            with np.errstate(all="ignore"):
                _take_turns(calls)
            yield place

    def peek(self, value: Value, n: int | None = None) -> Array:
        """A live view of any value of the graph, while its bytes are its own."""
        assert self.graph.arena is not None
        buffers = self.graph.arena.buffers
        offset = next(b.offset for b in buffers if b.name == value.name)
        kind, order = value.type.dtype.numpy, value.type.order
        shape = value.type.storage(self._images(n))
        stored: Array = self._emitted.memory.view(kind, offset, *shape)
        return stored.transpose([order.index(axis) for axis in range(len(order))])

    def forget(self) -> None:
        """Let all memory, parameters too, hold NaN and other numbers nobody meant."""
        self._emitted.memory.bytes.fill(255)

    def _images(self, n: int | None) -> int:
        images = self.batch if n is None else n
        if not 1 <= images <= self.batch:
            raise RunError(
                f"this program runs 1 to {self.batch} images at a time, not {images}; "
                "compile it with a larger batch or run in several steps"
            )
        return images

    def _check(self, arrays: Mapping[str, Array]) -> int:
        known = {v.name: v for v in self.graph.inputs}
        if arrays.keys() != known.keys():
            raise RunError(
                f"this program takes {', '.join(known) or 'no inputs'}, "
                f"got {', '.join(arrays) or 'none'}"
            )
        sizes = {
            len(arrays[name])
            for name, v in known.items()
            if v.type.batched and arrays[name].ndim
        }
        if len(sizes) > 1:
            listed = ", ".join(f"{k} {a.shape}" for k, a in arrays.items())
            raise RunError(f"all inputs must have one batch size, got {listed}")
        images = self._images(next(iter(sizes), None))
        for name, value in known.items():
            _check_input(value, arrays[name], images)
        return images


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


def _check_input(value: Value, array: Array, images: int) -> None:
    if array.shape != value.type.bind(images):
        raise RunError(f"{value} is {value.type}, got an array of shape {array.shape}")
    wanted = value.type.dtype
    if not np.can_cast(array.dtype, wanted.numpy, "same_kind"):
        raise RunError(
            f"{value} is {wanted.value}, an array of {array.dtype} does not fit"
        )


def _classes(graph: Graph) -> dict[str, int]:
    """How many classes each input that holds labels may name."""
    inputs, classes = {v.name for v in graph.inputs}, {}
    for node in graph.nodes:
        for inner in node.region.nodes if node.region else ():
            if inner.op.startswith("softmax_cross_entropy"):
                logits, labels = inner.operands[:2]
                name = node.operands[int(labels.name)].name
                if name in inputs:
                    classes[name] = logits.type.inner[-1]
    return classes


def _check_labels(name: str, classes: int, labels: Array) -> None:
    if labels.min() < 0 or labels.max() >= classes:
        raise RunError(
            f"%{name} holds labels 0 to {classes - 1}, one per logit; got "
            f"{labels.min()} to {labels.max()}"
        )


class _BlasHold:
    """Holds the BLAS library to one thread while there are programs.

    To set it back after each step would leave the library's own threads spinning for
    a while, beside the program's.
    """

    _programs = 0
    _limits: Any = None

    @classmethod
    def take(cls, program: Program) -> None:
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


def _load(source: str, name: str) -> dict[str, Any]:
    """Run the source as a module; the names it defines.

    The text is put where tracebacks look for it, so that an error in emitted code
    shows the emitted line.
    """
    filename = f"<convc {next(_serial)}: {ascii(name)[1:-1]}>"
    lines = source.splitlines(keepends=True)
    linecache.cache[filename] = (len(source), None, lines, filename)
    namespace: dict[str, Any] = {"__name__": "convc_emitted"}
    exec(compile(source, filename, "exec"), namespace)
    return namespace
