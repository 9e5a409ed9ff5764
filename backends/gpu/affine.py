"""Indices as sums of named index variables times integers, with known ranges."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Condition:
    """What must hold for a lane to mean anything: ``text`` reads the ``symbols``."""

    text: str
    axes: frozenset[int]
    symbols: "tuple[Symbol, ...]" = field(default=(), compare=False)


@dataclass(eq=False)
class Symbol:
    """An index variable of the emitted code.

    Its values lie in ``low`` … ``high``. ``axes`` are the axes of the tile along which
    it varies; ``conditions`` must hold for a lane to mean anything. ``definition`` is
    written at the head of ``block`` when the symbol is first used; None if it stands
    there already. A digit knows the ``number`` that it is a digit of.
    """

    name: str
    low: int
    high: int
    axes: frozenset[int]
    block: object
    conditions: tuple[Condition, ...] = ()
    definition: str | None = None
    needs: tuple["Symbol", ...] = ()
    number: "Digits | None" = None


@dataclass(eq=False)
class Digits:
    """A number split into digits, the most significant first, with their weights."""

    whole: Symbol
    digits: list[tuple[Symbol, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Index:
    """Σ factor · symbol + constant."""

    terms: tuple[tuple[Symbol, int], ...] = ()
    constant: int = 0

    @staticmethod
    def of(symbol: Symbol) -> "Index":
        """A symbol alone."""
        return Index(((symbol, 1),))

    def __add__(self, other: "Index | int") -> "Index":
        if isinstance(other, int):
            return Index(self.terms, self.constant + other)
        factors = dict(self.terms)
        for symbol, factor in other.terms:
            factors[symbol] = factors.get(symbol, 0) + factor
        return Index(_present(factors), self.constant + other.constant)

    def __mul__(self, factor: int) -> "Index":
        factors = {symbol: own * factor for symbol, own in self.terms}
        return Index(_present(factors), self.constant * factor)

    @property
    def low(self) -> int:
        """The least value it can have."""
        ends = (f * (s.low if f > 0 else s.high) for s, f in self.terms)
        return self.constant + sum(ends)

    @property
    def high(self) -> int:
        """The greatest value it can have."""
        ends = (f * (s.high if f > 0 else s.low) for s, f in self.terms)
        return self.constant + sum(ends)

    @property
    def axes(self) -> frozenset[int]:
        """The axes of the tile along which it varies."""
        return frozenset().union(*(s.axes for s, _ in self.terms))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What must hold for it to mean anything."""
        found = (c for s, _ in self.terms for c in s.conditions)
        return tuple(dict.fromkeys(found))

    def gathered(self) -> "Index":
        """The same with digits put together to the number they were split from."""
        factors = dict(self.terms)
        for symbol in list(factors):
            number = symbol.number
            if symbol not in factors or number is None:
                continue
            weights = dict(number.digits)
            if not weights.keys() <= factors.keys():
                continue
            scale, rest = divmod(factors[symbol], weights[symbol])
            if rest or any(factors[s] != scale * w for s, w in weights.items()):
                continue
            for digit in weights:
                del factors[digit]
            factors[number.whole] = factors.get(number.whole, 0) + scale
        again = Index(_present(factors), self.constant)
        return again if again == self else again.gathered()

    def split(self, inner: object) -> tuple["Index", "Index"]:
        """The part without, and the part with, symbols of a block."""
        inside = tuple((s, f) for s, f in self.terms if s.block is inner)
        outside = tuple((s, f) for s, f in self.terms if s.block is not inner)
        return Index(outside, self.constant), Index(inside)


def _present(factors: Mapping[Symbol, int]) -> tuple[tuple[Symbol, int], ...]:
    return tuple((s, f) for s, f in factors.items() if f)
