"""Softmax, argmax, cross-entropy: a tile holds whole rows of classes.

A loss's kernel also sums over the images; then one program takes them all, a block of
rows after the other, so that the sum has one order.
"""

from collections.abc import Sequence

from convc.backends.gpu.affine import Symbol
from convc.backends.gpu.contraction import (
    Coords,
    Part,
    axis_symbol,
    digits_of,
    size_of,
    start_of,
)
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.pointwise import EXACT_LOG
from convc.backends.gpu.reduction import NAMES
from convc.backends.gpu.scope import computed, dtype, ratio
from convc.backends.gpu.section import power, tiles
from convc.backends.gpu.tile import Tile
from convc.ir.graph import Node, Value
from convc.ir.types import DType

ROWS = (
    "softmax",
    "log_softmax",
    "argmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_grad",
)
"""Ops that need a whole row of their first operand."""


def anchors(kernel: Kernel) -> list[Node]:
    """The ops of a kernel that need whole rows."""
    return [n for n in kernel.ops if n.op in ROWS]


def row_values(kernel: Kernel) -> tuple[Value, int]:
    """The values whose rows are taken, and how many columns those have."""
    first = anchors(kernel)[0].operands[0]
    for node in anchors(kernel):
        if node.operands[0].type.shape != first.type.shape:
            raise kernel.refusal("their rows differ")
    return first, first.type.inner[-1]


def totals(kernel: Kernel) -> list[Node]:
    """Sums and means over all images of one number per image."""
    return [n for n in kernel.ops if n.op in ("reduce_sum", "reduce_mean")]


def width_of(kernel: Kernel) -> int:
    """The columns of a tile: a power of two."""
    return power(row_values(kernel)[1])


def write_rows(t: Tile, kernel: Kernel, pid: Symbol, rows: int) -> None:
    """What one program does."""
    parts = tuple(zip(NAMES, row_values(kernel)[0].type.shape[:-1], strict=False))
    sums = totals(kernel)
    for node in sums:
        kind = dtype(computed(node.result.type.dtype))
        t.let(f"total_{node.name}", f"tl.full((), 0, {kind})")
    size = size_of(parts, t.batch)
    if not sums:
        (tile,) = t.digits(pid, [("row_tile", tiles(size, rows))])
        start, needs = start_of(t, tile, rows)
        _write_block(t, kernel, parts, start, needs, rows)
        return
    with t.steps(size, rows) as (start, needs):
        _write_block(t, kernel, parts, start, needs, rows)
    for node in sums:
        text = f"total_{node.name}"
        if node.op == "reduce_mean":
            own = node.result.type.dtype
            text = ratio(text, t.count("N", own), own)
        outer = kernel.outer(node.result)
        if outer is not None:
            t.store(outer, outer.name, [], text)


def _write_block(
    t: Tile,
    kernel: Kernel,
    parts: Sequence[Part],
    start: str,
    needs: Sequence[Symbol],
    rows: int,
) -> None:
    """The ops on a block of rows."""
    (x, classes), sums = row_values(kernel), totals(kernel)
    width = width_of(kernel)
    t.shape = {0: rows, 1: width}
    row = axis_symbol(t, "row", parts, start, rows, 0, needs)
    own = digits_of(t, row, parts)
    column = axis_symbol(t, "column", [("class", classes)], "", width, 1)
    wide = [*own, *digits_of(t, column, [("class", classes)])]
    for node in anchors(kernel):
        _write_anchor(t, node, own, wide, row, column)
    for node in sums:
        value = t.value(node.operands[0], own)
        mask = t.both(row.conditions)
        kept = f"tl.where({mask}, {value}, 0)" if mask else value
        t.line(f"total_{node.name} += tl.sum({kept})")
    results = [v for v in kernel.region.yields if kernel.maker(v) not in sums]
    for result in results:
        shape = result.type.shape
        coords = wide if shape == x.type.shape else own
        if len(coords) != len(shape):
            raise kernel.refusal(f"{result} is neither a row nor one number of each")
        t.results([result], coords)


def _write_anchor(
    t: Tile, node: Node, own: Coords, wide: Coords, row: Symbol, column: Symbol
) -> None:
    """The op's value at its own indices."""
    x = node.operands[0]
    fill = "0.0"
    if column.conditions:
        t.use(column)
        fill = f'tl.where({t.both(column.conditions)}, 0.0, float("-inf"))'
    lanes = [*row.conditions, *column.conditions]
    logits = t.filled(x, wide, lanes, fill)
    if "(" in logits:
        logits = t.let("logits", logits)
    if node.op == "argmax":
        text = t.let(node.name, f"tl.argmax({logits}, axis=1)[:, None]")
        t.known(node.result, own, text)
        return
    kind = x.type.dtype
    exponential, log = "exp({})", EXACT_LOG
    if kind is DType.F64:
        exponential, log = "tl.exp({})", "tl.log({})"
    key = ("shifted", x.name)
    if key not in t.block.known:
        shifted = t.let("shifted", f"{logits} - tl.max({logits}, axis=1)[:, None]")
        exp = t.let("powers", exponential.format(shifted))
        total = t.let("sums", f"tl.sum({exp}, axis=1)[:, None]")
        t.block.known[key] = (shifted, exp, total)
    shifted, exp, total = t.block.known[key]
    if node.op == "softmax":
        t.known(node.result, wide, t.let(node.name, ratio(exp, total, kind)))
    elif node.op == "log_softmax":
        t.known(node.result, wide, t.let(node.name, f"{shifted} - {log.format(total)}"))
    else:
        label = t.value(node.operands[1], own)
        hot = t.text(wide[-1]) + f" == {label}"
        if node.op == "softmax_cross_entropy":
            picked = f"tl.sum(tl.where({hot}, {shifted}, 0.0), axis=1)[:, None]"
            chosen = t.let("chosen", picked)
            text = t.let(node.name, f"{log.format(total)} - {chosen}")
            t.known(node.result, own, text)
        else:
            dy = t.value(node.operands[2], own)
            share = ratio(exp, total, kind)
            text = f"({share} - tl.where({hot}, 1.0, 0.0)) * {dy}"
            t.known(node.result, wide, t.let(node.name, text))
