"""Pooled rows as one product: for images of few channels under a max-pool.

A window of ph x pw outputs of a KH x KW convolution reads a patch of
((ph-1)·sh + KH) x ((pw-1)·sw + KW) pixels. With the filters written ph·pw times into
such patches, each at its place and zeros around it, all outputs of a pool window are
one product with its patch: ph·pw·K rows in place of K fill the matrix unit, patches
are copied at the pool's stride, and the maximum is over groups of rows. The zeros cost
arithmetic that few channels can spare; they add nothing to any sum, rounding included.
"""

from dataclasses import replace

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_im2col import Im2colRows, times
from convc.backends.cpu.conv_plan import ConvPlan
from convc.backends.cpu.conv_tiles import ConvTiles
from convc.backends.cpu.cost import passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs
from convc.ir.types import DType

CHANNELS = 3
"""The most channels for which the products with zeros are worth it."""


class PooledDirect(Im2colRows):
    """im2col_rows of a convolution with ph·pw·K filters and the pool's stride."""

    name = "pooled_direct"

    def schedules(self, plan: ConvPlan, batch: int, threads: int) -> list[Attrs]:
        """As im2col_rows, for a pooled plain convolution of few channels."""
        g = plan.tiles
        plain = (g.groups, g.dilation_h, g.dilation_w) == (1, 1, 1)
        if plan.pool is None or not plain or g.c > CHANNELS:
            return []
        return super().schedules(plan, batch, threads)

    def products(self, plan: ConvPlan) -> ConvTiles:
        """The convolution of the expanded filters, which pools nothing."""
        g = plan.tiles
        return replace(
            g,
            k=g.ph * g.pw * g.k,
            kh=(g.ph - 1) * g.stride_h + g.kh,
            kw=(g.pw - 1) * g.stride_w + g.kw,
            stride_h=g.ph * g.stride_h,
            stride_w=g.pw * g.stride_w,
            ph=1,
            pw=1,
        )

    def scratch(self, kernel: Kernel, plan: ConvPlan) -> tuple[Scratch, ...]:
        """As im2col_rows, and the expanded filters."""
        p = self.products(plan)
        filters = Scratch("filters", DType.F32, (p.depth, p.k))
        return (filters, *super().scratch(kernel, plan))

    def overhead(self, kernel: Kernel, plan: ConvPlan) -> Cost:
        """Writing the expanded filters."""
        g, p = plan.tiles, self.products(plan)
        places = g.ph * g.pw
        return passes(p.depth * p.k, 1) + passes(g.depth * g.k, 2, places)

    def emit_filters(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Bind w: the filters at each place of a pool window, zeros around them."""
        g, p = plan.tiles, self.products(plan)
        w(f"one = {kernel.mem(plan.conv.operands[1])}")
        dims = (p.kh, p.kw, g.c, g.ph, g.pw, g.k)
        w(f"w = {kernel.private('filters', *dims)}  # at each place under the pool")
        w.steps("w.fill(0)")
        w(f"for q, e in np.ndindex({g.ph}, {g.pw}):")
        row, column = _span("q", g.stride_h, g.kh), _span("e", g.stride_w, g.kw)
        w.steps(f"    copyto(w[{row}, {column}, :, q, e], one)")
        w(f"w = w.reshape({p.depth}, {p.k})")

    def emit_taps(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Bind taps: the groups of rows of the products in z."""
        g = plan.tiles
        w(f"taps = z.reshape(-1, {g.ph * g.pw}, {g.k}, {g.cols}, m)[:r]")
        w("taps = list(taps.swapaxes(0, 1))")


def _span(name: str, stride: int, size: int) -> str:
    """Source for the slice of ``size`` that begins at ``name * stride``."""
    start = times(name, stride)
    return f"{start} : {start} + {size}"
