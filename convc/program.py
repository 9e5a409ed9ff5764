"""A compiled program: its source, its stages, its memory, and how to run it."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from convc.backends.base import Backend, EmittedKernel
from convc.engines import engine_for, family
from convc.engines.base import Engine, Resident
from convc.initializers import first_value
from convc.ir.errors import CompileError, RunError
from convc.ir.graph import Graph, Value
from convc.ir.ops.base import Array
from convc.memory import MemoryPlan
from convc.passes.manager import Stage


class Program:
    """Runs the emitted source of a planned graph.

    ``source`` is the program as text, ``kernels`` where each stands in it, ``stages``
    the IR after each pass, ``graph`` the planned graph. Arrays given and returned have
    the batch first. Not thread-safe.

    ``device`` says where a program of the Triton backend runs: ``cuda``, ``cuda:1`` or
    ``interpret``. Where it is not given, the device is looked for when the program is
    first used, so that a GPU's program can be made and read without one. CompileError
    if the device cannot be used, or when there is no room for the arena.
    """

    def __init__(
        self, stages: tuple[Stage, ...], backend: Backend, device: str | None = None
    ) -> None:
        self.stages = stages
        self.backend, self._device = backend.name, device
        self.graph: Graph = stages[-1].graph
        if self.graph.arena is None:
            raise CompileError("a program needs a planned graph; run plan-memory last")
        self.batch = self.graph.arena.batch
        self.threads = self.graph.arena.threads
        self._emitted = backend.emit(self.graph)
        self.source, self.kernels = self._emitted.source, self._emitted.kernels
        self.memory = MemoryPlan.of(self.graph)
        self._classes, self._shares = _classes(self.graph), _shares(self.graph)
        if device is not None or family(backend.name) == "numpy":
            _ = self.engine

    @cached_property
    def engine(self) -> Engine:
        """What runs it, in memory that holds the initial values for seed 0."""
        try:
            engine = engine_for(self.backend, self._device, self.graph, self._emitted)
        except MemoryError as error:
            raise CompileError(
                f"there is no room for {self.memory.arena}; compile for fewer images "
                "or threads"
            ) from error
        engine.load(self._first_values(0))
        for name, number in self.graph.feeds:
            engine.input(name, 1)[...] = number
        return engine

    # -- parameters

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Weights, optimizer state and counters, by name.

        Live views, except on a GPU: there they are copies that cannot be written to.
        """
        return self.engine.parameters

    def initialize(self, seed: int) -> None:
        """Give every parameter its initial value for ``seed``."""
        self.engine.load(self._first_values(seed))

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
        self.engine.load(arrays)

    def state(self) -> dict[str, Array]:
        """Copies of all parameters by name."""
        return {name: array.copy() for name, array in self.parameters.items()}

    def _first_values(self, seed: int) -> dict[str, Array]:
        return {p.value.name: first_value(p, seed) for p in self.graph.parameters}

    # -- running

    def input(self, name: str, n: int | None = None) -> Array:
        """The live array of an input for ``n`` images, to be filled before ``run``."""
        if name not in {v.name for v in self.graph.inputs}:
            known = ", ".join(v.name for v in self.graph.inputs)
            raise RunError(f"no input {name!r}, this program has: {known}")
        return self.engine.input(name, self._images(n))

    def run(self, n: int | None = None) -> dict[str, Array]:
        """One step on the first ``n`` images in the inputs; copies of the outputs.

        The BLAS library is held to one thread as long as a NumPy program lives, for
        the program's own threads share the work; it is given back with the last one.
        RunError for a batch the program was not compiled for, a label out of range, or
        a share to keep that is not above 0 and at most 1.
        """
        images = self._images(n)
        for name in self._shares:
            _check_share(name, float(self.input(name, images)))
        for name, classes in self._classes.items():
            _check_labels(name, classes, self.input(name, images))
        return self.engine.run(images)

    def __call__(self, **inputs: Any) -> dict[str, Array]:
        """Copy arrays into the inputs, run, return copies of the outputs.

        An input that is fed a number may be left out, and holds what it held. RunError
        for a missing, unknown or misshapen array, a label out of range, or arrays that
        disagree on the batch size.
        """
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        images = self._check(arrays)
        for name, array in arrays.items():
            self.input(name, images)[...] = array
        return self.run(images)

    def resident(
        self, images: tuple[str, Array], labels: tuple[str, Array], graphed: int = 1
    ) -> Resident | None:
        """Training steps on a data set that is copied to the device once.

        ``images`` and ``labels`` are the inputs' names with the whole arrays; at most
        ``graphed`` steps are launched as one, where the device can do that. None where
        steps are run on what the host has put into the inputs. NoRoom if the device
        has none, RunError for a label out of range.
        """
        for name, classes in self._classes.items():
            _check_labels(name, classes, dict((images, labels))[name])
        for name in self._shares:
            _check_share(name, float(self.input(name)))
        return self.engine.resident(images, labels, graphed)

    def time_kernels(self, rounds: int = 5, n: int | None = None) -> dict[str, float]:
        """Median seconds of each kernel in a step on ``n`` images, by its node's name.

        Parameters are put back as they were.
        """
        images, before = self._images(n), self.state()
        try:
            times = self.engine.kernel_seconds(rounds, images)
        finally:
            self.load(before)
        medians = (float(np.median(own)) for own in times)
        return {k.node: m for k, m in zip(self.kernels, medians, strict=True)}

    def spans(self, rounds: int = 5, n: int | None = None) -> Array:
        """When each worker began and ended each kernel, in steps on ``n`` images.

        Seconds [step, kernel, worker, 2] of one clock. Parameters are put back as they
        were.
        """
        images, before = self._images(n), self.state()
        try:
            return self.engine.spans(rounds, images)
        finally:
            self.load(before)

    def stepwise(self, n: int | None = None) -> Iterator[EmittedKernel]:
        """A step one kernel at a time, in this thread; yields each when it has run."""
        steps = self.engine.stepwise(self._images(n))
        for place, _ in zip(self.kernels, steps, strict=True):
            yield place

    def peek(self, value: Value, n: int | None = None) -> Array:
        """Any value of the graph, while its bytes are its own: a view, or a copy."""
        return self.engine.peek(value, self._images(n))

    def poke(self, value: Value, array: Array, n: int | None = None) -> None:
        """Give any value of the graph other elements."""
        self.engine.poke(value, array, self._images(n))

    def forget(self) -> None:
        """Let all memory, parameters too, hold NaN and other numbers nobody meant."""
        self.engine.forget()

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
        optional = dict(self.graph.feeds)
        if not known.keys() - optional.keys() <= arrays.keys() <= known.keys():
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
        for name, array in arrays.items():
            _check_input(known[name], array, images)
        return images


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


def _shares(graph: Graph) -> list[str]:
    """The inputs that say which share dropout keeps."""
    inputs, shares = {v.name for v in graph.inputs}, list[str]()
    for node in graph.nodes:
        for inner in node.region.nodes if node.region else ():
            if inner.op == "keep_mask" and inner.operands[2].name.isdigit():
                shares.append(node.operands[int(inner.operands[2].name)].name)
    return [name for name in dict.fromkeys(shares) if name in inputs]


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise RunError(
            f"%{name} is the share that dropout keeps, above 0 and at most 1 (which "
            f"keeps all); got {share:g}"
        )


def _check_labels(name: str, classes: int, labels: Array) -> None:
    if labels.min() < 0 or labels.max() >= classes:
        raise RunError(
            f"%{name} holds labels 0 to {classes - 1}, one per logit; got "
            f"{labels.min()} to {labels.max()}"
        )
