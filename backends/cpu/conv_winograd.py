"""Winograd's F(m x m, r x r), with every transform as one product.

The transform of a row of tiles' pixels in both dimensions is one product with the
Kronecker square of B; the products over the channels are one product for each of the
a·a frequencies; and the Kronecker square of A makes the m x m outputs of every tile.
Filters are transformed in each run: in training they change. See convc.ir.winograd for
the algebra.

Every output of F(2x2, 3x3) is made of the pixels of its own window: where these are all
0 it is exactly 0, and ReLU decides as ever. Larger tiles save more and lose this:
pixels that an output's sum does not have cancel but for rounding.
"""

from fractions import Fraction

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import SAVING, batched, total
from convc.backends.cpu.conv_plan import ConvPlan
from convc.backends.cpu.conv_tiled import TiledConv, row_of_tiles, tiles_of
from convc.backends.cpu.conv_tiles import ConvTiles
from convc.backends.cpu.cost import gemm
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Value
from convc.ir.types import DType
from convc.ir.winograd import OPS, POINTS, Matrix, admissible, transform


class Winograd(TiledConv):
    """A square filter with neither stride, dilation nor groups, many channels.

    Only where the bound on its rounding errors is at most LOOSER times the sum's, and
    where it saves arithmetic.
    """

    name = "winograd"
    direct = False

    def sizes(self, g: ConvTiles) -> list[int]:
        """The m of every F(m x m, r x r) that may serve."""
        return winograd_sizes(g, OPS[0])

    def own_scratch(self, g: ConvTiles, m: int, columns: int) -> list[Scratch]:
        """Transformed filters; the transform of a row's windows, and products."""
        pixels, f32 = (m + g.kh - 1) ** 2, DType.F32
        return [
            Scratch("filters", f32, (pixels, g.c, g.k)),
            Scratch("v", f32, (pixels, g.c, columns)),
            Scratch("p", f32, (pixels, g.k, columns)),
        ]

    def row_cost(self, g: ConvTiles, m: int, columns: int) -> Cost:
        """Three products."""
        pixels = (m + g.kh - 1) ** 2
        return total(
            [
                gemm(pixels, pixels, g.c * columns),
                batched(gemm(g.k, g.c, columns), pixels, 1),
                gemm(m * m, pixels, g.k * columns),
            ]
        )

    def overhead(self, kernel: Kernel, plan: ConvPlan) -> Cost:
        """Transforming the filters."""
        return filters_cost(kernel, plan.tiles)

    def emit_filters(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Bind the transforms, and u: the filters."""
        g, m = plan.tiles, kernel.integer("m")
        pixels = (m + g.kh - 1) ** 2
        w(f"# Winograd's F({m}x{m}, {g.kh}x{g.kh}): {pixels} products for each tile")
        emit_transforms(w, g, m)
        emit_filters(w, kernel, plan.conv.operands[1], g)
        w("u = u.transpose(0, 2, 1)")

    def emit_row(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """The frequencies v of a row, their products p, and its outputs."""
        g, m = plan.tiles, kernel.integer("m")
        pixels, cols = (m + g.kh - 1) ** 2, tiles_of(g, m).cols
        w(f"v = {kernel.private('v', pixels, g.c, cols, 'm')}")
        w(f"p = {kernel.private('p', pixels, g.k, f'{cols} * m')}")
        emit_windows_transformed(w, g, m)
        w.steps(f"matmul(u, v.reshape({pixels}, {g.c}, -1), out=p)")
        flat = f"p.reshape({pixels}, -1), out=z.reshape({m * m}, -1)"
        w.steps(f"matmul(outputs, {flat})")


def winograd_sizes(g: ConvTiles, *ops: str) -> list[int]:
    """The m of every F(m x m, r x r) that may serve for ``ops``, of OPS.

    Its bounds must allow it, its tiles hold whole pool windows, and it must save
    arithmetic.
    """
    plain = (g.groups, g.stride_h, g.stride_w, g.dilation_h, g.dilation_w)
    if plain != (1, 1, 1, 1, 1) or g.kh != g.kw:
        return []
    return [
        m
        for m, r in POINTS
        if r == g.kh
        and not (m % g.ph or m % g.pw)
        and _saves(g, m)
        and all(admissible(m, r, _terms(g, m, op), op) for op in ops)
    ]


def _terms(g: ConvTiles, m: int, op: str) -> int:
    """What is summed for a frequency: channels, filters, or the tiles of an image."""
    p = tiles_of(g, m)
    return dict(zip(OPS, (g.c, g.k, p.rows * p.cols), strict=True))[op]


def _saves(g: ConvTiles, m: int) -> bool:
    """Whether the transforms and products of a tile are less work than its sums.

    The gradients do the same work in another order.
    """
    pixels = (m + g.kh - 1) ** 2
    made = pixels * (pixels * g.c + g.c * g.k + m * m * g.k)
    return made <= SAVING * m * m * g.kh * g.kw * g.c * g.k


def filters_cost(kernel: Kernel, g: ConvTiles) -> Cost:
    """The transform of the filters, or of their gradient."""
    a = kernel.integer("m") + g.kh - 1
    return gemm(a * a, g.kh * g.kw, g.c * g.k)


def emit_transforms(w: Writer, g: ConvTiles, m: int) -> None:
    """Bind the matrices filters, inputs and outputs."""
    t = transform(m, g.kh)
    for name, matrix in (
        ("filters", t.filter),
        ("inputs", t.input),
        ("outputs", t.output),
    ):
        w.call(f"{name} = kronecker_square([", _rows(matrix), "])")


def emit_filters(w: Writer, kernel: Kernel, weights: Value, g: ConvTiles) -> None:
    """Bind u [a·a, c, k]: the filters transformed, by each worker for itself."""
    pixels = (kernel.integer("m") + g.kh - 1) ** 2
    w(f"w = {kernel.mem(weights, g.kh * g.kw, g.c * g.k)}")
    w(f"u = {kernel.private('filters', pixels, g.c * g.k)}")
    w.steps("matmul(filters, w, out=u)")
    w(f"u = u.reshape({pixels}, {g.c}, {g.k})")


def emit_windows_transformed(w: Writer, g: ConvTiles, m: int) -> None:
    """Make v of the windows of a row of tiles."""
    p = tiles_of(g, m)
    geometry = [str(v) for v in (1, p.stride_h, p.kh, p.top, p.h)]
    row = ["inputs.T", "windows", "v", row_of_tiles(g, m), *geometry]
    w.call("for a, s, o in products(", row, "):")
    w.steps("    matmul(a, s, out=o)")


def _rows(matrix: Matrix) -> list[str]:
    """The rows of a matrix as lists of Python's numbers and quotients."""
    return [f"[{', '.join(map(_quotient, row))}]" for row in matrix]


def _quotient(number: Fraction) -> str:
    whole = number.denominator == 1
    return str(number) if whole else f"{number.numerator} / {number.denominator}"
