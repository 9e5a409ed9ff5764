"""Products of two tiles summed over an index: the loop of convolutions and matmuls.

The rows, columns and summed positions of a product are numbers whose digits are the
axes of tensors: an implicit GEMM (Chetlur et al., "cuDNN: efficient primitives for deep
learning", 2014, section 3). Operands are read where they lie, through masks; the
matrix that im2col would make never exists.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from convc.backends.gpu.affine import Condition, Index, Symbol
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.section import tiles
from convc.backends.gpu.tile import Tile
from convc.ir.graph import Node, Value
from convc.ir.ops.base import ints
from convc.ir.types import BATCH

Part = tuple[str, int | str]
"""A digit of rows, columns or summed positions: its name and size (N: the images)."""


def size_of(parts: Sequence[Part], batch: int) -> int:
    """How many there are for a full batch."""
    return prod(batch if isinstance(s, str) else s for _, s in parts)


Where = list[Condition]
Coords = list[Index]


@dataclass(frozen=True)
class Operand:
    """A factor of the product: a value of the body, and where it is read."""

    value: Value
    at: Callable[[Tile, Coords, Coords, Coords], tuple[Coords, Where]]
    """From the outer digits, those of rows or columns, and those summed over."""


@dataclass(frozen=True)
class Contraction:
    """result[rows, columns] = Σ over ``summed`` of left · right, for each ``outer``.

    ``taps`` leading digits of ``summed`` are scalars of the loop, so that one step
    reads one tap of a filter; 0 takes all digits from one number, which suits few
    channels. ``result`` gives the indices of the anchor's result.
    """

    kernel: Kernel
    anchor: Node
    outer: tuple[Part, ...]
    rows: tuple[Part, ...]
    columns: tuple[Part, ...]
    summed: tuple[Part, ...]
    left: Operand
    right: Operand
    result: Callable[[Tile, Coords, Coords, Coords], Coords]
    taps: int = 0

    def size(self, parts: Sequence[Part]) -> int:
        """How many there are for a full batch."""
        return size_of(parts, self.kernel.batch)

    @property
    def positions(self) -> int:
        """How many rows make one window of a max-pool; 1 without."""
        name, size = self.rows[-1]
        return int(size) if name == "position" else 1

    def programs(self, tile: Sequence[int], split: int = 1) -> int:
        """The tiles of all rows and columns, for each part of the sum."""
        down, right = (
            tiles(self.size(self.rows), tile[0]),
            tiles(self.size(self.columns), tile[1]),
        )
        return self.size(self.outer) * split * down * right


@dataclass(frozen=True)
class Done:
    """The digits of a finished tile, its part of the sum, the number of its rows."""

    outer: Coords
    rows: Coords
    columns: Coords
    part: Index
    row_tile: Index


Lanes = tuple[Symbol, Symbol]


def count_of(t: Tile, parts: Sequence[Part], name: str) -> tuple[str, Symbol | None]:
    """Source for how many there are in this step; a symbol where that varies."""
    static = prod(int(s) for _, s in parts if s != BATCH)
    if all(s != BATCH for _, s in parts):
        return str(static), None
    images = t.images()
    if static == 1:
        return images.name, images
    key = ("count", static)
    if key not in t.top.known:
        made = t.symbol(
            name, static * t.batch + 1, f"{images.name} * {static}", block=t.top
        )
        t.top.known[key] = made
    symbol: Symbol = t.top.known[key]
    return symbol.name, symbol


def axis_symbol(
    t: Tile,
    name: str,
    parts: Sequence[Part],
    start: str,
    size: int,
    axis: int,
    needs: Sequence[Symbol] = (),
) -> Symbol:
    """The numbers of a tile along one of its two axes, ``size`` from ``start`` on."""
    total = size_of(parts, t.batch)
    spread = "[:, None]" if axis == 0 else "[None, :]"
    text = f"tl.arange(0, {size}){spread}"
    block = t.block if any(s.block is t.block for s in needs) else t.top
    full = f"{start} + {text}" if start else text
    made = t.symbol(name, total, full, (axis,), needs=needs, block=block)
    axis_condition(t, made, parts, size, axis)
    return made


def axis_condition(
    t: Tile, number: Symbol, parts: Sequence[Part], size: int, axis: int
) -> None:
    """Bounds a number by how many there are, where tiles of ``size`` do not fit."""
    most, symbol = count_of(t, parts, f"{number.name}s")
    if symbol is not None or (number.high + 1) % size:
        reads = (number,) if symbol is None else (number, symbol)
        text = f"{number.name} < {most}"
        number.conditions = (Condition(text, frozenset((axis,)), reads),)


def digits_of(t: Tile, whole: Symbol, parts: Sequence[Part]) -> Coords:
    """The digits of a number, sizes bound to a full batch.

    A number that is always 0 is its own last digit, so that its lanes stay bounded.
    """
    sizes = [(name, t.batch if s == BATCH else int(s)) for name, s in parts]
    if all(size == 1 for _, size in sizes):
        return [*(Index() for _ in sizes[1:]), Index.of(whole)]
    return t.digits(whole, sizes)


def start_of(t: Tile, index: Index, step: int) -> tuple[str, list[Symbol]]:
    """Source for ``index * step`` and what it reads, nothing for zero."""
    if not index.terms:
        return "", []
    return t.text(index * step), [s for s, _ in index.terms]


def write_product(
    t: Tile, spec: Contraction, pid: Symbol, tile: Sequence[int], split: int = 1
) -> Done:
    """The loop; leaves the sums in ``acc``."""
    rows, columns = tile[:2]
    down = tiles(spec.size(spec.rows), rows)
    right = tiles(spec.size(spec.columns), columns)
    sizes = [*((n, int(s)) for n, s in spec.outer), ("part", split)]
    *outer, part, row_tile, column_tile = t.digits(
        pid, [*sizes, ("row_tile", down), ("column_tile", right)]
    )
    for symbol in (s for index in outer for s, _ in index.terms):
        if symbol.name.startswith("phase"):  # a tile: masks of it are then tiles too
            symbol.definition = f"tl.zeros((1, 1), tl.int32) + {symbol.definition}"
    start, needs = start_of(t, row_tile, rows)
    row = axis_symbol(t, "row", spec.rows, start, rows, 0, needs)
    start, needs = start_of(t, column_tile, columns)
    column = axis_symbol(t, "column", spec.columns, start, columns, 1, needs)
    row_at, column_at = digits_of(t, row, spec.rows), digits_of(t, column, spec.columns)
    t.line(f"acc = tl.zeros(({rows}, {columns}), tl.float32)")
    done = Done(outer, row_at, column_at, part, row_tile)
    if spec.taps:
        _tap_loop(t, spec, tile, (row, column), done)
    else:
        _flat_loop(t, spec, tile, (row, column), done, split)
    t.shape = {0: rows, 1: columns}
    return done


def _flat_loop(
    t: Tile,
    spec: Contraction,
    tile: Sequence[int],
    lanes: Lanes,
    done: Done,
    split: int,
) -> None:
    """One number for all summed digits, ``step`` of them at a time."""
    total, step = spec.size(spec.summed), tile[2]
    share = tiles(tiles(total, split), step) * step
    first, needs = start_of(t, done.part, share)
    with t.steps(share, step, first, needs) as (start, reads):
        left = axis_symbol(t, "k", spec.summed, start, step, 1, reads)
        right = axis_symbol(t, "k", spec.summed, start, step, 0, reads)
        _multiply(t, spec, tile, lanes, done, (left, right))


def _tap_loop(
    t: Tile, spec: Contraction, tile: Sequence[int], lanes: Lanes, done: Done
) -> None:
    """A step for each tap and each block of channels: taps are scalars of the loop."""
    step = tile[2]
    taps, channels = spec.summed[: spec.taps], spec.summed[spec.taps :]
    blocks = tiles(spec.size(channels), step)
    steps, number = spec.size(taps) * blocks, t.unique("step")
    with t.inside(f"for {number} in range({steps}):") as block:
        whole = t.counter(number, steps, block)
        *tap_at, channel_block = digits_of(t, whole, [*taps, ("block", blocks)])
        first, needs = start_of(t, channel_block, step)
        left = axis_symbol(t, "k", channels, first, step, 1, needs)
        right = axis_symbol(t, "k", channels, first, step, 0, needs)
        _multiply(t, spec, tile, lanes, done, (left, right), tap_at)


def _multiply(
    t: Tile,
    spec: Contraction,
    tile: Sequence[int],
    lanes: Lanes,
    done: Done,
    summed: Lanes,
    taps: Sequence[Index] = (),
) -> None:
    """Read both tiles and add their product to ``acc``."""
    rows, columns, step = tile
    parts = spec.summed[len(taps) :]
    k_left, k_right = ([*taps, *digits_of(t, symbol, parts)] for symbol in summed)
    t.shape = {0: rows, 1: step}
    left = _factor(t, spec.left, done.outer, done.rows, k_left, (lanes[0], summed[0]))
    t.shape = {0: step, 1: columns}
    right = _factor(
        t, spec.right, done.outer, done.columns, k_right, (lanes[1], summed[1])
    )
    how = ""
    if not spec.left.value.type.dtype.is_half:
        how = f', input_precision="{spec.anchor.attrs["precision"]}"'
    t.line(f"acc = tl.dot({left}, {right}, acc{how})")


def _factor(
    t: Tile,
    operand: Operand,
    outer: Coords,
    own: Coords,
    summed: Coords,
    lanes: Lanes,
) -> str:
    """A tile of one factor, zero where a lane means nothing."""
    coords, where = operand.at(t, outer, own, summed)
    valid = [*(c for s in lanes for c in s.conditions), *where]
    valid = list(dict.fromkeys(valid))
    return t.filled(operand.value, coords, valid, "0.0", stored=True)


def write_pooled(
    t: Tile,
    spec: Contraction,
    pool: Node,
    coords: Coords,
    pooled: tuple[Part, ...],
    position: Index,
    row_tile: Index,
    tile: Sequence[int],
    yields: Sequence[Value],
) -> None:
    """What follows the anchor up to a max-pool, the pool, and what follows that.

    The positions of a window are the last digit of the rows, so they lie side by side.
    """
    kernel, (rows, columns, _) = spec.kernel, tile
    window = ints(pool.attrs["window"])
    taps = window[0] * window[1]
    width = spec.positions
    t.known(spec.anchor.result, coords, "acc")
    before = t.value(pool.operands[0], coords)
    if taps < width:
        before = t.let(
            "inside", f'tl.where({t.text(position)} < {taps}, {before}, float("-inf"))'
        )
    shape = f"({rows // width}, {width}, {columns})"
    grouped = t.let("windows", f"tl.reshape({before}, {shape})")
    argmax = next((n for n in kernel.ops if n.op == "max_pool2d_argmax"), None)
    if argmax is not None:
        best, which = t.unique("best"), t.unique("which")
        t.line(f"{best}, {which} = tl.max({grouped}, axis=1, return_indices=True)")
    else:
        best = t.let("best", f"tl.max({grouped}, axis=1)")
    t.shape = {0: rows // width, 1: columns}
    start, needs = start_of(t, row_tile, rows // width)
    row = axis_symbol(t, "window", pooled, start, rows // width, 0, needs)
    at = [*digits_of(t, row, pooled), coords[-1]]
    t.known(pool.result, at, best)
    if argmax is not None:
        t.known(argmax.result, at, f"{which}.to(tl.uint8)")
    t.results(yields, at)
