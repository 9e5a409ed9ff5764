"""Stride-1 convolutions over images stored with their border of zeros.

With the border in memory, the rows of the product are the positions of the padded grid,
one after the other, and a tap of the filter reads the same rows shifted by a constant.
So a tile is one box of a matrix [positions, channels], which a tensor descriptor loads
without masks or index arithmetic; positions in the border are not stored. It pays where
the products outweigh the launch that copies the image into its border; without padding
there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from convc.backends.gpu.affine import Index, Symbol
from convc.backends.gpu.contraction import (
    axis_symbol,
    digits_of,
    start_of,
)
from convc.backends.gpu.conv import axes_of, bounded
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.section import tiles
from convc.backends.gpu.tile import Tile
from convc.ir.graph import Node, Value
from convc.ir.ops.base import ints
from convc.ir.types import TensorType

ALIGN = 16
"""Bytes: a row of a box starts at a multiple of it."""


@dataclass(frozen=True)
class Halo:
    """A convolution or its input gradient over an operand with a border.

    ``before`` are the zeros above and to the left, ``grid`` the padded height and
    width, ``out`` the part of it that is the result; ``flipped`` reads the taps of the
    filter from the last to the first.
    """

    kernel: Kernel
    anchor: Node
    before: tuple[int, ...]
    grid: tuple[int, ...]
    out: tuple[int, ...]
    dilations: tuple[int, ...]
    flipped: bool

    @property
    def image(self) -> Value:
        """The operand that is given its border."""
        return self.anchor.operands[0]

    @property
    def bare(self) -> bool:
        """Whether there is no border, so that the image is read where it lies."""
        return self.grid == self.image.type.bind(1)[1:3]

    @property
    def stored(self) -> Value:
        """Where the image lies with its border: [images, height, width, channels]."""
        images = self.image.type.bind(self.kernel.batch)[0]
        shape = (images, *self.grid, self.image.type.inner[-1])
        of = TensorType(self.image.type.dtype, shape)
        return Value(f"{self.kernel.node.name}!halo_{self.anchor.name}", of)

    @property
    def rows(self) -> tuple[tuple[str, int], ...]:
        """The positions of the padded grid."""
        images = self.stored.type.bind(1)[0]
        return ("n", images), ("h", self.grid[0]), ("w", self.grid[1])

    @property
    def columns(self) -> int:
        """The channels of the result."""
        kernel = self.anchor.operands[1].type.inner
        return kernel[2] if self.flipped else kernel[3]

    def programs(self, tile: Sequence[int]) -> int:
        """The tiles of all positions and channels."""
        positions = self.stored.type.elements(1) // self.stored.type.inner[-1]
        return tiles(positions, tile[0]) * tiles(self.columns, tile[1])


def halo_of(kernel: Kernel, node: Node) -> Halo | None:
    """How a convolution, or its input gradient, is done over a border; None if not.

    It wants stride 1, no groups, operands that lie in memory, in rows of whole
    ALIGN bytes.
    """
    if node.op not in ("conv2d", "conv2d_input_grad"):
        return None
    axes, (image, filters) = axes_of(node), node.operands
    plain = all(a.stride == 1 for a in axes) and ints(node.attrs["groups"]) == (1,)
    if not plain or any(kernel.maker(v) is not None for v in (image, filters)):
        return None
    size = image.type.dtype.itemsize
    channels = image.type.inner[-1], filters.type.inner[-1]
    if any(c * size % ALIGN or c < 16 for c in channels):
        return None
    if kernel.find("max_pool2d") or kernel.find("max_pool2d_argmax"):
        return None
    flipped = node.op == "conv2d_input_grad"
    before = tuple(a.reach - 1 - a.before if flipped else a.before for a in axes)
    after = tuple(a.reach - 1 - a.after for a in axes)
    if min(before) < 0 or (flipped and min(after) < 0):
        return None
    out = tuple(a.size if flipped else a.out for a in axes)
    grid = tuple(n + a.reach - 1 for n, a in zip(out, axes, strict=True))
    dilations = tuple(a.dilation for a in axes)
    return Halo(kernel, node, before, grid, out, dilations, flipped)


def write_copy(t: Tile, halo: Halo, coords: Sequence[Index]) -> None:
    """Stores elements of the image with its border."""
    n, h, w, c = coords
    size = halo.image.type.inner[:2]
    at = [h + -halo.before[0], w + -halo.before[1]]
    inside = [x for i, s in zip(at, size, strict=True) for x in t.within(i, s, "inner")]
    text = t.filled(halo.image, [n, *at, c], inside, "0.0", stored=True)
    t.store(halo.stored, halo.stored.name, coords, text)


def write_halo_product(
    t: Tile, halo: Halo, pid: Symbol, tile: Sequence[int]
) -> list[Index]:
    """The loop over taps and channels; the sums in ``acc`` and where they belong."""
    rows, columns, depth = tile
    positions = halo.stored.type.elements(1) // halo.stored.type.inner[-1]
    kh, kw, c, k = halo.anchor.operands[1].type.inner
    channels = halo.stored.type.inner[-1]
    down, right = tiles(positions, rows), tiles(halo.columns, columns)
    row_tile, column_tile = t.digits(pid, [("row_tile", down), ("column_tile", right)])
    first, needs = start_of(t, row_tile, rows)
    row = axis_symbol(t, "row", halo.rows, first, rows, 0, needs)
    first, needs = start_of(t, column_tile, columns)
    column = axis_symbol(t, "column", (("k", halo.columns),), first, columns, 1, needs)
    place = t.place(halo.image) if halo.bare else halo.stored.name
    image = t.let("image_box", _box(t, place, (positions, channels), rows, depth))
    filters = _weights(t, halo, (kh * kw * c, k), tile)
    t.line(f"acc = tl.zeros(({rows}, {columns}), tl.float32)")
    blocks = tiles(channels, depth)
    with t.inside(f"for step in range({kh * kw * blocks}):") as block:
        step = Symbol("step", 0, kh * kw * blocks - 1, frozenset(), block)
        i, j, part = t.digits(step, [("i", kh), ("j", kw), ("block", blocks)])
        tap = i * (halo.dilations[0] * halo.grid[1]) + j * halo.dilations[1]
        if halo.flipped:
            reach = (kh - 1) * halo.dilations[0] * halo.grid[1]
            tap = tap * -1 + (reach + (kw - 1) * halo.dilations[1])
        at = t.text(row_tile * rows + tap)
        t.line(f"a = {image}.load([{at}, {t.text(part * depth)}])")
        across, deep = column_tile * columns, part * depth
        down_by, right_by = (across, deep) if halo.flipped else (deep, across)
        filter_row = t.text((i * kw + j) * c + down_by)
        filter_column = t.text(right_by)
        t.line(f"b = {filters}.load([{filter_row}, {filter_column}])")
        how = ""
        if not halo.image.type.dtype.is_half:
            how = f', input_precision="{halo.anchor.attrs["precision"]}"'
        t.line(f"acc = tl.dot(a, b{'.T' if halo.flipped else ''}, acc{how})")
    t.shape = {0: rows, 1: columns}
    n, h, w = digits_of(t, row, halo.rows)
    h, w = bounded(t, h, halo.out[0]), bounded(t, w, halo.out[1])
    return [t.among_images(n), h, w, Index.of(column)]


def _box(t: Tile, place: str, shape: tuple[int, int], rows: int, columns: int) -> str:
    """A descriptor of a matrix, read in boxes."""
    at = t.pointer(place)
    return (
        f"tl.make_tensor_descriptor({at}, shape=[{shape[0]}, {shape[1]}], "
        f"strides=[{shape[1]}, 1], block_shape=[{rows}, {columns}])"
    )


def _weights(t: Tile, halo: Halo, shape: tuple[int, int], tile: Sequence[int]) -> str:
    """The descriptor of the filters as a matrix [taps and channels, filters]."""
    _, columns, depth = tile
    rows, across = (columns, depth) if halo.flipped else (depth, columns)
    place = t.place(halo.anchor.operands[1])
    return t.let("filter_box", _box(t, place, shape, rows, across))
