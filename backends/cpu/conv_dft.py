"""A convolution as products of frequencies, with every transform as one product.

With the batch innermost the transform of an image is one matrix for all its channels
and images, a frequency's real and imaginary parts lie one below the other, and their
products are one real product of twice the channels. Outputs are made for a few filters
at a time, tap by tap of a pool window, so that they are still in the cache when they
are pooled. Filters are transformed in each run, a part by each worker: in training
they change. See convc.ir.dft for the algebra.
"""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import (
    ConvAlgorithm,
    batched,
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
from convc.backends.cpu.cost import gemm
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.dft import Dft, Line, admissible
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs
from convc.ir.types import DType

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
        g, share = plan.tiles, -(-batch // threads)
        if not serves(g):
            return []
        return [
            {"algorithm": self.name, "images": images, "filters": filters_of(g, images)}
            for images in tile_sizes(min(IMAGES, share), share)
        ]

    def check(self, kernel: Kernel, plan: ConvPlan) -> None:
        """CompileError where its bound forbids it, or filters are left over."""
        check_dft(kernel, plan.tiles)

    def scratch(self, kernel: Kernel, plan: ConvPlan) -> tuple[Scratch, ...]:
        """Transformed filters of all workers; an image's and an output's, outputs."""
        g, f32 = plan.tiles, DType.F32
        dft, m, filters = dft_of(g), kernel.integer("images"), kernel.integer("filters")
        return (
            shared_filters(kernel, g),
            Scratch("v", f32, (dft.count, g.c, m)),
            Scratch("p", f32, (dft.count, g.k, m)),
            Scratch("z", f32, (g.ph * g.pw, g.rows * g.cols, filters, m)),
            *epilogue_scratch(plan, (g.rows * g.cols, filters, m)),
        )

    def cost(self, kernel: Kernel, plan: ConvPlan, m: int) -> Cost:
        """A transform, the products of the frequencies, the transform back."""
        g, filters = plan.tiles, kernel.integer("filters")
        dft, pixels = dft_of(g), g.rows * g.cols
        blocks = g.k // filters
        return total(
            [
                batched(gemm(dft.count, g.h * g.w, m), g.c, 1),
                products_cost(dft, g.k, g.c, m),
                gemm(pixels * g.ph * g.pw, dft.count, filters * m, blocks),
                epilogue_cost(plan, pixels * filters * m, blocks),
            ]
        )

    def overhead(self, kernel: Kernel, plan: ConvPlan) -> Cost:
        """Each worker's part of the transform of the filters."""
        return filters_cost(kernel, plan.tiles)

    def emit(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Write the body of the kernel's function."""
        g, filters = plan.tiles, kernel.integer("filters")
        dft, pixels = dft_of(g), g.rows * g.cols
        block = Block((pixels, filters, "m"), by_filter=True)
        w(f"x = {kernel.mem(plan.conv.operands[0], g.h * g.w, g.c, 'n')}")
        w(f"w = {kernel.mem(plan.conv.operands[1], g.kh * g.kw, g.c * g.k)}")
        emit_operands(w, kernel, plan, block)
        emit_transforms(w, g)
        emit_filters(w, kernel, g, "w")
        emit_blocks(w, dft, g.c, g.k)
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        w(f"v = {kernel.private('v', dft.count, g.c, 'm')}")
        w(f"p = {kernel.private('p', dft.count, g.k, 'm')}")
        w("images = x[..., i : i + m].transpose(1, 0, 2)")
        w.steps("matmul(forward, images, out=v.transpose(1, 0, 2))")
        emit_products(w, dft, ("v", g.c), ("p", g.k))
        w(f"for first, r in pieces(0, {g.k}, {filters}):")
        w.depth += 1
        w(f"z = {kernel.private('z', g.ph * g.pw * pixels, f'{filters} * m')}")
        w(f"some = p[:, first : first + r].reshape({dft.count}, -1)")
        w.steps("matmul(back, some, out=z)")
        if plan.pool:
            w(f"taps = z.reshape({g.ph * g.pw}, {pixels}, {filters}, m)")
        else:
            w(f"best = z.reshape({pixels}, {filters}, m)")
        emit_epilogue(w, kernel, plan, block)
        w.depth -= 2


def dft_of(g: ConvTiles) -> Dft:
    """The transforms of a convolution, of the outputs that are pooled alone."""
    return Dft(
        Line(g.h, g.kh, g.rows * g.ph, g.stride_h, g.dilation_h, g.top),
        Line(g.w, g.kw, g.cols * g.pw, g.stride_w, g.dilation_w, g.left),
    )


def serves(g: ConvTiles) -> bool:
    """Whether a convolution may be computed so: it is small, and so is its bound."""
    dft = dft_of(g)
    small = dft.count * g.h * g.w <= LARGEST
    return small and g.groups == 1 and g.kh * g.kw > 1 and admissible(dft, g.c)


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


def shared_filters(kernel: Kernel, g: ConvTiles, name: str = "filters") -> Scratch:
    """A worker's part of the transformed filters, which all workers read."""
    elements = dft_of(g).products * g.c * g.k
    return Scratch(name, DType.F32, (-(-elements // kernel.threads // 16) * 16 + 16,))


def filters_cost(kernel: Kernel, g: ConvTiles) -> Cost:
    """A worker's part of the transform of the filters."""
    return gemm(-(-dft_of(g).products // kernel.threads), g.kh * g.kw, g.c * g.k)


def products_cost(dft: Dft, k: int, c: int, m: int) -> Cost:
    """The products of all frequencies: c channels of m images to k."""
    alone = batched(gemm(k, c, m), dft.alone, 1)
    return alone + batched(gemm(k, 2 * c, m), 2 * dft.pairs, 1)


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


def emit_filters(
    w: Writer, kernel: Kernel, g: ConvTiles, array: str, matrix: str = "filters"
) -> None:
    """Bind u: the transform of ``array`` [taps, c·k], of which each makes a part."""
    dft = dft_of(g)
    place = kernel.private_of("filters", 0, dft.products, g.c * g.k)
    w(f"u = {place}  # of all workers")
    w(f"part = slice(*share({dft.products}, t))")
    w.steps(f"matmul({matrix}[part], {array}, out=u[part])")
    w("yield BARRIER")


def emit_blocks(w: Writer, dft: Dft, c: int, k: int) -> None:
    """Bind alone and blocks: the matrices of each frequency, and of each part of it."""
    w(f"alone = u[:{dft.alone}].reshape(-1, {c}, {k}).transpose(0, 2, 1)")
    pair = f"reshape(-1, 2, {2 * c}, {k}).transpose(0, 1, 3, 2)"
    w(f"blocks = u[{dft.alone}:].{pair}")


def emit_products(
    w: Writer, dft: Dft, source: tuple[str, int], target: tuple[str, int]
) -> None:
    """The products of the frequencies, of c channels to k."""
    (v, c), (p, k) = source, target
    w.steps(f"matmul(alone, {v}[:{dft.alone}], out={p}[:{dft.alone}])")
    if dft.pairs:
        w(f"pairs = {v}[{dft.alone}:].reshape(-1, 1, {2 * c}, m)")
        w(f"made = {p}[{dft.alone}:].reshape(-1, 2, {k}, m)")
        w.steps("matmul(blocks, pairs, out=made)")
