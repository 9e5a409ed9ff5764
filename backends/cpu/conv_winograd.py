"""Winograd's F(m x m, r x r), with every transform as one product.

With the batch innermost a row of tiles is the matrix [a·a, channels·tiles·images] of
the pixels of each tile, a view of shifted rows as in im2col_rows, at the stride m. The
transform in both dimensions is then one product with the Kronecker square of B; the
products over the channels are one product for each of the a·a frequencies; and the
Kronecker square of A makes the m x m outputs of every tile. Filters are transformed in
each run: in training they change. See convc.ir.winograd for the algebra.

Every output of F(2x2, 3x3) is made of the pixels of its own window: where these are all
0 it is exactly 0, and ReLU decides as ever. Larger tiles save more and lose this:
pixels that an output's sum does not have cancel but for rounding.
"""

from dataclasses import replace
from fractions import Fraction

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import (
    SAVING,
    ConvAlgorithm,
    batched,
    repeated,
    tile_sizes,
    total,
)
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
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs
from convc.ir.types import DType
from convc.ir.winograd import OPS, POINTS, Matrix, admissible, transform

IMAGES = 32
"""Images per tile that keep a row of transformed tiles within a private cache."""


class Winograd(ConvAlgorithm):
    """A square filter with neither stride, dilation nor groups, many channels.

    Only where the bound on its rounding errors is at most LOOSER times the sum's, and
    where it saves arithmetic.
    """

    name = "winograd"
    direct = False

    def schedules(self, plan: ConvPlan, batch: int, threads: int) -> list[Attrs]:
        """A few images per tile for each m that may serve; not for a single image.

        Products with the columns of one are too short for the BLAS library.
        """
        return winograd_schedules(sizes(plan.tiles, OPS[0]), batch, threads)

    def check(self, kernel: Kernel, plan: ConvPlan) -> None:
        """CompileError for an m that is not among the admissible."""
        check_winograd(kernel, sizes(plan.tiles, OPS[0]))

    def scratch(self, kernel: Kernel, plan: ConvPlan) -> tuple[Scratch, ...]:
        """Transformed filters; windows, their transform, products, outputs of a row."""
        g, f32 = plan.tiles, DType.F32
        images, m = kernel.integer("images"), kernel.integer("m")
        p = tiles_of(g, m)
        pixels, columns = p.kh * p.kw, p.cols * images
        return (
            Scratch("filters", f32, (pixels, g.c, g.k)),
            Scratch("windows", f32, (*p.window_dims, images)),
            Scratch("v", f32, (pixels, g.c, columns)),
            Scratch("p", f32, (pixels, g.k, columns)),
            Scratch("z", f32, (m * m, g.k, columns)),
            *epilogue_scratch(plan, (m // g.ph, m // g.pw, g.k, p.cols, images)),
        )

    def cost(self, kernel: Kernel, plan: ConvPlan, m: int) -> Cost:
        """Copies of the rows, three products for each row of tiles, the epilogue."""
        g = plan.tiles
        size = kernel.integer("m")
        p = tiles_of(g, size)
        pixels, columns = p.kh * p.kw, p.cols * m
        results = g.k * columns * (size * size) / (g.ph * g.pw)
        row = total(
            [
                gemm(pixels, pixels, g.c * columns),
                batched(gemm(g.k, g.c, columns), pixels, 1),
                gemm(size * size, pixels, g.k * columns),
                epilogue_cost(plan, results, 1, size // g.pw),
            ]
        )
        copied = g.c * min(g.h, p.height) * p.cols * m
        return passes(copied, 2, p.kw) + repeated(row, p.rows)

    def overhead(self, kernel: Kernel, plan: ConvPlan) -> Cost:
        """Transforming the filters."""
        return filters_cost(kernel, plan.tiles)

    def emit(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Write the body of the kernel's function."""
        g, m = plan.tiles, kernel.integer("m")
        p, t = tiles_of(g, m), transform(m, g.kh)
        split = m // g.pw
        rows = (m // g.ph, split) if split > 1 else (m // g.ph,)
        block = Block((*rows, g.k, p.cols, "m"), split)
        w(f"# Winograd's F({m}x{m}, {g.kh}x{g.kh}): {t.a**2} products for each tile")
        w(f"x = {kernel.mem(plan.conv.operands[0])}")
        w(f"w = {kernel.mem(plan.conv.operands[1], g.kh * g.kw, g.c * g.k)}")
        emit_operands(w, kernel, plan, block)
        emit_transforms(w, g, m)
        emit_filters(w, kernel, g, m)
        w("u = u.transpose(0, 2, 1)")
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        w(f"windows = {kernel.private('windows', *p.window_dims, 'm')}")
        w.steps(f"fill_windows({shifts_of('x', p)})")
        w(f"v = {kernel.private('v', t.a**2, g.c, p.cols, 'm')}")
        w(f"p = {kernel.private('p', t.a**2, g.k, f'{p.cols} * m')}")
        w(f"z = {kernel.private('z', m * m, f'{g.k * p.cols} * m')}")
        w(f"for first, r in pieces(0, {g.rows}, {m // g.ph}):")
        w.depth += 1
        emit_windows_transformed(w, plan.tiles, m)
        w.steps(f"matmul(u, v.reshape({t.a**2}, {g.c}, -1), out=p)")
        w.steps(f"matmul(outputs, p.reshape({t.a**2}, -1), out=z)")
        _emit_taps(w, plan, m, p.cols)
        emit_epilogue(w, kernel, plan, block)
        w.depth -= 2


def sizes(g: ConvTiles, *ops: str) -> list[int]:
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


def winograd_schedules(allowed: list[int], batch: int, threads: int) -> list[Attrs]:
    """A few images per tile for each m that may serve; not for a single image.

    Products with the columns of one are too short for the BLAS library.
    """
    if batch == 1:
        return []
    share = -(-batch // threads)
    return [
        {"algorithm": "winograd", "images": images, "m": m}
        for m in allowed
        for images in tile_sizes(min(IMAGES, share), share)
    ]


def check_winograd(kernel: Kernel, allowed: list[int]) -> None:
    """CompileError for an m that is not among the admissible."""
    m = kernel.integer("m")
    if m not in allowed:
        raise CompileError(
            f"kernel {kernel.node.attrs['name']}: winograd needs m in {allowed} "
            f"(other tiles round too much, save nothing, or do not fit the "
            f"pool), its schedule has m = {m}"
        )


def tiles_of(g: ConvTiles, m: int) -> ConvTiles:
    """The convolution of the tiles: a x a pixels at the stride m, nothing pooled."""
    a = m + g.kh - 1
    rows, cols = -(-g.rows * g.ph // m), -(-g.width // m)
    return replace(
        g, kh=a, kw=a, stride_h=m, stride_w=m, ph=1, pw=1, rows=rows, cols=cols
    )


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


def emit_filters(w: Writer, kernel: Kernel, g: ConvTiles, m: int) -> None:
    """Bind u [a·a, c, k]: the filters w transformed, by each worker for itself."""
    a = m + g.kh - 1
    w(f"u = {kernel.private('filters', a * a, g.c * g.k)}")
    w.steps("matmul(filters, w, out=u)")
    w(f"u = u.reshape({a * a}, {g.c}, {g.k})")


def emit_windows_transformed(w: Writer, g: ConvTiles, m: int) -> None:
    """Make v of a row of tiles' windows, which begins at the output row ``first``."""
    p, rows = tiles_of(g, m), m // g.ph
    row = f"first // {rows}" if rows > 1 else "first"
    geometry = [str(v) for v in (1, p.stride_h, p.kh, p.top, p.h)]
    w.call(
        "for a, s, o in products(", ["inputs.T", "windows", "v", row, *geometry], "):"
    )
    w.steps("    matmul(a, s, out=o)")


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


def _rows(matrix: Matrix) -> list[str]:
    """The rows of a matrix as lists of Python's numbers and quotients."""
    return [f"[{', '.join(map(_quotient, row))}]" for row in matrix]


def _quotient(number: Fraction) -> str:
    whole = number.denominator == 1
    return str(number) if whole else f"{number.numerator} / {number.denominator}"
