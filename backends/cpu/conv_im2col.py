"""im2col row by row: each output row is one product with a view of shifted rows."""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import ConvAlgorithm, tile_sizes
from convc.backends.cpu.conv_epilogue import (
    Block,
    emit_epilogue,
    emit_operands,
    epilogue_cost,
    epilogue_scratch,
)
from convc.backends.cpu.conv_plan import ConvPlan
from convc.backends.cpu.conv_tiles import ConvTiles, shifts_of
from convc.backends.cpu.cost import gemm, passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs
from convc.ir.types import DType


class Im2colRows(ConvAlgorithm):
    """KW shifted copies of every row; KH rows of them are an im2col matrix, in place.

    Any stride, padding, dilation and number of groups.
    """

    name = "im2col_rows"

    def schedules(self, plan: ConvPlan, batch: int, threads: int) -> list[Attrs]:
        """A few images per tile, each with rows by the epilogue's size, or all rows."""
        g = plan.tiles
        tiles = []
        for m in tile_sizes(g.images(batch, threads), -(-batch // threads)):
            tiles += [(m, g.row_group(m)), (m, g.rows)]
        return [
            {"algorithm": self.name, "images": m, "rows": rows}
            for m, rows in dict.fromkeys(tiles)
        ]

    def products(self, plan: ConvPlan) -> ConvTiles:
        """The convolution whose rows are the products."""
        return plan.tiles

    def scratch(self, kernel: Kernel, plan: ConvPlan) -> tuple[Scratch, ...]:
        """Windows, products and what the epilogue needs."""
        g, f32 = plan.tiles, DType.F32
        m, rows = kernel.integer("images"), kernel.integer("rows")
        windows = (*self.products(plan).window_dims, m)
        result = (rows, g.k, g.cols, m)
        return (
            Scratch("windows", f32, windows),
            Scratch("z", f32, (rows, g.ph * g.pw, *result[1:])),
            *epilogue_scratch(plan, result),
        )

    def cost(self, kernel: Kernel, plan: ConvPlan, m: int) -> Cost:
        """Copies of the rows, a product for each output row and group, the epilogue."""
        g, p, rows = plan.tiles, self.products(plan), kernel.integer("rows")
        copies = p.kw * p.pw * p.dilation_h
        size = p.c * min(p.h, p.height * p.dilation_h) * p.cols * p.kw * p.pw * m
        count = p.rows * p.ph * p.groups
        return (
            passes(size / copies, 2, copies)
            + gemm(p.k // p.groups, p.depth, p.width * m, count)
            + epilogue_cost(plan, min(rows, g.rows) * g.k * g.cols * m, g.rows / rows)
        )

    def emit(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Write the body of the kernel's function."""
        g, rows = self.products(plan), kernel.integer("rows")
        block = Block((rows, plan.tiles.k, plan.tiles.cols, "m"))
        w(f"x = {kernel.mem(plan.conv.operands[0])}")
        self.emit_filters(w, kernel, plan)
        emit_operands(w, kernel, plan, block)
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        w(f"windows = {kernel.private('windows', *g.window_dims, 'm')}")
        w.steps(f"fill_windows({shifts_of('x', g)})")
        w(f"for first, r in pieces(0, {g.rows}, {rows}):")
        w.depth += 1
        w(f"z = {kernel.private('z', rows, g.ph, g.k, g.pw, g.cols, 'm')}")
        over = ["w", "windows", "z", times("first", g.ph), times("r", g.ph)]
        over += [str(v) for v in (g.stride_h, g.kh, g.top, g.h)]
        w.call("for a, s, o in products(", over, "):")
        w.steps("    matmul(a, s, out=o)")
        self.emit_taps(w, kernel, plan)
        emit_epilogue(w, kernel, plan, block)
        w.depth -= 2

    def emit_filters(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Bind w: the filters as a matrix [depth, k]."""
        g = plan.tiles
        w(f"w = {kernel.mem(plan.conv.operands[1], g.depth, g.k)}")

    def emit_taps(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Bind taps or best to the products in z."""
        g = plan.tiles
        if plan.pool:
            w(f"taps = [z[:r, q, :, e] for q in range({g.ph}) for e in range({g.pw})]")
        else:
            w("best = z[:r, 0, :, 0]")


def times(name: str, factor: int) -> str:
    """Source for ``name * factor``."""
    return name if factor == 1 else f"{name} * {factor}"
