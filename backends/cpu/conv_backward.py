"""Emits the gradients of a convolution as one tiled kernel.

The kernel may begin with the gradients of ReLU and max-pool, so that the gradient
before the pool exists only as a tile, and gives any of: filter gradient, input
gradient, bias gradient. Filter and bias gradients are summed per worker and then over
the workers in a fixed order: the same bits in every run.
"""

from dataclasses import dataclass

from convc.backends.base import Scratch
from convc.backends.cpu.conv import emit_copies, emit_shifts
from convc.backends.cpu.conv_tiles import ConvTiles, conv_tiles
from convc.backends.cpu.kernel import Kernel, Writer
from convc.ir.errors import CompileError
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

    requires = "prelude_tiles"

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return bool(kernel.find("conv2d_filter_grad") or kernel.find("conv2d_input_grad"))

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
            scratch.append(Scratch("db", f32, (2, g.k)))
        if plan.dw or plan.dx:
            scratch.append(Scratch("windows", f32, (*g.window_dims, m)))
        if plan.dw:
            scratch.append(Scratch("dw", f32, (2, g.depth, g.k)))
        if plan.dx:
            scratch.append(Scratch("columns", f32, (g.depth, g.width * m)))
        return tuple(scratch)

    def _plan(self, kernel: Kernel) -> _Plan:
        relu, pool, bias, dw, dx = (kernel.find(op) for op in PARTS)
        if len(kernel.ops) != sum(n is not None for n in (relu, pool, bias, dw, dx)):
            raise _refusal(kernel, "ops other than " + ", ".join(PARTS))
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
                raise _refusal(kernel, f"{node.op} does not take the gradient")
            value = node.result
        ends = [n.operands[i] for n, i in ((dw, 1), (dx, 0), (bias, 0)) if n]
        if any(end != value for end in ends):
            raise _refusal(kernel, "the gradients do not share one source")
        if dw and dx and dw.attrs["groups"] != dx.attrs["groups"]:
            raise _refusal(kernel, "two different convolutions")
        return _Plan(relu, pool, bias, dw, dx, source, conv_tiles(kernel, conv, pool))

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        plan = self._plan(kernel)
        g = plan.tiles
        w(f"dy = {kernel.mem(plan.source)}")
        if plan.relu:
            w(f"y = {kernel.mem(plan.relu.operands[0])}")
        if plan.pool:
            w(f"index = {kernel.mem(plan.pool.operands[0])}")
        if plan.dw:
            w(f"x = {kernel.mem(plan.dw.operands[0])}")
            w(f"dw, product = {kernel.private('dw')}")
        if plan.dx:
            w(f"w = {kernel.mem(plan.dx.operands[1], g.depth, g.k)}")
            w(f"dx = {kernel.mem(plan.dx.result)}")
        if plan.bias:
            w(f"db, tile_db = {kernel.private('db')}")
        w("tiles = []")
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        self._bind_tile(w, kernel, plan)
        w.depth -= 1
        w("", "def run():")
        w.depth += 1
        self._emit_run(w, plan)
        w.depth -= 1
        self._emit_totals(w, kernel, plan)

    def _bind_tile(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
        g = plan.tiles
        dims = (g.rows, g.k, g.cols, "m")
        here = "[..., i : i + m].transpose(0, 2, 1, 3)"
        w(f"d = {kernel.private('d', *dims)}")
        parts = ["d", f"dy{here}"]
        if plan.relu or plan.pool:
            w(f"won = {kernel.private('won', *dims)}")
            parts += ["won"]
        if plan.relu:
            parts += [f"y{here}"]
        if plan.pool:
            w(f"which = {kernel.private('which', *dims)}")
            w(f"dz = {kernel.private('dz', g.rows, g.ph, g.k, g.pw, g.cols, 'm')}")
            parts += ["which", f"index{here}"]
            positions = f"[dz[:, q, :, e] for q in range({g.ph}) for e in range({g.pw})]"
            w(f"positions = {positions}")
            parts += ["positions"]
        else:
            w(f"dz = d.reshape({g.rows}, 1, {g.k}, 1, {g.cols}, m)")
        w(f"windows = {kernel.private('windows', *g.window_dims, 'm')}")
        self._bind_products(w, kernel, plan)
        if plan.dw:
            emit_shifts(w, g)
            parts += ["borders", "copies"]
        if plan.dx:
            geometry = [str(v) for v in (g.top, g.left, g.stride_w, g.dilation_w)]
            w.call("folds, _ = shifts(", ["dx[..., i : i + m]", "windows", *geometry])
            parts += ["columns", "windows", "dx[..., i : i + m]", "folds"]
        w.call("tiles.append((", [*parts, "products"], "))")

    def _bind_products(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
        g = plan.tiles
        weights = "w" if plan.dx else "dw"
        if plan.dx:
            w(f"columns = {kernel.private('columns', g.depth, f'{g.width} * m')}")
        w("products = []")
        w(f"for row in range({g.rows * g.ph}):")
        w.depth += 1
        w(f"for a, s, k in slabs({weights}, windows, row * {g.stride_h}, {g.kh}):")
        w.depth += 1
        w(f"o = dz[row // {g.ph}, row % {g.ph}, k].reshape(-1, {g.width} * m)")
        sums = ", dw[:, k], product[:, k]" if plan.dw else ""
        w(f"products.append((a, s, o{sums}))")
        w.depth -= 2

    def _emit_run(self, w: Writer, plan: _Plan) -> None:
        if plan.dw:
            w("dw.fill(0)")
        if plan.bias:
            w("db.fill(0)")
        w("for tile in tiles:")
        w.depth += 1
        names = ["d", "dy_tile"]
        names += ["won"] if plan.relu or plan.pool else []
        names += ["y_tile"] if plan.relu else []
        names += ["which", "index_tile", "positions"] if plan.pool else []
        names += ["borders", "copies"] if plan.dw else []
        names += ["columns", "windows", "dx_tile", "folds"] if plan.dx else []
        w.call("(", [*names, "products"], ") = tile")
        self._emit_gradient(w, plan)
        sums = ", dw_k, product_k" if plan.dw else ""
        if plan.dw:
            w("# filter gradient: the sum over rows of windows @ dz.T")
            emit_copies(w)
            w(f"for _, s, o{sums} in products:")
            w("    matmul(s, o.T, out=product_k)")
            w("    add(dw_k, product_k, out=dw_k)")
        if plan.dx:
            w("# input gradient: windows of w @ dz, folded back onto the input")
            w("windows.fill(0)")
            w(f"for a, s, o{', _, _' if plan.dw else ''} in products:")
            w("    matmul(a.T, o, out=columns)")
            w("    add(s, columns, out=s)")
            w("dx_tile.fill(0)")
            w("for window, target in folds:")
            w("    add(target, window, out=target)")
        w.depth -= 1

    def _emit_gradient(self, w: Writer, plan: _Plan) -> None:
        if plan.relu:
            w("greater(y_tile, ZERO, out=won)", "multiply(dy_tile, won, out=d)")
        else:
            w("copyto(d, dy_tile)")
        if plan.bias:
            w("np.add.reduce(d, axis=(0, 2, 3), out=tile_db)")
            w("add(db, tile_db, out=db)")
        if plan.pool:
            w("# through the pool: each gradient to the tap that won")
            w("copyto(which, index_tile)")
            w("for k, position in enumerate(positions):")
            w("    equal(which, np.uint8(k), out=won)")
            w("    multiply(d, won, out=position)")

    def _emit_totals(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
        sums = [(n, p) for n, p in (("dw", plan.dw), ("db", plan.bias)) if p]
        if not sums:
            w("", "return (run,)")
            return
        w("")
        for name, node in sums:
            shape = (plan.tiles.depth, plan.tiles.k) if name == "dw" else (plan.tiles.k,)
            double = (2, *shape)
            w(f"{name}_rows = slice(*share({shape[0]}, t))")
            w(f"{name}_out = {kernel.mem(node.result, *shape)}[{name}_rows]")
            others = (kernel.private_of(name, "u", *double), f"[0][{name}_rows]")
            w(f"{name}_parts = [")
            w(f"    {''.join(others)}", "    for u in range(THREADS)", "]")
        w("", "def total():")
        w.depth += 1
        for name, _ in sums:
            w(f"copyto({name}_out, {name}_parts[0])")
            w(f"for part in {name}_parts[1:]:")
            w(f"    add({name}_out, part, out={name}_out)")
        w.depth -= 1
        w("", "return run, total")


def _refusal(kernel: Kernel, reason: str) -> CompileError:
    ops = ", ".join(n.op for n in kernel.ops)
    return CompileError(
        f"kernel {kernel.node.attrs['name']} at {kernel.where()}: the numpy backend "
        f"cannot run {ops} as one convolution gradient: {reason}; split the kernel"
    )
