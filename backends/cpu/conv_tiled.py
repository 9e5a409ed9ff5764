"""Convolutions of tiles of m x m outputs, a row of tiles at a time.

With the batch innermost a row of tiles is the matrix [a·b, channels·tiles·images] of
the a x b pixels that each tile's outputs are made of: a view of shifted rows as in
im2col_rows, at m times the stride. What makes outputs of pixels is an algorithm's own.
"""

from abc import abstractmethod
from dataclasses import replace

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import ConvAlgorithm, repeated, tile_sizes
from convc.backends.cpu.conv_epilogue import (
    Block,
    emit_epilogue,
    emit_operands,
    epilogue_cost,
    epilogue_scratch,
)
from convc.backends.cpu.conv_plan import ConvPlan
from convc.backends.cpu.conv_tiles import ConvTiles, shifts_of
from convc.backends.cpu.cost import passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs
from convc.ir.types import DType

IMAGES = 32
"""Images per tile to begin with: as long as runs must be to be copied fast."""


class TiledConv(ConvAlgorithm):
    """A convolution whose tiles of outputs are made of their pixels by products."""

    @abstractmethod
    def sizes(self, g: ConvTiles) -> list[int]:
        """The m that may serve."""

    @abstractmethod
    def own_scratch(self, g: ConvTiles, m: int, columns: int) -> list[Scratch]:
        """Filters, and what lies between the windows and the outputs of a row."""

    @abstractmethod
    def row_cost(self, g: ConvTiles, m: int, columns: int) -> Cost:
        """Making the outputs of a row of tiles."""

    @abstractmethod
    def emit_filters(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Bind what the products need of the filters."""

    @abstractmethod
    def emit_row(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Make z [m·m, k, ...] of the row of tiles from the output row ``first`` on."""

    def schedules(self, plan: ConvPlan, batch: int, threads: int) -> list[Attrs]:
        """A few images per tile for each m that may serve; not for a single image."""
        return tiled_schedules(self.name, self.sizes(plan.tiles), batch, threads)

    def check(self, kernel: Kernel, plan: ConvPlan) -> None:
        """CompileError for an m that may not serve."""
        check_size(kernel, self.name, self.sizes(plan.tiles))

    def scratch(self, kernel: Kernel, plan: ConvPlan) -> tuple[Scratch, ...]:
        """Windows, what the algorithm needs, and the outputs of a row."""
        g, f32 = plan.tiles, DType.F32
        images, m = kernel.integer("images"), kernel.integer("m")
        p = tiles_of(g, m)
        return (
            Scratch("windows", f32, (*p.window_dims, images)),
            *self.own_scratch(g, m, p.cols * images),
            Scratch("z", f32, (m * m, g.k, p.cols * images)),
            *epilogue_scratch(plan, (m // g.ph, m // g.pw, g.k, p.cols, images)),
        )

    def cost(self, kernel: Kernel, plan: ConvPlan, m: int) -> Cost:
        """Copies of the rows, the products of each row of tiles, the epilogue."""
        g, size = plan.tiles, kernel.integer("m")
        p = tiles_of(g, size)
        results = g.k * p.cols * m * (size * size) / (g.ph * g.pw)
        row = self.row_cost(g, size, p.cols * m)
        row += epilogue_cost(plan, results, 1, size // g.pw)
        return windows_cost(g, size, m) + repeated(row, p.rows)

    def emit(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Write the body of the kernel's function."""
        g, m = plan.tiles, kernel.integer("m")
        p, split = tiles_of(g, m), m // g.pw
        rows = (m // g.ph, split) if split > 1 else (m // g.ph,)
        block = Block((*rows, g.k, p.cols, "m"), split)
        w(f"x = {kernel.mem(plan.conv.operands[0])}")
        emit_operands(w, kernel, plan, block)
        self.emit_filters(w, kernel, plan)
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        emit_windows(w, kernel, p)
        w(f"z = {kernel.private('z', m * m, g.k, f'{p.cols} * m')}")
        w(f"for first, r in pieces(0, {g.rows}, {m // g.ph}):")
        w.depth += 1
        self.emit_row(w, kernel, plan)
        _emit_taps(w, plan, m, p.cols)
        emit_epilogue(w, kernel, plan, block)
        w.depth -= 2


def tiled_schedules(
    algorithm: str, sizes: list[int], batch: int, threads: int
) -> list[Attrs]:
    """A few images per tile for each m that may serve; not for a single image.

    Products with the columns of one are too short for the BLAS library.
    """
    if batch == 1:
        return []
    share = -(-batch // threads)
    return [
        {"algorithm": algorithm, "images": images, "m": m}
        for m in sizes
        for images in tile_sizes(min(IMAGES, share), share)
    ]


def check_size(kernel: Kernel, algorithm: str, sizes: list[int]) -> None:
    """CompileError for an m that may not serve."""
    m = kernel.integer("m")
    if m not in sizes:
        raise CompileError(
            f"kernel {kernel.node.attrs['name']}: {algorithm} needs m in {sizes} "
            f"(other tiles round too much, save nothing, or do not fit the "
            f"pool), its schedule has m = {m}"
        )


def tiles_of(g: ConvTiles, m: int) -> ConvTiles:
    """The convolution of the tiles: their pixels at m times the stride, unpooled."""
    return replace(
        g,
        kh=(m - 1) * g.stride_h + (g.kh - 1) * g.dilation_h + 1,
        kw=(m - 1) * g.stride_w + (g.kw - 1) * g.dilation_w + 1,
        groups=1,
        stride_h=m * g.stride_h,
        stride_w=m * g.stride_w,
        dilation_h=1,
        dilation_w=1,
        ph=1,
        pw=1,
        rows=-(-g.rows * g.ph // m),
        cols=-(-g.width // m),
    )


def windows_cost(g: ConvTiles, m: int, images: int) -> Cost:
    """Filling the windows of so many images."""
    p = tiles_of(g, m)
    copied = g.c * min(g.h, p.height) * p.cols * images
    return passes(copied, 2, p.kw)


def emit_windows(w: Writer, kernel: Kernel, p: ConvTiles) -> None:
    """Fill the windows of the images i ... i+m."""
    w(f"windows = {kernel.private('windows', *p.window_dims, 'm')}")
    w.steps(f"fill_windows({shifts_of('x', p)})")


def row_of_tiles(g: ConvTiles, m: int) -> str:
    """Source for the number of the row of tiles that begins at the row ``first``."""
    rows = m // g.ph
    return f"first // {rows}" if rows > 1 else "first"


def _emit_taps(w: Writer, plan: ConvPlan, m: int, cols: int) -> None:
    """Bind taps or best to the outputs in z, in which tiles are innermost."""
    g, split = plan.tiles, m // plan.tiles.pw
    if plan.pool is None:
        w(f"best = z.reshape({m}, {m}, {g.k}, {cols}, m)[:r]")
        return
    parts = f"{split}, {g.pw}" if split > 1 else str(g.pw)
    w(f"taps = z.reshape({m // g.ph}, {g.ph}, {parts}, {g.k}, {cols}, m)[:r]")
    tap = "taps[:, q, :, e]" if split > 1 else "taps[:, q, e]"
    w(f"taps = [{tap} for q in range({g.ph}) for e in range({g.pw})]")
