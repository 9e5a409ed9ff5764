"""A single image pixel by pixel: all of it in one product, with no transposition.

The batch is innermost, so that one image [h, w, c, 1] lies as [h, w, c]: the kernel
rows of a window are runs of KW·C elements. They are copied, window below window, into
a matrix of pixels x KH·KW·C, in one call; its product with the filters [KH·KW·C, K] is
the result as it is stored. Pixels are ordered by their place in the pool window, so
that pooling reads whole blocks.
"""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import ConvAlgorithm
from convc.backends.cpu.conv_epilogue import (
    Block,
    emit_epilogue,
    emit_operands,
    epilogue_cost,
    epilogue_scratch,
)
from convc.backends.cpu.conv_plan import ConvPlan
from convc.backends.cpu.conv_tiles import ConvTiles
from convc.backends.cpu.cost import gemm, passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs
from convc.ir.types import DType


class Im2colPixels(ConvAlgorithm):
    """Programs for one image; any stride, padding and dilation, no groups."""

    name = "im2col_pixels"

    def schedules(self, plan: ConvPlan, batch: int, threads: int) -> list[Attrs]:
        """One, for a batch of one."""
        if batch > 1 or plan.tiles.groups > 1:
            return []
        return [{"algorithm": self.name, "images": 1}]

    def scratch(self, kernel: Kernel, plan: ConvPlan) -> tuple[Scratch, ...]:
        """The image with its padding, the windows, the products, and the epilogue's."""
        g, f32 = plan.tiles, DType.F32
        result = (g.rows, g.cols, g.k, 1)
        return (
            Scratch("padded", f32, (*_padded(g), g.c)),
            Scratch("windows", f32, (_pixels(g), g.depth)),
            Scratch("z", f32, (_pixels(g), g.k)),
            *epilogue_scratch(plan, result),
        )

    def cost(self, kernel: Kernel, plan: ConvPlan, m: int) -> Cost:
        """A copy of the image, one of all windows, a product, the epilogue."""
        g = plan.tiles
        return (
            passes(float(g.h * g.w * g.c), 3)
            + passes(float(_pixels(g) * g.depth), 2)
            + gemm(_pixels(g), g.depth, g.k)
            + epilogue_cost(plan, float(g.rows * g.cols * g.k), 1)
        )

    def emit(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Write the body of the kernel's function."""
        g = plan.tiles
        x = plan.conv.operands[0]
        block = Block((g.rows, g.cols, g.k, 1), by_pixel=True)
        w(f"w = {kernel.mem(plan.conv.operands[1], g.depth, g.k)}")
        emit_operands(w, kernel, plan, block)
        height, width = _padded(g)
        w(f"padded = {kernel.private('padded', height, width, g.c)}")
        w("if t:", "    return  # there is one image, which one worker takes")
        w(f"i, m, first, r = 0, 1, 0, {g.rows}")
        inside = f"padded[{g.top} : {g.top + g.h}, {g.left} : {g.left + g.w}]"
        w.steps(
            "padded.fill(0)",
            f"copyto({inside}, {kernel.mem(x, g.h, g.w, g.c)})",
        )
        dims = (g.ph, g.pw, g.rows, g.cols, g.kh, g.kw, g.c)
        w(f"windows = {kernel.private('windows', *dims)}")
        steps = (g.stride_h, g.stride_w), (g.ph, g.pw), (g.dilation_h, g.dilation_w)
        w(f"source = patches(padded, windows.shape, {', '.join(map(str, steps))})")
        w.steps("copyto(windows, source)")
        w(f"a = {kernel.private('windows', _pixels(g), g.depth)}")
        w(f"z = {kernel.private('z', _pixels(g), g.k)}")
        w.steps("matmul(a, w, out=z)")
        parts = (g.ph * g.pw, g.rows, g.cols, g.k, 1)
        w(f"z = z.reshape({', '.join(map(str, parts))})")
        w("taps = list(z)" if plan.pool else "best = z[0]")
        emit_epilogue(w, kernel, plan, block)


def _pixels(g: ConvTiles) -> int:
    """Of the result, before it is pooled."""
    return g.ph * g.pw * g.rows * g.cols


def _padded(g: ConvTiles) -> tuple[int, int]:
    """Rows and columns of the image with all that its windows read."""
    rows = (g.ph * g.rows - 1) * g.stride_h + g.dilation_h * (g.kh - 1) + 1
    cols = (g.pw * g.cols - 1) * g.stride_w + g.dilation_w * (g.kw - 1) + 1
    return max(rows, g.top + g.h), max(cols, g.left + g.w)
