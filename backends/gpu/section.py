"""What a launch is made of: sections, each with programs of its own."""

from collections.abc import Callable
from dataclasses import dataclass

from convc.backends.gpu.affine import Symbol
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.tile import Tile


@dataclass(frozen=True)
class Section:
    """A part of a kernel's work: ``programs`` programs, each writes a tile of it.

    ``write`` emits what program ``pid`` of them does.
    """

    name: str
    programs: int
    write: Callable[[Tile, Symbol], None]


@dataclass(frozen=True)
class Launch:
    """One launch: its sections share a grid, one after the other.

    ``about`` says what a further launch of a kernel does, before or after the one that
    has the kernel's name.
    """

    name: str
    sections: tuple[Section, ...]
    warps: int
    stages: int
    about: str = ""

    @property
    def programs(self) -> int:
        """How many programs the grid has."""
        return sum(s.programs for s in self.sections)


def tiles(size: int, tile: int) -> int:
    """How many tiles cover ``size``."""
    return -(-size // tile)


def power(size: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << max(0, (size - 1).bit_length())


def function_name(kernel: Kernel) -> str:
    """The kernel's name in the graph."""
    return str(kernel.node.attrs["name"])
