"""The body of one emitted kernel while it is written: index variables, loads, values.

Index variables are defined where they are first needed, at the head of the block they
belong to, so that a kernel holds no arithmetic that it does not use, and what does not
change in a loop stands before it.
"""

import keyword
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from math import prod
from typing import Any

from convc.backends.gpu.affine import Condition, Digits, Index, Symbol
from convc.backends.gpu.names import RESERVED, TRITON
from convc.backends.source import identifier
from convc.ir.errors import CompileError
from convc.ir.graph import Value
from convc.ir.types import DType


@dataclass(eq=False)
class Block:
    """Lines of one indentation: definitions at the head, then the rest."""

    outer: "Block | None" = None
    head: list[str] = field(default_factory=list)
    body: "list[str | Block]" = field(default_factory=list)
    known: dict[object, Any] = field(default_factory=dict)
    """What is known here already, and under which name."""

    def lines(self) -> Iterator[str]:
        """All lines, those of inner blocks indented."""
        yield from self.head
        for item in self.body:
            if isinstance(item, Block):
                yield from ("    " + line for line in item.lines())
            else:
                yield item

    def chain(self) -> "Iterator[Block]":
        """This block and those around it."""
        block: Block | None = self
        while block is not None:
            yield block
            block = block.outer


class Scope:
    """Writes one function: pointers it takes, index variables, lines.

    ``batch`` is the most images of a step, which bounds what N stands for.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.top = self.block = Block()
        self.pointers: dict[str, str] = {}
        """The place each pointer argument points to, by the argument's name."""
        self._taken: set[str] = set(RESERVED)
        self._defined: set[str] = set()

    # -- names and lines

    def unique(self, name: str) -> str:
        """``name``, with a number if it is taken."""
        plain = identifier(name) or "x"
        if plain[0].isdigit():
            plain = f"t{plain}"
        if keyword.iskeyword(plain):
            plain = f"{plain}_"
        names = (plain if i == 1 else f"{plain}_{i}" for i in count(1))
        found = next(n for n in names if n not in self._taken)
        self._taken.add(found)
        return found

    def line(self, text: str) -> None:
        """A line of the present block."""
        self.block.body.append(text)

    def let(self, name: str, text: str) -> str:
        """A new variable with that value; its name."""
        found = self.unique(name)
        self.line(f"{found} = {text}")
        return found

    @contextmanager
    def inside(self, head: str) -> Iterator[Block]:
        """A block under a line such as ``for i in range(5):``."""
        self.line(head)
        block = Block(self.block)
        self.block.body.append(block)
        self.block, outer = block, self.block
        try:
            yield block
        finally:
            self.block = outer

    @contextmanager
    def steps(
        self, total: int, step: int, first: str = "", needs: Sequence[Symbol] = ()
    ) -> Iterator[tuple[str, list[Symbol]]]:
        """A loop over ``total`` numbers from ``first`` on, none for a single step.

        Gives source for the first number of a step, empty for zero, and what it reads.
        """
        if total <= step:
            yield first, list(needs)
            return
        for symbol in needs:
            self.use(symbol)
        name = self.unique("start")
        with self.inside(f"for {name} in range(0, {total}, {step}):") as block:
            start = self.counter(name, total, block)
            yield (f"{first} + {name}" if first else name), [start, *needs]

    def pointer(self, place: str) -> str:
        """The argument that points to a place."""
        for name, known in self.pointers.items():
            if known == place:
                return name
        name = self.unique(f"{_plain(place)}_ptr")
        self.pointers[name] = place
        return name

    # -- index variables

    def symbol(
        self,
        name: str,
        size: int,
        text: str,
        axes: Sequence[int] = (),
        *,
        conditions: Sequence[Condition] = (),
        needs: Sequence[Symbol] = (),
        block: Block | None = None,
        low: int = 0,
    ) -> Symbol:
        """An index variable of ``low`` … ``low + size - 1``, defined when needed."""
        return Symbol(
            self.unique(name),
            low,
            low + size - 1,
            frozenset(axes),
            block or self.block,
            tuple(conditions),
            text,
            tuple(needs),
        )

    def use(self, symbol: Symbol) -> str:
        """The symbol's name; it is defined if it was not."""
        if symbol.definition is not None and symbol.name not in self._defined:
            for other in symbol.needs:
                self.use(other)
            self._defined.add(symbol.name)
            assert isinstance(symbol.block, Block)
            symbol.block.head.append(f"{symbol.name} = {symbol.definition}")
        return symbol.name

    def counter(self, name: str, size: int, block: Block) -> Symbol:
        """The variable of a loop, which its ``for`` line defines."""
        return Symbol(name, 0, size - 1, frozenset(), block)

    def images(self) -> Symbol:
        """How many images this step has, read once."""
        key = ("images",)
        if key not in self.top.known:
            at = self.pointer("!images")
            found = self.unique("n_images")
            self.top.head.append(f"{found} = tl.load({at})")
            self.top.known[key] = found
        return Symbol(self.top.known[key], 1, self.batch, frozenset(), self.top)

    def count(self, sizes: Iterable[int | str], kind: DType) -> str:
        """Source for how many elements axes have together, as a float; N: the images.

        That is of the dtype in which values of ``kind`` are computed.
        """
        listed = list(sizes)
        static = prod(s for s in listed if not isinstance(s, str))
        if all(not isinstance(s, str) for s in listed):
            return f"{static}.0"
        images = self.images().name
        number = f"({images} * {static})" if static > 1 else images
        return f"{number}.to({dtype(computed(kind))})"

    def among_images(self, index: Index) -> Index:
        """An image's number, bounded by how many this step has."""
        symbol = self.named(index, "n").terms[0][0] if index.terms else None
        if symbol is None:
            return index
        images = self.images()
        text = f"{symbol.name} < {images.name}"
        own = Condition(text, symbol.axes, (symbol, images))
        bound = replace(symbol, conditions=(*symbol.conditions, own))
        return Index.of(bound)

    def digits(self, whole: Symbol, parts: Sequence[tuple[str, int]]) -> list[Index]:
        """The digits of a number, most significant first; ``parts`` are their sizes."""
        number = Digits(whole)
        found, weight = [], 1
        for place, (name, size) in reversed(list(enumerate(parts))):
            if size == 1:
                found.append(Index())
                continue
            text = whole.name if weight == 1 else f"{whole.name} // {weight}"
            leading = all(s == 1 for _, s in parts[:place])
            if leading and weight == 1:
                found.append(Index.of(whole))
                continue
            digit = Symbol(
                self.unique(name),
                0,
                size - 1,
                whole.axes,
                whole.block,
                whole.conditions,
                text if leading else f"{text} % {size}",
                (whole,),
                number,
            )
            number.digits.append((digit, weight))
            found.append(Index.of(digit))
            weight *= size
        return found[::-1]

    def text(self, index: Index) -> str:
        """Source for an index."""
        parts = []
        for symbol, factor in index.terms:
            name = self.use(symbol)
            sign = "-" if factor < 0 else "+"
            parts.append(
                (sign, name if abs(factor) == 1 else f"{name} * {abs(factor)}")
            )
        if index.constant or not parts:
            parts.append(("-" if index.constant < 0 else "+", str(abs(index.constant))))
        first = ("-" if parts[0][0] == "-" else "") + parts[0][1]
        return " ".join([first, *(f"{sign} {part}" for sign, part in parts[1:])])

    def named(self, index: Index, name: str) -> Index:
        """The same as a variable of its own."""
        if len(index.terms) == 1 and index.terms[0][1] == 1 and not index.constant:
            return index
        if not index.terms:
            return index
        block = self._home(index)
        key = ("named", index)
        if key not in block.known:
            made = self.symbol(
                name,
                index.high - index.low + 1,
                self.text(index),
                sorted(index.axes),
                conditions=index.conditions,
                needs=[s for s, _ in index.terms],
                block=block,
                low=index.low,
            )
            block.known[key] = made
        return Index.of(block.known[key])

    def _home(self, index: Index) -> Block:
        """The innermost block among those of its symbols."""
        blocks = [s.block for s, _ in index.terms]
        return next(b for b in self.block.chain() if b in blocks)

    def quotient(self, index: Index, divisor: int, name: str) -> Index:
        """``index // divisor``, which must not be negative where it counts."""
        if divisor == 1:
            return index
        return self._derived(index, "//", divisor, name, index.high // divisor + 1)

    def remainder(self, index: Index, divisor: int, name: str) -> Index:
        """``index % divisor``."""
        if divisor == 1:
            return Index()
        return self._derived(index, "%", divisor, name, divisor)

    def _derived(self, index: Index, sign: str, by: int, name: str, size: int) -> Index:
        if not index.terms:
            value = index.constant // by if sign == "//" else index.constant % by
            return Index((), value)
        of = self.named(index, f"{name}_of")
        block = self._home(of)
        key = (sign, by, of)
        if key not in block.known:
            low = of.low // by if sign == "//" and of.low < 0 else 0
            made = self.symbol(
                name,
                size - low,
                f"{self.text(of)} {sign} {by}",
                sorted(of.axes),
                conditions=of.conditions,
                needs=[s for s, _ in of.terms],
                block=block,
                low=low,
            )
            block.known[key] = made
        return Index.of(block.known[key])

    def within(self, index: Index, size: int, name: str) -> list[Condition]:
        """What must hold for 0 <= index < size, nothing where that is certain."""
        if index.low >= 0 and index.high < size:
            return []
        of = self.named(index, name)
        symbols = tuple(s for s, _ in of.terms)
        found = []
        if index.low < 0:
            found.append(Condition(f"{self.text(of)} >= 0", index.axes, symbols))
        if index.high >= size:
            found.append(Condition(f"{self.text(of)} < {size}", index.axes, symbols))
        return found

    def narrowed(
        self, index: Index, size: int, name: str
    ) -> tuple[Index, list[Condition]]:
        """The index with 0 <= index < size taken for granted, and what that takes."""
        conditions = self.within(index, size, name)
        if not conditions:
            return index, []
        ((symbol, _),) = self.named(index, name).terms
        known = (*symbol.conditions, *conditions)
        low, high = max(symbol.low, 0), min(symbol.high, size - 1)
        return Index.of(
            replace(symbol, low=low, high=high, conditions=known)
        ), conditions

    def both(self, conditions: Sequence[Condition]) -> str:
        """All conditions as one expression, empty if there are none."""
        for condition in conditions:
            for symbol in condition.symbols:
                self.use(symbol)
        texts = list(dict.fromkeys(c.text for c in conditions))
        if len(texts) < 2:
            return texts[0] if texts else ""
        key = ("valid", *texts)
        for block in self.block.chain():
            if key in block.known:
                return str(block.known[key])
        wide = dict.fromkeys(c.text for c in conditions if c.axes)
        single = dict.fromkeys(c.text for c in conditions if not c.axes)
        text = _all_of(wide or single)
        if wide and single:
            # triton 3.9 interprets (block & scalar) as numbers, not as a mask
            text = f"tl.where({_all_of(single)}, {text}, False)"
        self.block.known[key] = self.let("valid", text)
        return str(self.block.known[key])

    # -- memory

    def offset(self, value: Value, coords: Sequence[Index]) -> Index:
        """Where an element lies, in elements from the value's first."""
        index, stride = Index(), 1
        shape = value.type.bind(self.batch)
        if len(coords) != len(shape):
            raise CompileError(f"{value} has {len(shape)} axes, asked at {len(coords)}")
        if value.type.elements(self.batch) >= 2**31:
            raise CompileError(
                f"{value} ({value.type}) has 2**31 or more elements at {self.batch} "
                "images, more than the triton backend counts; compile for fewer images"
            )
        for coord, size in zip(reversed(coords), reversed(shape), strict=True):
            index = coord * stride + index
            stride *= size
        return index.gathered()

    def address(self, place: str, offset: Index) -> str:
        """Source for a pointer; what a loop does not change is added before it."""
        base = self.pointer(place)
        for block in list(self.block.chain())[:-1]:
            outer, inner = offset.split(block)
            if not outer.terms or not outer.axes or not inner.terms:
                continue
            home = self._home(outer)
            key = ("address", place, outer)
            if key not in home.known:
                name = self.unique(f"{base.removesuffix('_ptr')}_at")
                home.head.append(f"{name} = {base} + {self._signed(outer)}")
                home.known[key] = name
            text = self.text(inner)
            bare = len(inner.terms) == 1 and not text.startswith("-")
            return f"{home.known[key]} + {text if bare else f'({text})'}"
        text = self.text(offset)
        if text == "0":
            return base
        return f"{base} + {text}" if not text.startswith("-") else f"{base} + ({text})"

    def _signed(self, index: Index) -> str:
        text = self.text(index)
        return f"({text})" if text.startswith("-") else text

    def load(
        self,
        value: Value,
        place: str,
        coords: Sequence[Index],
        where: Sequence[Condition] = (),
        fill: str = "0",
    ) -> str:
        """Source for elements of a value in memory; ``fill`` where there are none."""
        offset = self.offset(value, coords)
        mask = self.mask(coords, where)
        at = self.address(place, offset)
        if not mask:
            return f"tl.load({at})"
        return f"tl.load({at}, mask={mask}, other={_filled(value, fill)})"

    def store(
        self, value: Value, place: str, coords: Sequence[Index], text: str
    ) -> None:
        """Write a tile to a value in memory."""
        offset = self.offset(value, coords)
        mask = self.mask(coords, ())
        at = self.address(place, offset)
        masked = f", mask={mask}" if mask else ""
        self.line(f"tl.store({at}, {text}{masked})")

    def mask(self, coords: Sequence[Index], where: Sequence[Condition]) -> str:
        """The conditions of the coordinates and those given."""
        own = [c for coord in coords for c in coord.conditions]
        conditions = list(dict.fromkeys([*own, *where]))
        text = self.both(conditions)
        if conditions and not any(c.axes for c in conditions):
            return f"tl.full((), True, tl.int1) & ({text})"
        return text


def _plain(place: str) -> str:
    """A place as part of a name."""
    return place.lstrip("!").replace("->", "")


def _filled(value: Value, fill: str) -> str:
    if fill != "0":
        return fill
    return "0.0" if value.type.dtype.is_float else "0"


def dtype(kind: DType) -> str:
    """Triton's name of a dtype."""
    return f"tl.{TRITON[kind]}"


def computed(kind: DType) -> DType:
    """The dtype in which values of that dtype are computed."""
    return DType.F32 if kind.is_half else kind


def ratio(x: str, y: str, kind: DType) -> str:
    """Source for a quotient rounded once, which ``/`` is in float64 alone."""
    return f"{x} / {y}" if kind is DType.F64 else f"tl.div_rn({x}, {y})"


def root(x: str, kind: DType) -> str:
    """Source for a square root rounded once."""
    return f"tl.sqrt({x})" if kind is DType.F64 else f"tl.sqrt_rn({x})"


def _all_of(texts: Iterable[str]) -> str:
    return " & ".join(f"({text})" for text in texts)
