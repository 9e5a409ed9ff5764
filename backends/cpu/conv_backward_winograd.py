"""The gradients of a convolution by Winograd's tiles, see ``conv_winograd``.

The adjoint of a transform is the product with its transpose. The gradient dz of a row
of tiles goes through the transpose of what makes outputs; both gradients share that.
The filters' is summed at the frequencies over all tiles of a worker, and becomes taps
once; the image's is made as the pixels of each tile, which overlap and are added up.
"""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import batched, repeated, total
from convc.backends.cpu.conv_backward_plan import (
    BackwardAlgorithm,
    BackwardPlan,
    emit_gradients_given,
)
from convc.backends.cpu.conv_tiles import shifts_of
from convc.backends.cpu.conv_winograd import (
    check_winograd,
    emit_filters,
    emit_transforms,
    emit_windows_transformed,
    filters_cost,
    sizes,
    tiles_of,
    winograd_schedules,
)
from convc.backends.cpu.cost import gemm, passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs
from convc.ir.types import DType


class WinogradBackward(BackwardAlgorithm):
    """A convolution whose gradients' bounds allow it, and where it saves arithmetic."""

    name = "winograd"
    direct = False

    def schedules(self, plan: BackwardPlan, batch: int, threads: int) -> list[Attrs]:
        """A few images per tile for each m that may serve."""
        return winograd_schedules(_allowed(plan), batch, threads)

    def check(self, kernel: Kernel, plan: BackwardPlan) -> None:
        """CompileError for an m that is not among the admissible."""
        check_winograd(kernel, _allowed(plan))

    def scratch(self, kernel: Kernel, plan: BackwardPlan) -> tuple[Scratch, ...]:
        """A row of tiles at every stage, and the worker's sums."""
        g, f32 = plan.tiles, DType.F32
        images, m = kernel.integer("images"), kernel.integer("m")
        p = tiles_of(g, m)
        pixels, columns = p.kh * p.kw, p.cols * images
        results = (m // g.ph, g.k, p.cols, images)
        scratch = [Scratch("z", f32, (m * m, g.k, columns))]
        scratch.append(Scratch("p", f32, (pixels, g.k, columns)))
        scratch.append(Scratch("v", f32, (pixels, g.c, columns)))
        if plan.relu or plan.pool:
            scratch.append(Scratch("won", DType.BOOL, results))
        if plan.pool:
            scratch.append(Scratch("d", f32, results))
            scratch.append(Scratch("which", DType.U8, results))
        if plan.bias:
            scratch.append(Scratch("db", f32, (2, g.k)))
        if plan.dw:
            scratch.append(Scratch("windows", f32, (*p.window_dims, images)))
            scratch.append(Scratch("sums", f32, (2, pixels, g.c, g.k)))
            scratch.append(Scratch("dw", f32, (2, g.depth, g.k)))
        if plan.dx:
            scratch.append(Scratch("filters", f32, (pixels, g.c, g.k)))
            scratch.append(Scratch("back", f32, (pixels, g.c, columns)))
        return tuple(scratch)

    def cost(self, kernel: Kernel, plan: BackwardPlan, m: int) -> Cost:
        """The gradient dz and its transform, then each gradient, for rows of tiles."""
        g, size = plan.tiles, kernel.integer("m")
        p, split = tiles_of(g, size), size // g.pw
        pixels, columns, taps = p.kh * p.kw, p.cols * m, g.ph * g.pw
        some = size // g.ph * g.k * columns
        row = passes(some, 3, split * (1 + bool(plan.relu) + bool(plan.bias)))
        row += gemm(pixels, size * size, g.k * columns)
        if plan.pool:
            row += passes(some, 2.5, split * (1 + taps))
        image = gemm(pixels, pixels, g.c * columns)
        cost = Cost()
        if plan.dw:
            copied = g.c * min(g.h, p.height) * columns
            cost += passes(copied, 2, p.kw)
            row += total(
                [
                    image,
                    batched(gemm(g.c, columns, g.k), pixels, 1),
                    passes(pixels * g.c * g.k, 3),
                ]
            )
        if plan.dx:
            row += batched(gemm(g.c, g.k, columns), pixels, 1) + image
            row += passes(p.kh * g.c * columns, 3, p.kw)
        return cost + repeated(row, p.rows)

    def overhead(self, kernel: Kernel, plan: BackwardPlan) -> Cost:
        """Transforming the filters, and their gradient."""
        both = bool(plan.dw) + bool(plan.dx)
        return repeated(filters_cost(kernel, plan.tiles), both)

    def emit(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Write the body of the kernel's function up to the sums of all workers."""
        g, m = plan.tiles, kernel.integer("m")
        p = tiles_of(g, m)
        pixels = p.kh * p.kw
        w(f"# the adjoint of Winograd's F({m}x{m}, {g.kh}x{g.kh})")
        _emit_operands(w, kernel, plan, m)
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        w(f"z = {kernel.private('z', m * m, g.k, p.cols, 'm')}")
        w(f"p = {kernel.private('p', pixels, g.k, f'{p.cols} * m')}")
        w(f"v = {kernel.private('v', pixels, g.c, p.cols, 'm')}")
        if p.cols * m > g.width:
            w.steps("z.fill(0)  # for tiles that reach beyond the outputs")
        if plan.dw:
            w(f"windows = {kernel.private('windows', *p.window_dims, 'm')}")
            w.steps(f"fill_windows({shifts_of('x', p)})")
        if plan.dx:
            w.steps("dx[..., i : i + m].fill(0)")
        w(f"for first, r in pieces(0, {g.rows}, {m // g.ph}):")
        w.depth += 1
        _emit_gradient(w, kernel, plan, m)
        w.steps(
            f"matmul(outputs.T, z.reshape({m * m}, -1), out=p.reshape({pixels}, -1))"
        )
        if plan.dw:
            w("# filter gradient: products of frequencies, summed over the tiles")
            emit_windows_transformed(w, g, m)
            w("given = p.transpose(0, 2, 1)")
            w.steps(
                f"matmul(v.reshape({pixels}, {g.c}, -1), given, out=product)",
                "add(sums, product, out=sums)",
            )
        if plan.dx:
            w("# input gradient: products with the filters, as pixels, added up")
            w(f"made = v.reshape({pixels}, {g.c}, -1)")
            w.steps("matmul(u, p, out=made)")
            w(f"back = {kernel.private('back', pixels, f'{g.c * p.cols} * m')}")
            w.steps(f"matmul(inputs.T, v.reshape({pixels}, -1), out=back)")
            w(f"back = back.reshape(1, 1, {p.kh}, {p.kw}, {g.c}, 1, {p.cols}, m)")
            top = f"{g.top} - {g.ph} * first" if g.ph > 1 else f"{g.top} - first"
            w("here = dx[..., i : i + m]")
            w.steps(f"fold_windows(*shifts(here, back, {top}, {g.left}, {m}, 1))")
        w.depth -= 2
        if plan.dw:
            w(f"dw = {kernel.private('dw', 2, g.kh * g.kw, g.c * g.k)}[0]")
            w.steps(f"matmul(filters.T, sums.reshape({pixels}, -1), out=dw)")


def _allowed(plan: BackwardPlan) -> list[int]:
    """The m that may serve for the gradients that are made."""
    made = [n.op for n in (plan.dw, plan.dx) if n]
    return sizes(plan.tiles, *made)


def _emit_operands(w: Writer, kernel: Kernel, plan: BackwardPlan, m: int) -> None:
    """Bind what is read and written, the transforms, and sums of nothing yet."""
    g = plan.tiles
    emit_gradients_given(w, kernel, plan)
    emit_transforms(w, g, m)
    if plan.dx:
        w(f"dx = {kernel.mem(plan.dx.result)}")
        w(f"w = {kernel.mem(plan.dx.operands[1], g.kh * g.kw, g.c * g.k)}")
        emit_filters(w, kernel, g, m)
    if plan.dw:
        w(f"x = {kernel.mem(plan.dw.operands[0])}")
        w(f"sums, product = {kernel.private('sums')}")
        w.steps("sums.fill(0)")
    if plan.bias:
        w(f"db, tile_db = {kernel.private('db')}")
        w.steps("db.fill(0)")


def _emit_gradient(w: Writer, kernel: Kernel, plan: BackwardPlan, m: int) -> None:
    """The gradient dz of a row of tiles, in z: [row of the tile, column, ...]."""
    g = plan.tiles
    p, rows, split = tiles_of(g, m), m // g.ph, m // g.pw
    dims = (rows, g.k, p.cols, "m")
    if g.rows % rows:
        w(f"if r < {rows}:")
        w.steps("    z.fill(0)")
    columns = f"e::{split}" if split > 1 else ":"
    here = f"[first : first + r, {columns}, :, i : i + m].transpose(0, 2, 1, 3)"
    w(f"taps = z.reshape({rows}, {g.ph}, {split}, {g.pw}, {g.k}, {p.cols}, m)[:r]")
    w(f"for e in range({split}):" if split > 1 else "e = 0")
    w.depth += split > 1
    w(f"given = dy{here}")
    w("part = slice(r), slice(None), slice(given.shape[2])")
    if plan.pool:
        w(f"d = {kernel.private('d', *dims)}[part]")
    else:
        w("d = taps[:, 0, e, 0, :, : given.shape[2]]")
    if plan.relu or plan.pool:
        w(f"won = {kernel.private('won', *dims)}[part]")
    if plan.relu:
        w(f"kept = y{here}")
        w.steps("greater(kept, ZERO, out=won)", "multiply(given, won, out=d)")
    else:
        w.steps("copyto(d, given)")
    if plan.bias:
        w.steps("np.add.reduce(d, axis=(0, 2, 3), out=tile_db)")
        w.steps("add(db, tile_db, out=db)")
    if plan.pool:
        w(f"which = {kernel.private('which', *dims)}[part]  # the tap that won")
        w(f"place = index{here}")
        w.steps("copyto(which, place)")
        w(f"for k, (q, s) in enumerate(np.ndindex({g.ph}, {g.pw})):")
        w("    tap = taps[:, q, e, s, :, : given.shape[2]]")
        w.steps("    equal(which, np.uint8(k), out=won)")
        w.steps("    multiply(d, won, out=tap)")
    w.depth -= split > 1
