"""A scope that knows a kernel's body and computes its values on a tile."""

from collections.abc import Iterable, Sequence

from convc.backends.gpu.affine import Condition, Index
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.pointwise import RULES
from convc.backends.gpu.scope import Scope, dtype
from convc.ir.graph import Value
from convc.ir.types import DType


class Tile(Scope):
    """A scope that computes values of a kernel's body at indices of a tile."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel.batch)
        self.kernel = kernel
        self.shape: dict[int, int] = {}
        """The tile's size along each of its axes."""

    def known(self, value: Value, coords: Sequence[Index], text: str) -> None:
        """A value's elements at these indices are ``text``, from here on."""
        self.block.known[self._key(value, coords, ())] = text

    def results(self, values: Iterable[Value], coords: Sequence[Index]) -> None:
        """Compute and store results of the kernel at indices."""
        for value in values:
            text = self.value(value, coords)
            outer = self.kernel.outer(value)
            assert outer is not None
            self.store(outer, outer.name, coords, text)

    def value(
        self,
        value: Value,
        coords: Sequence[Index],
        where: Sequence[Condition] = (),
    ) -> str:
        """Source for a value's elements, 16-bit floats as float32.

        Only where the conditions hold is that what the graph means.
        """
        key = self._key(value, coords, where)
        bare = self._key(value, coords, ())
        for block in self.block.chain():
            for wanted in (key, bare):
                if wanted in block.known:
                    return str(block.known[wanted])
        node = self.kernel.maker(value)
        if node is None:
            text = self.load(value, self.place(value), coords, where)
            name = self.let(self._called(value), self._widened(value, text))
        elif node.op not in RULES:
            raise self.kernel.refusal(f"{node.op} is needed at more than its own tile")
        else:
            name = self.let(value.name, RULES[node.op](self, node, coords, where))
        self.block.known[key] = name
        return name

    def filled(
        self,
        value: Value,
        coords: Sequence[Index],
        where: Sequence[Condition],
        fill: str = "0.0",
        stored: bool = False,
    ) -> str:
        """A value's elements, and ``fill`` where the conditions do not hold.

        ``stored`` gives them in the dtype they are stored in, for a product.
        """
        stored = stored and value.type.dtype.is_half
        if self.kernel.maker(value) is None and (where or stored):
            key = (*self._key(value, coords, where), fill, stored)
            for block in self.block.chain():
                if key in block.known:
                    return str(block.known[key])
            text = self.load(value, self.place(value), coords, where, fill)
            text = text if stored else self._widened(value, text)
            self.block.known[key] = self.let(self._called(value), text)
            return str(self.block.known[key])
        inside = self.value(value, coords, where)
        if stored:
            inside = f"{inside}.to({dtype(value.type.dtype)})"
        if not where:
            return inside
        return f"tl.where({self.both(list(where))}, {inside}, {fill})"

    def _widened(self, value: Value, text: str) -> str:
        """Loaded elements in the dtype they are computed in."""
        kind = value.type.dtype
        return f"{text}.to(tl.float32)" if kind.is_half else text

    def place(self, value: Value) -> str:
        """The memory of an operand."""
        place = self.kernel.place(value)
        if place is None:
            raise self.kernel.refusal(f"{value} has no memory")
        return place

    def full(self, coords: Sequence[Index], number: str, kind: DType) -> str:
        """A constant tile that varies along the axes of the coordinates."""
        axes = frozenset().union(*(c.axes for c in coords))
        shape = [n if a in axes else 1 for a, n in sorted(self.shape.items())]
        dims = ", ".join(map(str, shape)) if axes else ""
        dims += "," if axes and len(shape) == 1 else ""
        return f"tl.full(({dims}), {number}, {dtype(kind)})"

    def _called(self, value: Value) -> str:
        place = self.place(value)
        return place.replace("/", "_").replace(".", "_")

    def _key(
        self, value: Value, coords: Sequence[Index], where: Sequence[Condition]
    ) -> tuple[object, ...]:
        return (value.name, tuple(coords), tuple(where))
