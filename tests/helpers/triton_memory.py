"""The memory of a launch in Triton's interpreter under watch: who touches which byte.

The interpreter runs the programs of a launch one after the other on real addresses, so
a race or a stray access on a GPU passes unseen, or kills the process. Here every
pointer carries the number of the argument it comes from in the bits that addresses do
not use, and every load and store is looked up in tables of the bytes that the launch
was given. It is a ``Fault`` when

1. a pointer leaves the place of its argument,
2. two programs store to one element, or one program does twice in one store,
3. a program loads what another one of the launch stores, before or after it,
4. an atomic operation is on anything but i32, or
5. an argument is never touched.

An atomic operation orders programs: what one does after its own comes after all that
others did before theirs. So the last to arrive may replace what all have read.

What a launch stores without having loaded it is filled with 0xFF (NaN) before the first
store, so that elements that it forgets show.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton.runtime.interpreter as ti
from numpy.typing import NDArray

Array = NDArray[Any]
TAG = np.uint64(48)
"""Addresses of user programs have fewer bits; a pointer's tag stands above."""
ADDRESS = np.uint64((1 << 48) - 1)
NOBODY, MANY = -1, -2


class Fault(AssertionError):
    """A load or store that a GPU might not survive, or not repeat."""


@dataclass(frozen=True)
class Argument:
    """A pointer that a kernel is given: its name there, and its place in the arena."""

    name: str
    place: str
    offset: int
    size: int
    itemsize: int

    def __str__(self) -> str:
        return f"{self.name} (place {self.place!r})"


@dataclass
class Traffic:
    """The bytes that the programs of a launch loaded and stored, and how many ran."""

    kernel: str
    programs: int = 0
    loaded: int = 0
    stored: int = 0


@dataclass
class _Block:
    """Bytes that arguments share, in units of the smallest element among them.

    ``readers`` and ``owner`` say who has loaded or stored a unit, see ``Watch._who``;
    ``stamp`` is for finding what stands twice in one list of units.
    """

    offset: int
    size: int
    unit: int
    readers: Array = field(init=False)
    owner: Array | None = None
    stamp: Array | None = None
    loaded: bool = False

    def __post_init__(self) -> None:
        self.readers = np.full(self.size // self.unit, NOBODY, np.int32)

    def read(self, units: Array, who: int) -> None:
        """Note a load."""
        self.loaded = True
        seen = self.readers[units]
        if not (seen == who).all():
            known = (seen == NOBODY) | (seen >> 1 == who >> 1)
            self.readers[units] = np.where(known, who, MANY)

    def write(self, units: Array, who: int) -> None:
        """Note a store."""
        if self.owner is None:
            self.owner = np.full(len(self.readers), NOBODY, np.int32)
        self.owner[units] = who

    def repeats(self, units: Array) -> bool:
        """Whether a unit stands twice in the list."""
        if self.stamp is None:
            self.stamp = np.empty(len(self.readers), np.int32)
        order = np.arange(len(units), dtype=np.int32)
        self.stamp[units] = order
        return not np.array_equal(self.stamp[units], order)


class Watch:
    """One launch under watch; ``traffic`` counts its bytes.

    ``arena`` is the memory that the arguments lie in, ``kept`` the places that must not
    be filled with NaN, because other launches of the same kernel stored to them.
    """

    def __init__(
        self,
        kernel: str,
        arguments: Sequence[Argument],
        arena: NDArray[np.uint8],
        kept: set[str],
    ) -> None:
        self.traffic = Traffic(kernel)
        self.arguments = arguments
        self.arena = arena
        self.kept = kept
        start = np.uint64(arena.ctypes.data)
        self.base = [
            (np.uint64(number + 1) << TAG) + start + np.uint64(a.offset)
            for number, a in enumerate(arguments)
        ]
        self.block = _blocks(arguments)
        self.touched: set[int] = set()
        self.program = 0
        self.arrived: set[int] = set()
        self.late: set[int] = set()

    def start(self, program: int) -> None:
        """Another program of the launch begins."""
        self.program = program
        self.traffic.programs += 1

    def load(self, pointers: Any, mask: Any) -> None:
        """Look up what is loaded."""
        number, units, nbytes = self._units(pointers, mask, "loads")
        self.traffic.loaded += nbytes
        block = self.block[number]
        if nbytes:
            self._race(number, block.owner, units, "loads", "stored")
            block.read(units, self._who())
            if self.program in self.arrived:
                self.late.add(self.program)

    def store(self, pointers: Any, mask: Any) -> None:
        """Look up what is stored; before that is done the place is filled with NaN."""
        number, units, nbytes = self._units(pointers, mask, "stores to")
        self.traffic.stored += nbytes
        block, argument = self.block[number], self.arguments[number]
        if not block.loaded and argument.place not in self.kept:
            self.kept.add(argument.place)
            end = argument.offset + argument.size
            self.arena[argument.offset : end] = 0xFF
        if nbytes:
            if block.repeats(units):
                raise self._fault(number, "stores twice in one go to an element of")
            self._race(number, block.owner, units, "stores to", "stored")
            self._race(number, block.readers, units, "stores to", "loaded")
            block.write(units, self._who())

    def atomic(self, pointers: Any, mask: Any) -> None:
        """Look up what is counted: i32 that is shared, and the program has arrived."""
        number, _, nbytes = self._units(pointers, mask, "counts in")
        self.block[number].loaded = True
        self.arrived.add(self.program)
        self.traffic.loaded += nbytes
        self.traffic.stored += nbytes
        if str(pointers.get_element_ty()) not in ("int32", "uint32"):
            raise self._fault(number, "is atomic on other than i32 in")

    def finish(self) -> None:
        """The launch is over."""
        for number, argument in enumerate(self.arguments):
            if number not in self.touched:
                raise Fault(f"{self.traffic.kernel} never touches {argument}")

    def _units(self, pointers: Any, mask: Any, doing: str) -> tuple[int, Array, int]:
        """The argument that pointers come from, the units they reach, the bytes."""
        data = pointers.data
        number = int(data.flat[0] >> TAG) - 1
        if not 0 <= number < len(self.arguments):
            raise Fault(
                f"{self.traffic.kernel}, program {self.program}: {doing} an address "
                "that is none of its arguments"
            )
        self.touched.add(number)
        argument, block = self.arguments[number], self.block[number]
        wide = np.broadcast_to(_array(mask), data.shape)
        offsets = data[wide] - self.base[number]
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        outside = offsets > np.uint64(max(0, argument.size - size))
        if outside.any():
            first = int(offsets[outside].view(np.int64)[0])
            raise self._fault(
                number,
                f"{doing} {int(outside.sum())} of {offsets.size} elements (one at byte "
                f"{first}) outside the {argument.size} bytes of",
            )
        units = (
            offsets.view(np.int64) + (argument.offset - block.offset)
        ) // block.unit
        if size > block.unit:
            units = (units[:, None] + np.arange(size // block.unit)).ravel()
        return number, units, offsets.size * size

    def _who(self) -> int:
        """The program now running, as tables have it: twice, plus 1 once it arrived."""
        return 2 * self.program + (self.program in self.arrived)

    def _race(
        self, number: int, table: Array | None, units: Array, doing: str, did: str
    ) -> None:
        """Fail if the table has another program that this one does not come after."""
        if table is None:
            return
        found = table[units]
        strange = found[(found >> 1 != self.program) & (found != NOBODY)]
        for other in np.unique(strange).tolist():
            if not self._settled(other):
                who = "another" if other == MANY else f"program {other >> 1}"
                raise self._fault(number, f"{doing} what {who} has {did}, in")

    def _settled(self, other: int) -> bool:
        """Whether what another program did has ended before this one arrived."""
        if self.program not in self.arrived:
            return False
        if other == MANY:
            all_here = self.arrived.issuperset(range(self.program))
            return all_here and self.late <= {self.program}
        return not other % 2 and other // 2 in self.arrived

    def _fault(self, number: int, what: str) -> Fault:
        where = f"{self.traffic.kernel}, program {self.program}"
        return Fault(f"{where}: {what} {self.arguments[number]}")


def _array(handle: Any) -> Array:
    return handle if isinstance(handle, np.ndarray) else np.asarray(handle.data)


def _blocks(arguments: Sequence[Argument]) -> list[_Block]:
    """For each argument the block it lies in: those that overlap share one."""
    spans: list[list[int]] = []
    for a in sorted(arguments, key=lambda a: a.offset):
        if spans and a.offset < spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], a.offset + a.size)
            spans[-1][2] = min(spans[-1][2], a.itemsize)
        else:
            spans.append([a.offset, a.offset + a.size, a.itemsize])
    blocks = [_Block(lo, hi - lo, unit) for lo, hi, unit in spans]
    return [
        next(b for b in blocks if b.offset <= a.offset < b.offset + b.size)
        for a in arguments
    ]


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Every launch inside reports to ``watch``: its arguments in order are pointers."""
    builder = ti.InterpreterBuilder
    names = ("create_masked_load", "create_masked_store", "create_atomic_rmw")
    names = (*names, "create_atomic_cas", "set_grid_idx")
    plain = {name: getattr(builder, name) for name in names}
    convert = ti._implicit_cvt
    seen = iter(range(len(watch.arguments)))

    def tagged(argument: Any) -> Any:
        pointer = convert(argument)
        if hasattr(argument, "data_ptr"):
            pointer.handle.data = pointer.handle.data + (
                np.uint64(next(seen) + 1) << TAG
            )
        return pointer

    def bare(pointers: Any) -> Any:
        return ti.TensorHandle(pointers.data & ADDRESS, pointers.dtype)

    def load(self: Any, pointers: Any, mask: Any, *rest: Any, **more: Any) -> Any:
        watch.load(pointers, mask)
        return plain["create_masked_load"](self, bare(pointers), mask, *rest, **more)

    def store(
        self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **more: Any
    ) -> Any:
        watch.store(pointers, mask)
        return plain["create_masked_store"](
            self, bare(pointers), value, mask, *rest, **more
        )

    def count(
        self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any
    ) -> Any:
        watch.atomic(pointers, mask)
        return plain["create_atomic_rmw"](self, op, bare(pointers), value, mask, *rest)

    def swap(self: Any, pointers: Any, *rest: Any) -> Any:
        watch.atomic(pointers, np.ones(pointers.data.shape, np.bool_))
        return plain["create_atomic_cas"](self, bare(pointers), *rest)

    def begin(self: Any, x: int, y: int, z: int) -> None:
        plain["set_grid_idx"](self, x, y, z)
        _, ny, nz = self.grid_dim
        watch.start((x * ny + y) * nz + z)

    replaced = dict(zip(names, (load, store, count, swap, begin), strict=True))
    for name, function in replaced.items():
        setattr(builder, name, function)
    ti._implicit_cvt = tagged
    try:
        yield
    finally:
        ti._implicit_cvt = convert
        for name, function in plain.items():
            setattr(builder, name, function)
