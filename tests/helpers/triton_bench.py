"""Emitted Triton in the interpreter: loaded, fed, run with its memory under watch."""

import linecache
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from types import ModuleType
from typing import Any

import numpy as np
import triton
from numpy.typing import NDArray
from triton.runtime.errors import InterpreterError
from triton_memory import Argument, Traffic, Watch, watched
from triton_numbers import gpu_numbers

from convc.backends import backend_named
from convc.ir.graph import Graph
from convc.passes.manager import Pass
from convc.pipeline import LOWERING, Step

Array = NDArray[Any]
COUNTERS = "!"
"""What the places of a program's own counters begin with."""


class Interpreted:
    """An emitted program for the interpreter, as numpy sees it.

    ``module`` is what the file defines, ``program`` its Program.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.program = module.Program("cpu")
        self.arena: NDArray[np.uint8] = self.program.arena.numpy()

    def array(self, name: str, n: int | None = None) -> Array:
        """A live view of an input, parameter or output (``-> name``), batch first."""
        count = self.module.BATCH if n is None else n
        view: Array = self.program.array(name, count).numpy()
        return view

    def bytes(self, place: str) -> NDArray[np.uint8]:
        """The memory of a place."""
        lo, hi, _ = self.span(place)
        return self.arena[lo:hi]

    def span(self, place: str) -> tuple[int, int, int]:
        """First byte, end and bytes of an element of a place."""
        _, offset, count = self.module.PLACES[place]
        size = self.program.at(place).element_size()
        return offset, offset + count * size, size


def interpreted(source: str) -> Interpreted:
    """``source`` loaded for the interpreter; its lines can be seen in tracebacks.

    TRITON_INTERPRET must have been set before triton was first imported.
    """
    assert triton.knobs.runtime.interpret, (
        "triton was imported without TRITON_INTERPRET"
    )
    name = f"emitted_{sha256(source.encode()).hexdigest()[:16]}"
    path = f"<{name}>"
    linecache.cache[path] = len(source), None, source.splitlines(True), path
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, path, "exec"), module.__dict__)
    return Interpreted(module)


def poison(program: Interpreted) -> None:
    """Fill all but inputs, parameters and counters with NaN: a step may not need it."""
    module = program.module
    given = [p for name, (p, _) in module.ARRAYS.items() if not name.startswith("-> ")]
    given += [name for name in module.PLACES if name.startswith(COUNTERS)]
    saved = {name: program.bytes(name).copy() for name in given}
    program.arena[:] = 0xFF  # NaN in every float, -1 as an integer
    for name, content in saved.items():
        program.bytes(name)[:] = content


def checked_run(program: Interpreted, n: int | None = None) -> list[Traffic]:
    """One step on the first ``n`` images, under watch: the traffic of every launch.

    AssertionError (``Fault``) for what ``triton_memory`` forbids. All that a launch
    only writes is NaN before. The numbers are those of a GPU: ``triton_numbers``.
    """
    module, inner = program.module, program.program
    kernel_of = [k for k, count in enumerate(module.LAUNCHES_OF) for _ in range(count)]
    assert len(kernel_of) == len(module.LAUNCHES), "LAUNCHES_OF must count all LAUNCHES"
    stored: dict[int, set[str]] = {k: set() for k in kernel_of}
    traffic = []

    def launch(number: int) -> None:
        watch = _watch(program, number, stored[kernel_of[number]])
        with watched(watch):
            type(inner).launch(inner, number)
        watch.finish()
        traffic.append(watch.traffic)

    poison(program)
    inner.launch = launch
    try:
        with gpu_numbers():
            inner.run(module.BATCH if n is None else n)
    except InterpreterError as error:
        raise _first(error) from None
    finally:
        del inner.launch
    return traffic


def _first(error: BaseException) -> BaseException:
    """The error that the interpreter has wrapped in its own."""
    while isinstance(error, InterpreterError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _watch(program: Interpreted, number: int, stored: set[str]) -> Watch:
    kernel, _, places, *_ = program.module.LAUNCHES[number]
    names = kernel.arg_names
    assert len(names) == len(places), f"{kernel.__name__} has {len(names)} arguments"
    return Watch(
        kernel.__name__, list(_arguments(program, names, places)), program.arena, stored
    )


def _arguments(
    program: Interpreted, names: Iterable[str], places: Iterable[str]
) -> Iterator[Argument]:
    for name, place in zip(names, places, strict=True):
        lo, hi, itemsize = program.span(place)
        yield Argument(name, place, lo, hi - lo, itemsize)


class Checked:
    """A graph compiled for the interpreter: data in, a run under watch, data out."""

    def __init__(
        self,
        graph: Graph,
        batch: int,
        target: str = "interpret",
        passes: Sequence[Pass] = LOWERING,
    ) -> None:
        backend = backend_named(f"triton:{target}")
        self.stages = Step(graph, tuple(passes)).stages(backend.name, batch, threads=1)
        self.graph = self.stages[-1].graph
        self.source = backend.emit(self.graph).source
        self.interpreted = interpreted(self.source)
        self.traffic: list[Traffic] = []

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Set the parameters the program has."""
        for p in self.graph.parameters:
            self.interpreted.array(p.value.name)[...] = arrays[p.value.name]

    def state(self) -> dict[str, Array]:
        """Copies of all parameters by name."""
        names = (p.value.name for p in self.graph.parameters)
        return {name: self.interpreted.array(name).copy() for name in names}

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """Outputs of a step on as many images as the inputs have."""
        sizes = [len(inputs[v.name]) for v in self.graph.inputs if v.type.batched]
        n = sizes[0] if sizes else None
        for name, array in inputs.items():
            self.interpreted.array(name, n)[...] = array
        self.traffic = checked_run(self.interpreted, n)
        names = [name for name, _ in self.graph.outputs]
        return {name: self.interpreted.array(f"-> {name}", n).copy() for name in names}
