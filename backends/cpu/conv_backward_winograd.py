"""The gradients of a convolution by Winograd's tiles, see ``conv_winograd``.

The adjoint of a transform is the product with its transpose. The gradient dz of a row
of tiles goes through the transpose of what makes outputs; both gradients share that.
The filters' is summed at the frequencies; the image's goes through the transpose of
what takes pixels to frequencies.
"""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import batched, repeated
from convc.backends.cpu.conv_backward_plan import BackwardPlan
from convc.backends.cpu.conv_backward_tiled import TiledBackward
from convc.backends.cpu.conv_tiled import tiles_of
from convc.backends.cpu.conv_winograd import (
    emit_filters,
    emit_transforms,
    emit_windows_transformed,
    filters_cost,
    winograd_sizes,
)
from convc.backends.cpu.cost import gemm, passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.types import DType


class WinogradBackward(TiledBackward):
    """A convolution whose gradients' bounds allow it, and where it saves arithmetic."""

    name = "winograd"
    direct = False

    def sizes(self, plan: BackwardPlan) -> list[int]:
        """The m that may serve for the gradients that are made."""
        made = [n.op for n in (plan.dw, plan.dx) if n]
        return winograd_sizes(plan.tiles, *made)

    def own_scratch(self, plan: BackwardPlan, m: int, columns: int) -> list[Scratch]:
        """The frequencies of dz, and of pixels; of filters, and sums of them."""
        g, f32 = plan.tiles, DType.F32
        pixels = (m + g.kh - 1) ** 2
        scratch = [Scratch("p", f32, (pixels, g.k, columns))]
        scratch.append(Scratch("v", f32, (pixels, g.c, columns)))
        if plan.dw:
            scratch.append(Scratch("sums", f32, (2, pixels, g.c, g.k)))
        if plan.dx:
            scratch.append(Scratch("filters", f32, (pixels, g.c, g.k)))
        return scratch

    def row_cost(self, plan: BackwardPlan, m: int, columns: int) -> Cost:
        """The frequencies of dz; for each gradient a transform and products."""
        g = plan.tiles
        pixels = (m + g.kh - 1) ** 2
        image = gemm(pixels, pixels, g.c * columns)
        cost = gemm(pixels, m * m, g.k * columns)
        if plan.dw:
            cost += image + batched(gemm(g.c, columns, g.k), pixels, 1)
            cost += passes(pixels * g.c * g.k, 3)
        if plan.dx:
            cost += image + batched(gemm(g.c, g.k, columns), pixels, 1)
        return cost

    def overhead(self, kernel: Kernel, plan: BackwardPlan) -> Cost:
        """Transforming the filters, and their gradient."""
        both = bool(plan.dw) + bool(plan.dx)
        return repeated(filters_cost(kernel, plan.tiles), both)

    def emit_filters(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Bind the transforms, u for dx, and sums for dw."""
        g, m = plan.tiles, kernel.integer("m")
        w(f"# the adjoint of Winograd's F({m}x{m}, {g.kh}x{g.kh})")
        emit_transforms(w, g, m)
        if plan.dx:
            emit_filters(w, kernel, plan.dx.operands[1], g)
        if plan.dw:
            w(f"sums, product = {kernel.private('sums')}")
            w.steps("sums.fill(0)")

    def emit_row(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """The frequencies of dz, their products with those of pixels and filters."""
        g, m = plan.tiles, kernel.integer("m")
        cols, pixels = tiles_of(g, m).cols, (m + g.kh - 1) ** 2
        w(f"p = {kernel.private('p', pixels, g.k, f'{cols} * m')}")
        w(f"v = {kernel.private('v', pixels, g.c, cols, 'm')}")
        w("# p: its frequencies, which both gradients share")
        flat = f"z.reshape({m * m}, -1), out=p.reshape({pixels}, -1)"
        w.steps(f"matmul(outputs.T, {flat})")
        if plan.dw:
            w("# filter gradient: products of frequencies, summed over the tiles")
            emit_windows_transformed(w, g, m)
            w("given = p.transpose(0, 2, 1)")
            w.steps(f"matmul(v.reshape({pixels}, {g.c}, -1), given, out=product)")
            w.steps("add(sums, product, out=sums)")
        if plan.dx:
            w("# input gradient: products with the filters, as pixels")
            w(f"v = v.reshape({pixels}, {g.c}, -1)")
            w.steps("matmul(u, p, out=v)")
            flat = f"v.reshape({pixels}, -1), out=back.reshape({pixels}, -1)"
            w.steps(f"matmul(inputs.T, {flat})")

    def emit_taps(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """The transpose of the filters' transform."""
        pixels = (kernel.integer("m") + plan.tiles.kh - 1) ** 2
        w.steps(f"matmul(filters.T, sums.reshape({pixels}, -1), out=dw)")
