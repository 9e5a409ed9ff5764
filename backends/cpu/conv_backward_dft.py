"""The gradients of a convolution as products of frequencies, see ``conv_dft``.

The adjoint of a product is the product with the transpose: the gradient dz of the
result goes through the transposes of the transforms in the opposite order. Both
gradients share its transform; that of the filters is summed over the images as products
of frequencies, before it becomes taps.
"""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import batched, repeated, total
from convc.backends.cpu.conv_backward_plan import (
    BackwardAlgorithm,
    BackwardPlan,
    emit_gradients_given,
    emit_no_sums,
)
from convc.backends.cpu.conv_dft import (
    TAPS_OF_Z,
    check_dft,
    dft_of,
    dft_schedules,
    emit_filters,
    emit_image,
    emit_some_frequencies,
    emit_transforms,
    filters_cost,
    filters_scratch,
    image_scratch,
    products_cost,
    transform_cost,
    z_dims,
)
from convc.backends.cpu.cost import gemm, passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs
from convc.ir.types import DType


class DftBackward(BackwardAlgorithm):
    """A convolution whose forward kernel could be computed so."""

    name = "dft"
    direct = False

    def schedules(self, plan: BackwardPlan, batch: int, threads: int) -> list[Attrs]:
        """A few images per tile, and as many filters at once as the cache holds."""
        return dft_schedules(plan.tiles, batch, threads)

    def check(self, kernel: Kernel, plan: BackwardPlan) -> None:
        """CompileError where its bound forbids it, or filters are left over."""
        check_dft(kernel, plan.tiles)

    def scratch(self, kernel: Kernel, plan: BackwardPlan) -> tuple[Scratch, ...]:
        """The gradient of some filters, its transform, an image's, and the sums."""
        g, f32 = plan.tiles, DType.F32
        dft, m, filters = dft_of(g), kernel.integer("images"), kernel.integer("filters")
        some = (g.rows, g.cols, filters, m)
        scratch = [*image_scratch(kernel, g), Scratch("p", f32, (dft.count, g.k, m))]
        scratch.append(Scratch("z", f32, (*z_dims(g), filters, m)))
        if plan.relu or plan.pool:
            scratch.append(Scratch("won", DType.BOOL, some))
        if plan.pool:
            scratch.append(Scratch("d", f32, some))
        if plan.bias:
            scratch.append(Scratch("db", f32, (2, g.k)))
        scratch.append(Scratch("v", f32, (dft.count, g.c, m)))
        if plan.dw:
            scratch.append(Scratch("dlone", f32, (dft.alone, g.c, g.k)))
            scratch.append(Scratch("dblocks", f32, (dft.pairs, 2, g.c, 2, g.k)))
            scratch.append(Scratch("parts", f32, (5, g.kh * g.kw, g.c, g.k)))
            scratch.append(Scratch("dw", f32, (2, g.depth, g.k)))
        if plan.dx:
            scratch += filters_scratch(kernel, g)
        return tuple(scratch)

    def cost(self, kernel: Kernel, plan: BackwardPlan, m: int) -> Cost:
        """The gradient before the pool and its transform, then each gradient."""
        g, filters = plan.tiles, kernel.integer("filters")
        dft, blocks = dft_of(g), g.k // filters
        some, taps = g.rows * g.cols * filters * m, g.ph * g.pw
        image = passes(g.h * g.w * g.c * m, 2)
        image += transform_cost(dft, g.h, g.w, g.c * m)
        z = transform_cost(dft, g.rows * g.ph, g.cols * g.pw, filters * m)
        parts = [
            passes(some, 3, blocks * (1 + bool(plan.relu) + bool(plan.bias))),
            repeated(z, blocks),
        ]
        if plan.pool:
            parts.append(passes(some, 2.5, blocks * (1 + 2 * taps)))
        if plan.dw:
            parts += [
                image,
                batched(gemm(g.c, m, g.k), dft.alone, 1),
                batched(gemm(2 * g.c, m, 2 * g.k), dft.pairs, 1),
                batched(gemm(g.kh * g.kw, dft.pairs, g.k), 4 * g.c, 1),
                passes(g.depth * g.k, 9),
            ]
        if plan.dx:
            parts += [products_cost(dft, g.c, g.k, m), image]
        return total(parts)

    def overhead(self, kernel: Kernel, plan: BackwardPlan) -> Cost:
        """Each worker's part of the transform of the filters."""
        if plan.dx is None:
            return Cost()
        return filters_cost(kernel, plan.tiles)

    def emit(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Write the body of the kernel's function up to the sums of all workers."""
        g = plan.tiles
        dft = dft_of(g)
        _emit_operands(w, kernel, plan)
        emit_transforms(w, g)
        if plan.dx:
            emit_filters(w, kernel, plan.dx.operands[1], g)
        emit_no_sums(w, plan)
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        w(f"p = {kernel.private('p', dft.count, g.k, 'm')}")
        _emit_gradient(w, kernel, plan)
        w(f"v = {kernel.private('v', dft.count, g.c, 'm')}")
        if plan.dw:
            _emit_filter_gradient(w, kernel, plan)
        if plan.dx:
            w("# input gradient: products with the same filters, transformed back")
            w.steps(f"matmul(lone, p[:{dft.alone}], out=v[:{dft.alone}])")
            w(f"pairs = v[{dft.alone}:].reshape(-1, {2 * g.c}, m)")
            w(f"given = p[{dft.alone}:].reshape(-1, {2 * g.k}, m)")
            w.steps("matmul(blocks, given, out=pairs)")
            emit_image(w, kernel, g, adjoint=True)
        w.depth -= 1


def _emit_operands(w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
    """Bind what is read and written."""
    g = plan.tiles
    emit_gradients_given(w, kernel, plan)
    if plan.dw:
        w(f"x = {kernel.mem(plan.dw.operands[0])}")
        w(f"dw, product = {kernel.private('dw', 2, g.kh * g.kw, g.c, g.k)}")
    if plan.dx:
        w(f"dx = {kernel.mem(plan.dx.result)}")
    if plan.bias:
        w(f"db, tile_db = {kernel.private('db')}")


def _emit_gradient(w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
    """The gradient dz of some filters' results at a time, and its transform in p."""
    g, filters = plan.tiles, kernel.integer("filters")
    dims = (g.rows, g.cols, "r", "m")
    here = "[:, :, first : first + r, i : i + m]"
    w(f"for first, r in pieces(0, {g.k}, {filters}):")
    w.depth += 1
    w(f"z = {kernel.private('z', *z_dims(g), filters, 'm')}")
    w(f"d = {kernel.private('d', *dims)}" if plan.pool else "d = z[0, :, 0]")
    if plan.relu or plan.pool:
        w(f"won = {kernel.private('won', *dims)}")
    if plan.relu:
        w.steps(f"greater(y{here}, ZERO, out=won)", f"multiply(dy{here}, won, out=d)")
    else:
        w.steps(f"copyto(d, dy{here})")
    if plan.bias:
        w("mine, some = db[first : first + r], tile_db[first : first + r]")
        w.steps("np.add.reduce(d, axis=(0, 1, 3), out=some)")
        w.steps("add(mine, some, out=mine)")
    if plan.pool:
        w(TAPS_OF_Z.format(g.ph, g.pw))
        w("for k, tap in enumerate(taps):  # one of them won")
        w.steps(f"    equal(index{here}, np.uint8(k), out=won)")
        w.steps("    multiply(d, won, out=tap)")
    emit_some_frequencies(w, kernel, g, filters)
    w.depth -= 1


def _emit_filter_gradient(w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
    """The transform of the images, its products with p, the taps of their sum."""
    g = plan.tiles
    dft, taps = dft_of(g), g.kh * g.kw
    w("# filter gradient: products of frequencies, summed over the images, as taps")
    emit_image(w, kernel, g)
    w(f"dlone = {kernel.private('dlone')}")
    w(f"given = p[:{dft.alone}].transpose(0, 2, 1)")
    w.steps(f"matmul(v[:{dft.alone}], given, out=dlone)")
    w(f"parts = {kernel.private('parts')}")
    w("made = parts[4].transpose(1, 0, 2)")
    w.steps(f"matmul(filters[:{dft.alone}].T, dlone.transpose(1, 0, 2), out=made)")
    w(f"dblocks = {kernel.private('dblocks', dft.pairs, 2 * g.c, 2 * g.k)}")
    w(f"pairs = v[{dft.alone}:].reshape(-1, {2 * g.c}, m)")
    w(f"given = p[{dft.alone}:].reshape(-1, {2 * g.k}, m).transpose(0, 2, 1)")
    w.steps("matmul(pairs, given, out=dblocks)")
    w(f"block = dblocks.reshape(-1, 2, {g.c}, 2, {g.k}).transpose(3, 1, 2, 0, 4)")
    w(f"back_to_taps = filters[{dft.alone}:].reshape(-1, 2, 2, 1, {taps})")
    w(f"made = parts[:4].reshape(2, 2, {taps}, {g.c}, {g.k}).swapaxes(2, 3)")
    w.steps("matmul(back_to_taps.transpose(1, 2, 3, 4, 0), block, out=made)")
    w.steps("np.add.reduce(parts, axis=0, out=product)", "add(dw, product, out=dw)")
