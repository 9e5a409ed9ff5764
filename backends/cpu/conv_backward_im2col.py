"""The gradients of a convolution as products with windows of its image.

The filter gradient is a product with the windows array of ``conv_tiles``, the input
gradient is made as windows, which are then folded back onto the image.
"""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import tile_sizes
from convc.backends.cpu.conv_backward_plan import (
    BackwardAlgorithm,
    BackwardPlan,
    emit_gradients_given,
    emit_no_sums,
)
from convc.backends.cpu.conv_tiles import shifts_of
from convc.backends.cpu.cost import gemm, passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs
from convc.ir.types import DType


class Im2colBackward(BackwardAlgorithm):
    """Products with windows of the image, any convolution's."""

    name = "im2col_rows"

    def schedules(self, plan: BackwardPlan, batch: int, threads: int) -> list[Attrs]:
        """A few images per tile."""
        default = plan.tiles.images(batch, threads)
        return [
            {"algorithm": self.name, "images": images}
            for images in tile_sizes(default, -(-batch // threads))
        ]

    def scratch(self, kernel: Kernel, plan: BackwardPlan) -> tuple[Scratch, ...]:
        """The tile's gradient, windows and columns, and the worker's sums."""
        m = kernel.integer("images")
        g, f32 = plan.tiles, DType.F32
        pooled = (g.rows, g.k, g.cols, m)
        scratch = [Scratch("d", f32, pooled)]
        if plan.relu or plan.pool:
            scratch.append(Scratch("won", DType.BOOL, pooled))
        if plan.pool:
            scratch.append(Scratch("which", DType.U8, pooled))
        if plan.bias:
            scratch.append(Scratch("db", f32, (2, g.k)))
        scratch.append(Scratch("windows", f32, (*g.window_dims, m)))
        if plan.dw:
            scratch.append(Scratch("dw", f32, (2, g.depth, g.k)))
        if plan.dx and plan.by_rows:
            scratch.append(Scratch("turned", f32, (g.depth // g.kh, g.kh, g.k)))
        elif plan.dx:
            scratch.append(Scratch("columns", f32, (g.depth, g.width * m)))
        if plan.pool:
            scratch.append(Scratch("dz", f32, (g.rows, g.ph, g.k, g.pw, g.cols, m)))
        return tuple(scratch)

    def cost(self, kernel: Kernel, plan: BackwardPlan, m: int) -> Cost:
        """The gradient before the pool, and the products of each gradient."""
        g = plan.tiles
        pooled, rows = g.rows * g.k * g.cols * m, g.rows * g.ph
        filters, products = g.k // g.groups, rows * g.groups
        outputs, taps = pooled * g.ph * g.pw, g.kw * g.pw * g.dilation_h
        windows = g.c * min(g.h, g.height * g.dilation_h) * g.cols * g.kw * g.pw * m
        cost = passes(pooled, 3, 1 + bool(plan.relu) + bool(plan.bias))
        if plan.pool:
            cost += passes(outputs, 2.5) + passes(pooled, 2)
        if plan.dw:
            cost += passes(windows / taps, 2, taps)
            cost += gemm(g.depth, g.width * m, filters, products)
            cost += passes(g.depth * filters, 3, products)
        if plan.by_rows:
            cost += gemm(g.depth // g.kh, g.kh * g.k, g.width * m, rows)
            cost += passes(windows / taps / g.h, 3, taps * g.h)
        elif plan.dx:
            cost += gemm(g.depth, filters, g.width * m, products)
            cost += passes(g.depth * g.width * m, 3, products) + passes(windows, 1)
            cost += passes(windows / taps, 3, taps)
        return cost

    def emit(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Write the body of the kernel's function up to the sums of all workers."""
        emit_gradients_given(w, kernel, plan)
        if plan.dw:
            w(f"x = {kernel.mem(plan.dw.operands[0])}")
            w(f"dw, product = {kernel.private('dw')}")
        if plan.dx:
            g = plan.tiles
            weights = plan.dx.operands[1]
            w(f"dx = {kernel.mem(plan.dx.result)}")
            if plan.by_rows:
                w(f"turned = {kernel.private('turned')}  # last row of taps first")
                w(f"taps = {kernel.mem(weights, g.kh, g.depth // g.kh, g.k)}")
                w.steps("copyto(turned, taps[::-1].transpose(1, 0, 2))")
            else:
                w(f"w = {kernel.mem(weights, g.depth, g.k)}")
        if plan.bias:
            w(f"db, tile_db = {kernel.private('db')}")
        emit_no_sums(w, plan)
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        self._emit_gradient(w, kernel, plan)
        self._emit_products(w, kernel, plan)
        w.depth -= 1

    def _emit_gradient(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """The gradient dz of the convolution's own result, as a tile."""
        g = plan.tiles
        dims = (g.rows, g.k, g.cols, "m")
        here = "[..., i : i + m].transpose(0, 2, 1, 3)"
        w(f"d = {kernel.private('d', *dims)}")
        if plan.relu or plan.pool:
            w(f"won = {kernel.private('won', *dims)}")
        if plan.relu:
            w.steps(f"greater(y{here}, ZERO, out=won)")
            w.steps(f"multiply(dy{here}, won, out=d)")
        else:
            w.steps(f"copyto(d, dy{here})")
        if plan.bias:
            w.steps("np.add.reduce(d, axis=(0, 2, 3), out=tile_db)")
            w.steps("add(db, tile_db, out=db)")
        if plan.pool:
            self._emit_unpool(w, kernel, plan)
        else:
            w(f"dz = d.reshape({g.rows}, 1, {g.k}, 1, {g.cols}, m)")

    def _emit_unpool(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        g = plan.tiles
        which = kernel.private("which", g.rows, g.k, g.cols, "m")
        w(f"which = {which}  # the tap that won")
        w.steps("copyto(which, index[..., i : i + m].transpose(0, 2, 1, 3))")
        w(f"dz = {kernel.private('dz', g.rows, g.ph, g.k, g.pw, g.cols, 'm')}")
        taps = f"dz[:, q, :, e] for q in range({g.ph}) for e in range({g.pw})"
        w(f"for k, tap in enumerate({taps}):")
        w.steps("    equal(which, np.uint8(k), out=won)")
        w.steps("    multiply(d, won, out=tap)")

    def _emit_products(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        g = plan.tiles
        w(f"windows = {kernel.private('windows', *g.window_dims, 'm')}")
        geometry = (g.rows * g.ph, g.stride_h, g.kh, g.top, g.h)
        over = ["windows", "dz", "0", *map(str, geometry)]
        if plan.dw:
            w("# filter gradient: the sum over rows of windows @ dz.T")
            w.steps(f"fill_windows({shifts_of('x', g)})")
            w.call("for a, s, o in products(", ["dw", *over], "):")
            w("    p = product[: len(s), : len(o)]")
            w.steps("    matmul(s, o.T, out=p)", "    add(a.T, p, out=a.T)")
        if plan.by_rows:
            w("# input gradient: a row is one product over kh rows of dz, then folded")
            w.steps("dx[..., i : i + m].fill(0)")
            rows, last = g.rows * g.ph, min(g.h, g.height - g.top)
            w("window = windows[:, :, :1]", "o = window.reshape(len(turned), -1)")
            w(f"for row in range({last}):")
            first = f"row {'+' if g.top >= g.kh - 1 else '-'} {abs(g.top - g.kh + 1)}"
            w(f"    k0, k1 = span({first}, 1, {g.kh}, {rows})")
            part = f"[{first} + k0 : {first} + k1]"
            flat = f"dz.reshape({rows}, {g.k}, -1)"
            w(f"    s = {flat}{part}.reshape(-1, {g.width} * m)")
            w.steps("    matmul(turned[:, k0:k1].reshape(len(o), -1), s, out=o)")
            columns = f"0, {g.left}, {g.stride_w}, {g.dilation_w}"
            w("    here = dx[row : row + 1, ..., i : i + m]")
            w.steps(f"    fold_windows(*shifts(here, window, {columns}))")
        elif plan.dx:
            w("# input gradient: w @ dz for each row, added to the rows of its taps")
            w(f"columns = {kernel.private('columns', g.depth, f'{g.width} * m')}")
            w.steps("windows.fill(0)")
            w.call("for a, s, o in products(", ["w", *over], "):")
            w.steps("    matmul(a.T, o, out=columns[: len(s)])")
            w.steps("    add(s, columns[: len(s)], out=s)")
            w.steps("dx[..., i : i + m].fill(0)", f"fold_windows({shifts_of('dx', g)})")
