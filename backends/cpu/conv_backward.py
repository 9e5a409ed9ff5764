"""Emits the gradients of a convolution as one tiled kernel.

The kernel may begin with the gradients of ReLU and max-pool, so that the gradient
before the pool exists only as a tile, and gives any of: filter gradient, input
gradient, bias gradient. Filter and bias gradients are summed per worker and then over
the workers in a fixed order: the same bits in every run.
"""

from dataclasses import dataclass

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import over_tiles, tile_sizes
from convc.backends.cpu.conv_tiles import ConvTiles, conv_tiles, shifts_of
from convc.backends.cpu.cost import gemm, passes, traffic
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs, Node, Value
from convc.ir.types import DType

PARTS = (
    "relu_grad",
    "max_pool2d_grad",
    "reduce_sum",
    "conv2d_filter_grad",
    "conv2d_input_grad",
)
"""Ops such a kernel may hold."""


@dataclass(frozen=True)
class _Plan:
    """The parts of a backward kernel; ``source`` is the gradient it starts from."""

    relu: Node | None
    pool: Node | None
    bias: Node | None
    dw: Node | None
    dx: Node | None
    source: Value
    tiles: ConvTiles

    @property
    def by_rows(self) -> bool:
        """Whether each row of windows of the input gradient is one product.

        With neither stride nor dilation between rows, the rows of dz that reach an
        input row lie one after the other, so one product of depth KH·K gives it.
        """
        g = self.tiles
        plain = (g.groups, g.stride_h, g.dilation_h) == (1, 1, 1)
        return self.dx is not None and plain


class ConvBackward(Emitter):
    """[relu_grad] [max_pool2d_grad] then filter, input and bias gradients."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return bool(
            kernel.find("conv2d_filter_grad") or kernel.find("conv2d_input_grad")
        )

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """A few images per tile."""
        default = self._plan(kernel).tiles.images(batch, kernel.threads)
        return [
            {"algorithm": "im2col_rows", "images": images}
            for images in tile_sizes(default, -(-batch // kernel.threads))
        ]

    def cost(self, kernel: Kernel, batch: int) -> Cost:
        """The predicted cost of a scheduled kernel."""
        plan, sums = self._plan(kernel), Cost()
        if plan.dw:
            depth, k = plan.tiles.depth, plan.tiles.k
            sums = passes(depth * k, 1) + passes(depth * k / kernel.threads, 3)
        return traffic(kernel, batch) + over_tiles(
            lambda m: _tile_cost(plan, m),
            sums,
            batch,
            kernel.threads,
            kernel.integer("images"),
        )

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """The tile's gradient, windows and columns, and the worker's sums."""
        plan, m = self._plan(kernel), kernel.integer("images")
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

    def _plan(self, kernel: Kernel) -> _Plan:
        relu, pool, bias, dw, dx = (kernel.find(op) for op in PARTS)
        if len(kernel.ops) != sum(n is not None for n in (relu, pool, bias, dw, dx)):
            raise kernel.refusal("ops other than " + ", ".join(PARTS))
        first = relu or pool or bias
        source = first.operands[-1] if first else None
        conv = dw or dx
        assert conv is not None
        gradient = conv.operands[1] if conv is dw else conv.operands[0]
        if source is None:
            source = gradient
        chain = [(n, n.operands[-1]) for n in (relu, pool) if n]
        value = source
        for node, operand in chain:
            if operand != value:
                raise kernel.refusal(f"{node.op} does not take the gradient")
            value = node.result
        ends = [n.operands[i] for n, i in ((dw, 1), (dx, 0), (bias, 0)) if n]
        if any(end != value for end in ends):
            raise kernel.refusal("the gradients do not share one source")
        if bias and bias.attrs["axes"] != (0, 1, 2):
            raise kernel.refusal(
                "a bias gradient is a sum over images, rows and columns"
            )
        tiles = conv_tiles(kernel, conv, pool)
        if dw and dx and tiles != conv_tiles(kernel, dx, pool):
            raise kernel.refusal("two different convolutions")
        return _Plan(relu, pool, bias, dw, dx, source, tiles)

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        plan = self._plan(kernel)
        w(f"dy = {kernel.mem(plan.source)}")
        if plan.relu:
            w(f"y = {kernel.mem(plan.relu.operands[0])}")
        if plan.pool:
            w(f"index = {kernel.mem(plan.pool.operands[0])}")
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
        sums = [n for n, p in (("dw", plan.dw), ("db", plan.bias)) if p]
        w.steps(*(f"{name}.fill(0)" for name in sums))
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        self._emit_gradient(w, kernel, plan)
        self._emit_products(w, kernel, plan)
        w.depth -= 1
        self._emit_totals(w, kernel, plan)

    def _emit_gradient(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
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

    def _emit_unpool(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
        g = plan.tiles
        which = kernel.private("which", g.rows, g.k, g.cols, "m")
        w(f"which = {which}  # the tap that won")
        w.steps("copyto(which, index[..., i : i + m].transpose(0, 2, 1, 3))")
        w(f"dz = {kernel.private('dz', g.rows, g.ph, g.k, g.pw, g.cols, 'm')}")
        taps = f"dz[:, q, :, e] for q in range({g.ph}) for e in range({g.pw})"
        w(f"for k, tap in enumerate({taps}):")
        w.steps("    equal(which, np.uint8(k), out=won)")
        w.steps("    multiply(d, won, out=tap)")

    def _emit_products(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
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

    def _emit_totals(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
        g = plan.tiles
        if not (plan.dw or plan.bias):
            return
        w("yield BARRIER")
        for name, node, shape in (
            ("dw", plan.dw, (g.depth, g.k)),
            ("db", plan.bias, (g.k,)),
        ):
            if node is None:
                continue
            part = kernel.private_of(name, "u", 2, *shape)
            w.call("parts = [", [f"{part}[0] for u in range(THREADS)"], "]")
            w.steps(f"add_parts(t, {kernel.mem(node.result, *shape)}, parts)")


def _tile_cost(plan: _Plan, m: int) -> Cost:
    """The gradient before the pool, and the products of each gradient, for m images."""
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
