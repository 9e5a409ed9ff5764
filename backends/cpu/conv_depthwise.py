"""Convolutions of each channel by itself, as products of tiles with their pixels.

One filter for one channel is a product with one row: nothing for a matrix unit. So the
filter is written at each of the m x m places of a tile, with zeros around it, and all
outputs of a channel's tiles are one product of [m·m, a·b] with the pixels. The zeros
cost arithmetic that such a layer can spare; they add nothing to any sum, rounding
included. The gradients are products with the same matrix, or make one like it.
"""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import batched, repeated
from convc.backends.cpu.conv_backward_plan import BackwardPlan
from convc.backends.cpu.conv_backward_tiled import TiledBackward
from convc.backends.cpu.conv_plan import ConvPlan
from convc.backends.cpu.conv_tiled import TiledConv, row_of_tiles, tiles_of
from convc.backends.cpu.conv_tiles import ConvTiles
from convc.backends.cpu.cost import gemm, passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Value
from convc.ir.types import DType

SIZES = (2, 3, 4)
"""The m worth trying: larger tiles are mostly zeros."""


class Depthwise(TiledConv):
    """As many filters as channels, each for one of them."""

    name = "depthwise"

    def sizes(self, g: ConvTiles) -> list[int]:
        """Those that hold whole pool windows."""
        return _sizes(g)

    def own_scratch(self, g: ConvTiles, m: int, columns: int) -> list[Scratch]:
        """The filters at each place of a tile."""
        return [_filters_scratch(g, m)]

    def row_cost(self, g: ConvTiles, m: int, columns: int) -> Cost:
        """A product for each channel."""
        p = tiles_of(g, m)
        return batched(gemm(m * m, p.kh * p.kw, columns), g.k, 1)

    def overhead(self, kernel: Kernel, plan: ConvPlan) -> Cost:
        """Writing the filters."""
        return _written(plan.tiles, kernel.integer("m"))

    def emit_filters(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Bind filters [k, m·m, a·b]."""
        _emit_filters(w, kernel, plan.conv.operands[1], plan.tiles)

    def emit_row(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """The outputs of a row of tiles."""
        _emit_pixels(w, plan.tiles, kernel.integer("m"))
        w.steps("matmul(filters[..., inside], pixels, out=z.transpose(1, 0, 2))")


class DepthwiseBackward(TiledBackward):
    """The gradients of such a convolution."""

    name = "depthwise"

    def sizes(self, plan: BackwardPlan) -> list[int]:
        """Those that hold whole pool windows."""
        return _sizes(plan.tiles)

    def own_scratch(self, plan: BackwardPlan, m: int, columns: int) -> list[Scratch]:
        """The filters at each place of a tile, and sums for their gradient there."""
        g = plan.tiles
        p, scratch = tiles_of(g, m), []
        if plan.dw:
            sums = (2, g.k, m * m, p.kh * p.kw)
            scratch.append(Scratch("sums", DType.F32, sums))
        if plan.dx:
            scratch.append(_filters_scratch(g, m))
        return scratch

    def row_cost(self, plan: BackwardPlan, m: int, columns: int) -> Cost:
        """A product for each channel and gradient."""
        g = plan.tiles
        p = tiles_of(g, m)
        pixels, cost = p.kh * p.kw, Cost()
        if plan.dw:
            cost += batched(gemm(m * m, columns, pixels), g.k, 1)
            cost += passes(g.k * m * m * pixels, 3)
        if plan.dx:
            cost += batched(gemm(pixels, m * m, columns), g.k, 1)
        return cost

    def overhead(self, kernel: Kernel, plan: BackwardPlan) -> Cost:
        """Writing the filters, and adding up their gradient."""
        both = bool(plan.dw) + bool(plan.dx)
        return repeated(_written(plan.tiles, kernel.integer("m")), both)

    def emit_filters(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Bind filters for dx, and sums for dw."""
        if plan.dx:
            _emit_filters(w, kernel, plan.dx.operands[1], plan.tiles)
        if plan.dw:
            w(f"sums, product = {kernel.private('sums')}")
            w.steps("sums.fill(0)")

    def emit_row(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Products of dz with the pixels of its tiles, and with the filters."""
        g, m = plan.tiles, kernel.integer("m")
        w(f"given = z.reshape({m * m}, {g.k}, -1).transpose(1, 0, 2)")
        if plan.dw:
            w("# filter gradient: products with the pixels, summed over the tiles")
            _emit_pixels(w, g, m)
            w("some, part = sums[..., inside], product[..., inside]")
            w.steps("matmul(given, pixels.transpose(0, 2, 1), out=part)")
            w.steps("add(some, part, out=some)")
        if plan.dx:
            w("# input gradient: products with the filters, as pixels")
            turned = "filters.transpose(0, 2, 1)"
            w.steps(f"matmul({turned}, given, out=back.transpose(1, 0, 2))")

    def emit_taps(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """A tap has a part of each place of a tile."""
        g, m = plan.tiles, kernel.integer("m")
        p = tiles_of(g, m)
        w.steps("dw.fill(0)")
        w(f"taps = dw.reshape({g.kh}, {g.kw}, {g.k}).transpose(2, 0, 1)")
        w(f"places = sums.reshape({g.k}, {m}, {m}, {p.kh}, {p.kw})")
        w(f"for q, e in np.ndindex({m}, {m}):")
        w(f"    part = places[:, q, e, {_span('q', g, 0)}, {_span('e', g, 1)}]")
        w.steps("    add(taps, part, out=taps)")


def _sizes(g: ConvTiles) -> list[int]:
    alone = g.groups > 1 and g.groups == g.c == g.k
    return [m for m in SIZES if alone and not (m % g.ph or m % g.pw)]


def _filters_scratch(g: ConvTiles, m: int) -> Scratch:
    p = tiles_of(g, m)
    return Scratch("filters", DType.F32, (g.k, m * m, p.kh * p.kw))


def _written(g: ConvTiles, m: int) -> Cost:
    """Filters at each place of a tile, or their gradient from there."""
    p = tiles_of(g, m)
    whole = passes(g.k * m * m * p.kh * p.kw, 1)
    return whole + passes(g.depth * g.k, 2, m * m)


def _emit_filters(w: Writer, kernel: Kernel, weights: Value, g: ConvTiles) -> None:
    """Bind filters [k, m·m, a·b]: each at every place of a tile, zeros around it."""
    m = kernel.integer("m")
    p = tiles_of(g, m)
    w(f"one = {kernel.mem(weights, g.kh, g.kw, g.k)}.transpose(2, 0, 1)")
    w(f"filters = {kernel.private('filters', g.k, m, m, p.kh, p.kw)}")
    w.steps("filters.fill(0)")
    w(f"for q, e in np.ndindex({m}, {m}):  # at each place of a tile")
    w(f"    place = filters[:, q, e, {_span('q', g, 0)}, {_span('e', g, 1)}]")
    w.steps("    copyto(place, one)")
    w(f"filters = filters.reshape({g.k}, {m * m}, {p.kh * p.kw})")


def _span(name: str, g: ConvTiles, axis: int) -> str:
    """Source for the slice of taps of the output ``name`` of a tile."""
    stride = (g.stride_h, g.stride_w)[axis]
    taps, dilation = (g.kh, g.kw)[axis], (g.dilation_h, g.dilation_w)[axis]
    start = f"{stride} * {name}" if stride > 1 else name
    size = (taps - 1) * dilation + 1
    step = f" : {dilation}" if dilation > 1 else ""
    return f"{start} : {start} + {size}{step}"


def _emit_pixels(w: Writer, g: ConvTiles, m: int) -> None:
    """Bind pixels [c, some of a·b, columns]: those inside the image, and which.

    Of the row of tiles from the output row ``first`` on.
    """
    p = tiles_of(g, m)
    w(f"row = {p.stride_h} * ({row_of_tiles(g, m)})")
    w(f"k0, k1 = span(row - {p.top}, 1, {p.kh}, {p.h})")
    w(f"inside = slice({p.kw} * k0, {p.kw} * k1)")
    w("pixels = windows[0, 0, row + k0 : row + k1]")
    dims = f"{p.kw} * (k1 - k0), {g.c}, {p.cols} * m"
    w(f"pixels = pixels.reshape({dims}).transpose(1, 0, 2)")
