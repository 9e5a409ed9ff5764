"""Emits a forward convolution with its bias, max-pool and ReLU as one tiled kernel."""

from dataclasses import dataclass

from convc.backends.base import Scratch
from convc.backends.cpu.conv_tiles import ConvTiles, conv_tiles
from convc.backends.cpu.kernel import Kernel, Writer
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import ints
from convc.ir.types import DType

EPILOGUE = ("bias_add", "max_pool2d", "max_pool2d_argmax", "relu")
"""Ops that may follow a convolution in its kernel, in this order."""


@dataclass(frozen=True)
class _Plan:
    """The parts of a forward kernel."""

    conv: Node
    bias: Node | None
    pool: Node | None
    argmax: Node | None
    relu: Node | None
    tiles: ConvTiles

    @property
    def last(self) -> Value:
        """The value the epilogue ends with."""
        node = self.relu or self.pool or self.bias or self.conv
        return node.result


class ConvForward:
    """conv2d [+ bias_add] [+ max_pool2d [+ argmax]] [+ relu]."""

    requires = "prelude_tiles"

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return kernel.find("conv2d") is not None

    def schedule(self, kernel: Kernel, batch: int) -> Attrs:
        """The default tile."""
        tiles = self._plan(kernel).tiles
        images = tiles.images(batch, kernel.threads)
        return {
            "algorithm": "im2col_rows",
            "images": images,
            "rows": tiles.row_group(images),
        }

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """Windows, products and, with a pool, the running maximum and its index."""
        plan = self._plan(kernel)
        tiles, f32 = plan.tiles, DType.F32
        m, rows = kernel.integer("images"), kernel.integer("rows")
        result = (rows, tiles.k, tiles.cols, m)
        scratch = [
            Scratch("windows", f32, (*tiles.window_dims, m)),
            Scratch("z", f32, (rows, tiles.ph, tiles.k, tiles.pw, tiles.cols, m)),
        ]
        if plan.pool:
            scratch.append(Scratch("best", f32, result))
        if plan.argmax:
            scratch.append(Scratch("which", DType.U8, result))
            scratch.append(Scratch("won", DType.BOOL, result))
        return tuple(scratch)

    def _plan(self, kernel: Kernel) -> _Plan:
        found = {op: kernel.find(op) for op in ("conv2d", *EPILOGUE)}
        conv, pool = found["conv2d"], found["max_pool2d"]
        assert conv is not None
        chain = [n for n in found.values() if n is not None]
        if len(chain) != len(kernel.ops):
            raise _refusal(kernel, "only bias, max-pool and relu may follow")
        value = conv.result
        for node in chain[1:]:
            if node.operands[0] != value:
                raise _refusal(kernel, f"{node.op} does not follow the op before it")
            if node.op != "max_pool2d_argmax" and not (
                node.op == "max_pool2d" and found["max_pool2d_argmax"]
            ):
                value = node.result
            elif node.op == "max_pool2d_argmax" and pool:
                value = pool.result
        if found["max_pool2d_argmax"] and not pool:
            raise _refusal(kernel, "an argmax stands without its max-pool")
        if pool and ints(pool.attrs["window"]) != ints(pool.attrs["strides"]):
            raise _refusal(kernel, "windows of the pool overlap")
        tiles = conv_tiles(kernel, conv, pool)
        return _Plan(
            conv, found["bias_add"], pool, found["max_pool2d_argmax"], found["relu"], tiles
        )

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        plan = self._plan(kernel)
        g = plan.tiles
        x, weights = plan.conv.operands
        w(f"x = {kernel.mem(x)}")
        w(f"w = {kernel.mem(weights, g.depth, g.k)}")
        if plan.bias:
            w(f"b = {kernel.mem(plan.bias.operands[1])}[:, None, None]")
        w(f"y = {kernel.mem(plan.last)}")
        if plan.argmax:
            w(f"index = {kernel.mem(plan.argmax.result)}")
        w("tiles = []")
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        self._bind_tile(w, kernel, plan)
        w.depth -= 1
        w("")
        w("def run():")
        w.depth += 1
        self._emit_run(w, plan)
        w.depth -= 1
        w("", "return (run,)")

    def _bind_tile(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
        g, rows = plan.tiles, kernel.integer("rows")
        w(f"windows = {kernel.private('windows', *g.window_dims, 'm')}")
        w(f"z = {kernel.private('z', rows, g.ph, g.k, g.pw, g.cols, 'm')}")
        if plan.pool:
            w(f"best = {kernel.private('best', rows, g.k, g.cols, 'm')}")
        if plan.argmax:
            w(f"which = {kernel.private('which', rows, g.k, g.cols, 'm')}")
            w(f"won = {kernel.private('won', rows, g.k, g.cols, 'm')}")
        emit_shifts(w, g)
        w("groups = []")
        w(f"for first in range(0, {g.rows}, {rows}):")
        w.depth += 1
        w(f"r = min({rows}, {g.rows} - first)")
        w("products = [")
        w.depth += 1
        w("(a, s, z[row // {0} - first, row % {0}, k])".format(g.ph))
        head = f"for row in range(first * {g.ph}, (first + r) * {g.ph})"
        w(head if g.ph > 1 else "for row in range(first, first + r)")
        w(f"for a, s, k in slabs(w, windows, row * {g.stride_h}, {g.kh})")
        w.depth -= 1
        w("]")
        w(f"products = [(a, s, o.reshape(-1, {g.width} * m)) for a, s, o in products]")
        out = "[first : first + r, :, :, i : i + m].transpose(0, 2, 1, 3)"
        parts = ["products", f"y{out}"]
        if plan.pool:
            positions = f"[z[:r, q, :, e] for q in range({g.ph}) for e in range({g.pw})]"
            w(f"positions = {positions}")
            parts += ["positions", "best[:r]"]
        else:
            parts += ["z[:r, 0, :, 0]"]
        if plan.argmax:
            parts += ["which[:r]", "won[:r]", f"index{out}"]
        w.call("groups.append((", parts, "))")
        w.depth -= 1
        w("tiles.append((borders, copies, groups))")

    def _emit_run(self, w: Writer, plan: _Plan) -> None:
        w("for borders, copies, groups in tiles:")
        w.depth += 1
        emit_copies(w)
        names = ["products", "out"]
        names += ["positions", "z"] if plan.pool else ["z"]
        names += ["which", "won", "place"] if plan.argmax else []
        w(f"for {', '.join(names)} in groups:")
        w.depth += 1
        w("for a, s, o in products:")
        w("    matmul(a, s, out=o)")
        if plan.argmax:
            emit_argmax(w, "positions", "z")
            w("copyto(place, which)")
        elif plan.pool:
            w("copyto(z, positions[0])")
            w("for other in positions[1:]:")
            w("    maximum(z, other, out=z)")
        if plan.bias:
            w(f"add(z, b, out={'z' if plan.relu else 'out'})")
        if plan.relu:
            w("maximum(z, ZERO, out=out)")
        elif not plan.bias:
            w("copyto(out, z)")
        w.depth -= 2


def emit_argmax(w: Writer, positions: str, best: str) -> None:
    """The maximum of several arrays and, in ``which``, the first that reaches it."""
    w(f"copyto({best}, {positions}[0])", "which.fill(0)")
    w(f"for k, other in enumerate({positions}[1:], 1):")
    w(f"    greater(other, {best}, out=won)")
    w(f"    maximum({best}, other, out={best})")
    w("    multiply(won.view(np.uint8), np.uint8(k), out=won.view(np.uint8))")
    w("    maximum(which, won.view(np.uint8), out=which)")


def emit_shifts(w: Writer, g: ConvTiles) -> None:
    """Bind ``copies`` and ``borders`` of the windows array for images i … i+m."""
    geometry = [str(v) for v in (g.top, g.left, g.stride_w, g.dilation_w)]
    w.call("copies, borders = shifts(", ["x[..., i : i + m]", "windows", *geometry])


def emit_copies(w: Writer) -> None:
    """Fill the windows array."""
    w("for border in borders:", "    border.fill(0)")
    w("for window, source in copies:", "    copyto(window, source)")


def _refusal(kernel: Kernel, reason: str) -> CompileError:
    ops = ", ".join(n.op for n in kernel.ops)
    return CompileError(
        f"kernel {kernel.node.attrs['name']} at {kernel.where()}: the numpy backend "
        f"cannot run {ops} as one convolution: {reason}; split the kernel"
    )
