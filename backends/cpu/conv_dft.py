"""A convolution as products of frequencies, with every transform as products too.

With the batch innermost the transform of columns is one product for all rows, channels
and images, and so is that of real rows, and of pairs of rows; a frequency's real and
imaginary parts lie one below the other, and their products are one real product of
twice the channels. Outputs are made for a few filters at a time, tap by tap of a pool
window, so that they are still in the cache when they are pooled. Filters are
transformed in each run, a part by each worker: in training they change. See
convc.ir.dft for the algebra.
"""

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
from convc.backends.cpu.conv_tiles import ConvTiles
from convc.backends.cpu.cost import gemm, passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.dft import Dft, Line, admissible
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Value
from convc.ir.types import DType

TAPS_OF_Z = "taps = [z[q, :, e] for q in range({}) for e in range({})]"
"""Source for the taps of each pool window."""
IMAGES = 64
"""Images per tile: as many columns as a product of one frequency needs to be fast."""
LARGEST = 1 << 20
"""The most elements of the transform of an image; it is read for every tile."""
BLOCK_BYTES = 1 << 20
"""Outputs that are made at once should stay in a private cache for the pool."""


class DftProducts(ConvAlgorithm):
    """A plain, strided or dilated convolution of small images without groups.

    Only where the bound on its rounding errors is near enough to that of the sum.
    """

    name = "dft"
    direct = False

    def schedules(self, plan: ConvPlan, batch: int, threads: int) -> list[Attrs]:
        """A few images per tile, and as many filters at once as the cache holds."""
        return dft_schedules(plan.tiles, batch, threads)

    def check(self, kernel: Kernel, plan: ConvPlan) -> None:
        """CompileError where its bound forbids it, or filters are left over."""
        check_dft(kernel, plan.tiles)

    def scratch(self, kernel: Kernel, plan: ConvPlan) -> tuple[Scratch, ...]:
        """Transformed filters of all workers; an image's and an output's, outputs."""
        g, f32 = plan.tiles, DType.F32
        dft, m, filters = dft_of(g), kernel.integer("images"), kernel.integer("filters")
        return (
            *filters_scratch(kernel, g),
            *image_scratch(kernel, g),
            Scratch("v", f32, (dft.count, g.c, m)),
            Scratch("p", f32, (dft.count, g.k, m)),
            Scratch("z", f32, (*z_dims(g), filters, m)),
            *epilogue_scratch(plan, (g.rows, g.cols, filters, m)),
        )

    def cost(self, kernel: Kernel, plan: ConvPlan, m: int) -> Cost:
        """A transform, the products of the frequencies, the transform back."""
        g, filters = plan.tiles, kernel.integer("filters")
        dft, pixels = dft_of(g), g.rows * g.cols
        blocks = g.k // filters
        return total(
            [
                passes(g.h * g.w * g.c * m, 2),
                transform_cost(dft, g.h, g.w, g.c * m),
                products_cost(dft, g.k, g.c, m),
                repeated(
                    transform_cost(dft, g.rows * g.ph, g.cols * g.pw, filters * m),
                    blocks,
                ),
                epilogue_cost(plan, pixels * filters * m, blocks),
            ]
        )

    def overhead(self, kernel: Kernel, plan: ConvPlan) -> Cost:
        """Each worker's part of the transform of the filters."""
        return filters_cost(kernel, plan.tiles)

    def emit(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Write the body of the kernel's function."""
        g, filters = plan.tiles, kernel.integer("filters")
        dft = dft_of(g)
        block = Block((g.rows, g.cols, filters, "m"), by_filter=True)
        w(f"x = {kernel.mem(plan.conv.operands[0])}")
        emit_operands(w, kernel, plan, block)
        emit_transforms(w, g)
        emit_filters(w, kernel, plan.conv.operands[1], g)
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        w(f"v = {kernel.private('v', dft.count, g.c, 'm')}")
        w(f"p = {kernel.private('p', dft.count, g.k, 'm')}")
        emit_image(w, kernel, g)
        w(f"made = p[:{dft.alone}]")
        w.steps(f"matmul(lone.transpose(0, 2, 1), v[:{dft.alone}], out=made)")
        w(f"pairs = v[{dft.alone}:].reshape(-1, {2 * g.c}, m)")
        w(f"made = p[{dft.alone}:].reshape(-1, {2 * g.k}, m)")
        w.steps("matmul(blocks.transpose(0, 2, 1), pairs, out=made)")
        w(f"for first, r in pieces(0, {g.k}, {filters}):")
        w.depth += 1
        w(f"z = {kernel.private('z', *z_dims(g), filters, 'm')}")
        emit_some_frequencies(w, kernel, g, filters, adjoint=True)
        if plan.pool:
            w(TAPS_OF_Z.format(g.ph, g.pw))
        else:
            w("best = z[0, :, 0]")
        emit_epilogue(w, kernel, plan, block)
        w.depth -= 2


def dft_of(g: ConvTiles) -> Dft:
    """The transforms of a convolution, of the outputs that are pooled alone."""
    return Dft(
        Line(g.h, g.kh, g.rows * g.ph, g.stride_h, g.dilation_h, g.top),
        Line(g.w, g.kw, g.cols * g.pw, g.stride_w, g.dilation_w, g.left),
    )


def serves(g: ConvTiles) -> bool:
    """Whether a convolution may be computed so: it is small, and so is its bound.

    And whether that saves arithmetic, for it costs accuracy.
    """
    if g.groups > 1:
        return False
    dft, outputs = dft_of(g), g.rows * g.ph * g.cols * g.pw
    small = dft.count * g.h * g.w <= LARGEST
    transforms = _multiplied(dft, g.h, g.w) * g.c
    transforms += _multiplied(dft, g.rows * g.ph, g.cols * g.pw) * g.k
    made = transforms + dft.products * g.c * g.k
    saves = made <= SAVING * outputs * g.kh * g.kw * g.c * g.k
    return bool(dft.pairs) and small and saves and admissible(dft, g.c)


def _multiplied(dft: Dft, h: int, w: int) -> int:
    """The multiplications of a transform of h x w pixels: ``transform_cost``."""
    lone, (rows, cols) = len(dft.rows.alone), (dft.rows.points, dft.cols.points)
    return rows * h * w + (lone**2 + 4 * len(dft.rows.pairs)) * cols * w


def dft_schedules(g: ConvTiles, batch: int, threads: int) -> list[Attrs]:
    """A few images per tile, and as many filters at once as the cache holds.

    Not for a single image: the products of its frequencies are too small.
    """
    share = -(-batch // threads)
    if batch == 1 or not serves(g):
        return []
    return [
        {"algorithm": "dft", "images": images, "filters": filters_of(g, images)}
        for images in tile_sizes(min(IMAGES, share), share)
    ]


def filters_of(g: ConvTiles, images: int) -> int:
    """How many filters' outputs fit: a divisor of all filters."""
    pixels = g.rows * g.cols * g.ph * g.pw
    most = max(1, BLOCK_BYTES // (4 * pixels * images))
    return max(d for d in range(1, g.k + 1) if g.k % d == 0 and d <= most)


def check_dft(kernel: Kernel, g: ConvTiles) -> None:
    """CompileError where the transforms cannot serve as they are scheduled."""
    name, filters = kernel.node.attrs["name"], kernel.integer("filters")
    if not serves(g):
        raise CompileError(
            f"kernel {name}: dft needs small images, no groups and a bound that "
            "float32 can spare; choose its schedule again"
        )
    if g.k % filters:
        raise CompileError(
            f"kernel {name}: dft makes {filters} filters at once, which does not "
            f"divide its {g.k}"
        )


def filters_scratch(kernel: Kernel, g: ConvTiles) -> tuple[Scratch, ...]:
    """Each worker's share of the transformed filters, all of which all workers read."""
    dft, f32 = dft_of(g), DType.F32
    sizes = {"lone": dft.alone * g.c * g.k, "blocks": 4 * dft.pairs * g.c * g.k}
    return tuple(
        Scratch(name, f32, (-(-size // kernel.threads),))
        for name, size in sizes.items()
    )


def filters_cost(kernel: Kernel, g: ConvTiles) -> Cost:
    """A worker's part of the transform of the filters."""
    dft, taps = dft_of(g), g.kh * g.kw
    channels = -(-g.c // kernel.threads)
    pairs = batched(gemm(dft.pairs, taps, g.k), 4 * channels, 1)
    return pairs + gemm(dft.alone, taps, channels * g.k)


def products_cost(dft: Dft, k: int, c: int, m: int) -> Cost:
    """The products of all frequencies: c channels of m images to k."""
    alone = batched(gemm(k, c, m), dft.alone, 1)
    return alone + batched(gemm(2 * k, 2 * c, m), dft.pairs, 1)


def z_dims(g: ConvTiles) -> tuple[int, int, int, int]:
    """Outputs tap by tap of a pool window: [tap, row, tap, column]."""
    return g.ph, g.rows, g.pw, g.cols


def image_scratch(kernel: Kernel, g: ConvTiles) -> list[Scratch]:
    """Images side by side, and columns of them or of some outputs as frequencies."""
    m, f32 = kernel.integer("images"), DType.F32
    some = g.cols * g.pw * kernel.integer("filters")
    half = dft_of(g).rows.points * max(g.w * g.c, some) * m
    return [Scratch("image", f32, (g.h, g.w, g.c, m)), Scratch("half", f32, (half,))]


def transform_cost(dft: Dft, h: int, w: int, columns: int) -> Cost:
    """The frequencies of images h x w, or outputs from frequencies: the same work."""
    lone, points = len(dft.rows.alone), dft.cols.points
    pairs = batched(gemm(2 * points, 2 * w, columns), len(dft.rows.pairs), 1)
    down = gemm(dft.rows.points, h, w * columns)
    return down + gemm(lone * points, lone * w, columns) + pairs


def emit_image(w: Writer, kernel: Kernel, g: ConvTiles, adjoint: bool = False) -> None:
    """Make v of the images x, from i to i+m; or, as ``adjoint``, images dx of v."""
    points = dft_of(g).rows.points
    w(f"image = {kernel.private('image', g.h, g.w, g.c, 'm')}")
    w(f"half = {kernel.private('half', points, g.w, g.c, 'm')}")
    if not adjoint:
        w.steps("copyto(image, x[..., i : i + m])")
    _emit_products(w, "frequencies(image, forward, half, v)", adjoint)
    if adjoint:
        w.steps("copyto(dx[..., i : i + m], image)")


def emit_some_frequencies(
    w: Writer, kernel: Kernel, g: ConvTiles, filters: int, adjoint: bool = False
) -> None:
    """Make p of the outputs in z of some filters; or, as ``adjoint``, z of p."""
    half = kernel.private("half", dft_of(g).rows.points, g.cols * g.pw, filters, "m")
    w(f"half = {half}")
    w("made = frequencies(z, back, half, p[:, first : first + r])")
    _emit_products(w, "made", adjoint)


def _emit_products(w: Writer, made: str, adjoint: bool) -> None:
    """The products that ``made`` lists, or their adjoints in the opposite order."""
    w(f"for a, s, o in reversed({made}):" if adjoint else f"for a, s, o in {made}:")
    w.steps("    matmul(" + ("a.T, o, out=s)" if adjoint else "a, s, out=o)"))


def emit_transforms(w: Writer, g: ConvTiles) -> None:
    """Bind the matrices forward, filters and back."""
    dft = dft_of(g)
    lines = [
        str((a.size, a.taps, a.outputs, a.stride, a.dilation, a.before, a.points, p))
        for a, p in ((dft.rows, g.ph), (dft.cols, g.pw))
    ]
    points = f"{dft.rows.points} x {dft.cols.points}"
    w(f"# a discrete Fourier transform of {points} points, in real numbers:")
    w(f"# {dft.alone} frequencies alone, {dft.pairs} as a real and an imaginary part")
    w.call("forward, filters, back = dft_matrices(", lines)


def emit_filters(w: Writer, kernel: Kernel, weights: Value, g: ConvTiles) -> None:
    """Bind lone and blocks: the transformed filters, of which each makes a share.

    A block takes the parts of a pair for all channels to those of all filters.
    """
    dft, taps = dft_of(g), g.kh * g.kw
    lone = kernel.private_of("lone", 0, dft.alone, g.c, g.k)
    blocks = kernel.private_of("blocks", 0, dft.pairs, 2, g.c, 2, g.k)
    w(f"w = {kernel.mem(weights, taps, g.c, g.k)}.transpose(1, 0, 2)")
    w(f"mine = slice(*share({g.c}, t))  # channels; the other workers make the others")
    w(f"lone = {lone}")
    w("made = lone.transpose(1, 0, 2)[mine]")
    w.steps(f"matmul(filters[:{dft.alone}], w[mine], out=made)")
    w(f"blocks = {blocks}")
    w("made = blocks.transpose(3, 1, 2, 0, 4)[:, :, mine]")
    w(f"parts = filters[{dft.alone}:].reshape(-1, 2, 2, 1, {taps})")
    w.steps("matmul(parts.transpose(1, 2, 3, 0, 4), w[mine], out=made)")
    w(f"blocks = blocks.reshape(-1, {2 * g.c}, {2 * g.k})")
    w("yield BARRIER")
