"""Shifted products: a convolution as a sum of products with views of its input.

With the batch innermost the taps of one row of a window lie one after the other: for
every output pixel a (KW·C) x images matrix that needs no copy. The products with the
KH rows of a window add up to the convolution, as in kn2row (Anderson et al., "Low-
memory GEMM-based convolution algorithms for deep neural networks", 2017, section 3),
but with KW times deeper products and as many fewer sums. For a 1x1 filter this is one
call without copies.
"""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import ConvAlgorithm, batched, tile_sizes, total
from convc.backends.cpu.conv_epilogue import (
    Block,
    emit_epilogue,
    emit_operands,
    epilogue_cost,
    epilogue_scratch,
)
from convc.backends.cpu.conv_im2col import times
from convc.backends.cpu.conv_plan import ConvPlan
from convc.backends.cpu.conv_tiles import ConvTiles
from convc.backends.cpu.cost import gemm, passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs
from convc.ir.types import DType


class ShiftedGemm(ConvAlgorithm):
    """KH products for each output pixel, all pixels of a tile in one call.

    One group, no dilation between columns, any stride; some tap must lie inside the
    image for every output, so that its product can begin the sum.
    """

    name = "shifted_gemm"

    def schedules(self, plan: ConvPlan, batch: int, threads: int) -> list[Attrs]:
        """A few images per tile, with rows by the epilogue's size or all rows."""
        g = plan.tiles
        if g.groups > 1 or g.dilation_w > 1 or first_row(g) is None:
            return []
        share = -(-batch // threads)
        tiles = []
        for m in tile_sizes(min(64, share), share):
            tiles += [(m, g.row_group(m)), (m, g.rows)]
        return [
            {"algorithm": self.name, "images": m, "rows": rows}
            for m, rows in dict.fromkeys(tiles)
        ]

    def scratch(self, kernel: Kernel, plan: ConvPlan) -> tuple[Scratch, ...]:
        """A product, its sum where that is pooled, and what the epilogue needs."""
        g, f32 = plan.tiles, DType.F32
        m, rows = kernel.integer("images"), kernel.integer("rows")
        pixels = (rows * g.ph, g.width, g.k, m)
        found = [Scratch("z", f32, pixels)] if plan.pool else []
        if g.kh > 1:
            found.append(Scratch("part", f32, pixels))
        return (*found, *epilogue_scratch(plan, (rows, g.cols, g.k, m)))

    def cost(self, kernel: Kernel, plan: ConvPlan, m: int) -> Cost:
        """A product for each pixel and row of taps, sums over the rows, epilogue.

        Columns near the border have fewer taps, and calls of their own.
        """
        g, rows = plan.tiles, kernel.integer("rows")
        blocks, pixels = g.rows / rows, g.rows * g.ph * g.width
        calls, results = blocks * len(column_taps(g)), pixels * g.k * m
        sums = passes(results / calls, 3, calls * (g.kh - 1), 12 * results / blocks)
        done = epilogue_cost(plan, min(rows, g.rows) * g.cols * g.k * m, blocks, 1)
        depth = g.kw * g.c
        product = gemm(g.k, depth, m)
        products = batched(product, pixels * g.kh, calls * g.kh, g.k * depth)
        return total([products, sums, done])

    def sums_in_place(self, plan: ConvPlan) -> bool:
        """Whether products are added up where the results belong."""
        return plan.pool is None

    def emit(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Write the body of the kernel's function."""
        g, rows = plan.tiles, kernel.integer("rows")
        here = self.sums_in_place(plan)
        block = Block((rows, g.cols, g.k, "m"), by_pixel=True, here=here)
        w(f"x = {kernel.mem(plan.conv.operands[0])}")
        w(f"w = {kernel.mem(plan.conv.operands[1])}")
        emit_operands(w, kernel, plan, block)
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        w(f"for first, r in pieces(0, {g.rows}, {rows}):")
        w.depth += 1
        pixels = (times("r", g.ph), g.width, g.k, "m")
        if plan.pool:
            w(f"z = {kernel.private('z', *pixels)}")
        else:
            w(f"z = y{block.place}")
        self._emit_sum(w, kernel, g, pixels)
        if plan.pool:
            w(f"taps = z.reshape(r, {g.ph}, {g.cols}, {g.pw}, {g.k}, m)")
            places = f"for q in range({g.ph}) for e in range({g.pw})"
            w(f"taps = [taps[:, q, :, e] {places}]")
        else:
            w("best = z")
        emit_epilogue(w, kernel, plan, block)
        w.depth -= 2

    def _emit_sum(
        self, w: Writer, kernel: Kernel, g: ConvTiles, pixels: tuple[object, ...]
    ) -> None:
        over = ["w", "x[..., i : i + m]", "z", times("first", g.ph), str(first_row(g))]
        over += [
            f"({g.stride_h}, {g.dilation_h}, {g.top})",
            f"({g.stride_w}, {g.left})",
        ]
        if g.kh == 1:
            w.call("for a, s, at, _ in tap_products(", over, "):")
            w.steps("    matmul(a, s, out=z[at])")
            return
        w(f"part = {kernel.private('part', *pixels)}")
        w.call("for a, s, at, begins in tap_products(", over, "):")
        w.steps("    matmul(a, s, out=(z if begins else part)[at])")
        w("    if not begins:")
        w.steps("        add(z[at], part[at], out=z[at])")


def column_taps(g: ConvTiles) -> set[tuple[int, int]]:
    """The first and last tap inside the image, in a row of taps, that columns have."""
    starts = [g.left - q * g.stride_w for q in range(g.width)]
    return {(max(0, start), min(g.kw, g.w + start)) for start in starts}


def first_row(g: ConvTiles) -> int | None:
    """The row of taps that the sum begins with: inside the image for every output.

    None if there is none, or no column of taps that is.
    """
    rows, cols = (g.rows * g.ph - 1) * g.stride_h, (g.width - 1) * g.stride_w
    inside_h = (i for i in range(g.kh) if 0 <= i * g.dilation_h - g.top < g.h - rows)
    inside_w = (j for j in range(g.kw) if 0 <= j - g.left < g.w - cols)
    return next(inside_h, None) if any(True for _ in inside_w) else None
