"""Sums, means and variances over any axes, alone or beside a kernel's products."""

from collections.abc import Sequence

from convc.backends.gpu.affine import Index, Symbol
from convc.backends.gpu.contraction import (
    Coords,
    Part,
    axis_symbol,
    digits_of,
    size_of,
    start_of,
)
from convc.backends.gpu.scope import computed, dtype, ratio
from convc.backends.gpu.section import tiles
from convc.backends.gpu.tile import Tile
from convc.ir.graph import Node
from convc.ir.ops.base import ints

NAMES = ("n", "h", "w", "c", "d", "e", "f", "g")


def parts_of(node: Node) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """The kept and the reduced axes of a reduction."""
    axes, shape = ints(node.attrs["axes"]), node.operands[0].type.shape
    named = list(zip(NAMES, shape, strict=False))
    kept = tuple(p for i, p in enumerate(named) if i not in axes)
    return kept, tuple(p for i, p in enumerate(named) if i in axes)


def write_sum(
    t: Tile, node: Node, pid: Symbol, tile: Sequence[int], split: int = 1
) -> tuple[Coords, Index]:
    """Reduces a tile of columns; the result is known at the coords returned.

    With ``split`` parts each gives its own share of a sum, as ``acc``.
    """
    (x,) = node.operands
    kept, reduced = parts_of(node)
    rows, columns = tile
    part, column_tile = t.digits(
        pid, [("part", split), ("column_tile", tiles(size_of(kept, t.batch), columns))]
    )
    at: Coords = []
    if kept:
        start, needs = start_of(t, column_tile, columns)
        column = axis_symbol(t, "column", kept, start, columns, 1, needs)
        at = digits_of(t, column, kept)
    width = columns if kept else 1
    kind = dtype(computed(x.type.dtype))

    share = tiles(tiles(size_of(reduced, t.batch), split), rows) * rows

    def total(term: str, name: str) -> str:
        found = t.let(name, f"tl.zeros((1, {width}), {kind})")
        first, needs = start_of(t, part, share)
        with t.steps(share, rows, first, needs) as (start, reads):
            row = axis_symbol(t, "row", reduced, start, rows, 0, reads)
            t.shape = {0: rows, 1: width}
            coords = _woven(node, at, digits_of(t, row, reduced))
            fill = "0.0" if x.type.dtype.is_float else "0"
            value = t.filled(x, coords, row.conditions, fill)
            mask = t.both(row.conditions) if term != "{}" else ""
            terms = term.format(value)
            terms = f"tl.where({mask}, {terms}, 0.0)" if mask else terms
            t.line(f"{found} += tl.sum({terms}, axis=0)[None, :]")
        t.shape = {0: 1, 1: width}
        return found

    if node.op == "reduce_variance":
        mean = t.let("mean", _divided(t, node, total("{}", "total")))
        squares = total(f"({{0}} - {mean}) * ({{0}} - {mean})", "squares")
        t.line(f"acc = {_divided(t, node, squares)}")
    else:
        name = total("{}", "total")
        mean_now = node.op == "reduce_mean" and split == 1
        t.line(f"acc = {_divided(t, node, name) if mean_now else name}")
    if not kept:
        t.line("acc = tl.sum(acc)")
    return at, part


def _divided(t: Tile, node: Node, text: str) -> str:
    """A sum over the reduced axes as the mean."""
    kind, (_, reduced) = node.result.type.dtype, parts_of(node)
    return ratio(text, t.count((size for _, size in reduced), kind), kind)


def divided(t: Tile, node: Node, text: str) -> str:
    """A sum as what the reduction means: itself, or the mean."""
    if node.op != "reduce_mean":
        return text
    return _divided(t, node, text)


def _woven(node: Node, kept: Coords, reduced: Coords) -> Coords:
    """The indices of all axes in order."""
    axes, rest, inner = ints(node.attrs["axes"]), iter(kept), iter(reduced)
    rank = node.operands[0].type.rank
    return [next(inner) if axis in axes else next(rest) for axis in range(rank)]
