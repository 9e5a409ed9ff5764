"""Emits the gradients of a convolution as one tiled kernel.

The kernel may begin with the gradients of ReLU and max-pool, so that the gradient
before the pool exists only as a tile, and gives any of: filter gradient, input
gradient, bias gradient. Filter and bias gradients are summed per worker and then over
the workers in a fixed order: the same bits in every run.
"""

from dataclasses import dataclass

from convc.backends.base import Scratch
from convc.backends.cpu.conv import shifts_of
from convc.backends.cpu.conv_tiles import ConvTiles, conv_tiles
from convc.backends.cpu.kernel import Kernel, Writer
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


class ConvBackward:
    """[relu_grad] [max_pool2d_grad] then filter, input and bias gradients."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return bool(
            kernel.find("conv2d_filter_grad") or kernel.find("conv2d_input_grad")
        )

    def schedule(self, kernel: Kernel, batch: int) -> Attrs:
        """The default tile."""
        images = self._plan(kernel).tiles.images(batch, kernel.threads)
        return {"algorithm": "im2col_rows", "images": images}

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
            scratch.append(Scratch("dz", f32, (g.rows, g.ph, g.k, g.pw, g.cols, m)))
        if plan.bias:
            scratch += [Scratch("db", f32, (g.k,)), Scratch("tile_db", f32, (g.k,))]
        if plan.dw or plan.dx:
            scratch.append(Scratch("windows", f32, (*g.window_dims, m)))
        if plan.dw:
            scratch.append(Scratch("dw", f32, (g.depth, g.k)))
            scratch.append(Scratch("product", f32, (g.depth, g.k)))
        if plan.dx:
            scratch.append(Scratch("columns", f32, (g.depth, g.width * m)))
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
            w(f"dw = {kernel.private('dw')}", f"product = {kernel.private('product')}")
        if plan.dx:
            g = plan.tiles
            w(f"w = {kernel.mem(plan.dx.operands[1], g.depth, g.k)}")
            w(f"dx = {kernel.mem(plan.dx.result)}")
        if plan.bias:
            w(f"db = {kernel.private('db')}", f"tile_db = {kernel.private('tile_db')}")
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
        if not plan.pool:
            w(f"dz = d.reshape({g.rows}, {g.k}, 1, {g.cols}, m)")
            return
        w("# through the pool: each gradient goes to the tap that won")
        w(f"which = {kernel.private('which', *dims)}")
        w.steps(f"copyto(which, index{here})")
        w(f"dz = {kernel.private('dz', g.rows, g.ph, g.k, g.pw, g.cols, 'm')}")
        taps = f"dz[:, q, :, e] for q in range({g.ph}) for e in range({g.pw})"
        w(f"for k, tap in enumerate({taps}):")
        w.steps("    equal(which, np.uint8(k), out=won)")
        w.steps("    multiply(d, won, out=tap)")

    def _emit_products(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
        g = plan.tiles
        w(f"windows = {kernel.private('windows', *g.window_dims, 'm')}")
        over = ["windows", "dz", "0", *map(str, (g.rows * g.ph, g.stride_h, g.kh))]
        if plan.dw:
            w("# filter gradient: the sum over rows of windows @ dz.T")
            w.steps(f"fill_windows({shifts_of('x', g)})")
            if g.groups == 1:
                w.call("for _, s, o in products(", ["dw", *over], "):")
                w.steps(
                    "    matmul(s, o.T, out=product)", "    add(dw, product, out=dw)"
                )
            else:
                w.call("for a, s, o in products(", ["dw", *over], "):")
                w(f"    p = product[:, : {g.k // g.groups}]")
                w.steps("    matmul(s, o.T, out=p)", "    add(a.T, p, out=a.T)")
        if plan.dx:
            w("# input gradient: w @ dz for each row, folded back onto the input")
            w(f"columns = {kernel.private('columns', g.depth, f'{g.width} * m')}")
            w.steps("windows.fill(0)")
            w.call("for a, s, o in products(", ["w", *over], "):")
            w.steps("    matmul(a.T, o, out=columns)", "    add(s, columns, out=s)")
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
            part = kernel.private_of(name, "u", *shape)
            w(f"parts = [{part} for u in range(THREADS)]")
            w.steps(f"add_parts(t, {kernel.mem(node.result, *shape)}, parts)")
