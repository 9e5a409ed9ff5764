"""What an engine does for a program, and how emitted source becomes code."""

import linecache
from collections.abc import Iterator, Mapping
from itertools import count
from types import ModuleType
from typing import Any, Protocol

from convc.ir.errors import RunError
from convc.ir.graph import Value
from convc.ir.ops.base import Array

_serial = count(1)


class NoRoom(RunError):
    """The device has no room for what it was asked to hold."""


class Resident(Protocol):
    """A data set where the program is, and training steps on its batches.

    ``interval`` is how many steps are worth running before somebody looks.
    """

    interval: int

    def begin(self, order: Array, batch: int, epoch: int) -> None:
        """The next step is on batch number ``batch`` of the images in that order.

        ``epoch`` counts from 0; it says how images are changed, where they are.
        """
        ...

    def steps(self, number: int) -> list[tuple[float, int]]:
        """Run that many steps; of each the loss and how many images were right."""
        ...


class Engine(Protocol):
    """An emitted program in its memory.

    ``n`` is a number of images that the caller has checked. Arrays have the batch
    first.
    """

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Weights and state by name: live views, or copies that are read-only."""
        ...

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Set every parameter; a scalar is set everywhere."""
        ...

    def input(self, name: str, n: int) -> Array:
        """The array that a step will read the input from."""
        ...

    def run(self, n: int) -> dict[str, Array]:
        """One step; copies of the outputs."""
        ...

    def resident(
        self, images: tuple[str, Array], labels: tuple[str, Array], graphed: int
    ) -> Resident | None:
        """Steps on a data set, given with the names of the inputs.

        At most ``graphed`` steps are one launch, where the device can do that. None
        if this engine has no such thing; NoRoom if it is too large.
        """
        ...

    def kernel_seconds(self, rounds: int, n: int) -> list[list[float]]:
        """The seconds of each kernel in each of several steps, which do update."""
        ...

    def spans(self, rounds: int, n: int) -> Array:
        """When each worker began and ended each kernel in steps one after the other.

        Seconds [step, kernel, worker, 2] of one clock. The steps do update.
        """
        ...

    def stepwise(self, n: int) -> Iterator[None]:
        """A step one kernel at a time; yields when each has run."""
        ...

    def peek(self, value: Value, n: int) -> Array:
        """What lies where the value is planned to be."""
        ...

    def poke(self, value: Value, array: Array, n: int) -> None:
        """Put something there."""
        ...

    def forget(self) -> None:
        """Fill the planned memory, parameters too, with bytes of 255."""
        ...


def load_source(source: str, name: str, called: str = "convc_emitted") -> Any:
    """The source as a module called so, which nobody can import.

    The text is put where tracebacks look for it, so that an error in emitted code
    shows the emitted line; Triton's compiler looks there, too.
    """
    filename = f"<convc {next(_serial)}: {ascii(name)[1:-1]}>"
    lines = source.splitlines(keepends=True)
    linecache.cache[filename] = (len(source), None, lines, filename)
    module = ModuleType(called)
    exec(compile(source, filename, "exec"), module.__dict__)
    return module
