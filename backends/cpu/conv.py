"""Emits a forward convolution with its bias, max-pool and ReLU as one tiled kernel."""

from dataclasses import dataclass

from convc.backends.base import Scratch
from convc.backends.cpu.conv_tiles import ConvTiles, conv_tiles
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel, Writer
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


class ConvForward(Emitter):
    """conv2d [+ bias_add] [+ max_pool2d [+ argmax]] [+ relu]."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return kernel.find("conv2d") is not None

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """The default tile."""
        tiles = self._plan(kernel).tiles
        images = tiles.images(batch, kernel.threads)
        return [
            {
                "algorithm": "im2col_rows",
                "images": images,
                "rows": tiles.row_group(images),
            }
        ]

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
            raise kernel.refusal("only bias, max-pool and relu may follow")
        value = conv.result
        for node in chain[1:]:
            if node.operands[0] != value:
                raise kernel.refusal(f"{node.op} does not follow the op before it")
            if node.op != "max_pool2d_argmax" and not (
                node.op == "max_pool2d" and found["max_pool2d_argmax"]
            ):
                value = node.result
            elif node.op == "max_pool2d_argmax" and pool:
                value = pool.result
        if found["max_pool2d_argmax"] and not pool:
            raise kernel.refusal("an argmax stands without its max-pool")
        if pool and ints(pool.attrs["window"]) != ints(pool.attrs["strides"]):
            raise kernel.refusal("windows of the pool overlap")
        tiles = conv_tiles(kernel, conv, pool)
        return _Plan(
            conv,
            found["bias_add"],
            pool,
            found["max_pool2d_argmax"],
            found["relu"],
            tiles,
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
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        self._emit_tile(w, kernel, plan)
        w.depth -= 1

    def _emit_tile(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
        g, rows = plan.tiles, kernel.integer("rows")
        w(f"windows = {kernel.private('windows', *g.window_dims, 'm')}")
        w.steps(f"fill_windows({shifts_of('x', g)})")
        w(f"for first, r in pieces(0, {g.rows}, {rows}):")
        w.depth += 1
        w(f"z = {kernel.private('z', rows, g.ph, g.k, g.pw, g.cols, 'm')}")
        over = ["w", "windows", "z", f"first * {g.ph}", f"r * {g.ph}"]
        over += [str(v) for v in (g.stride_h, g.kh, g.top, g.h)]
        w.call("for a, s, o in products(", over, "):")
        w.steps("    matmul(a, s, out=o)")
        self._emit_epilogue(w, kernel, plan)
        w.depth -= 1

    def _emit_epilogue(self, w: Writer, kernel: Kernel, plan: _Plan) -> None:
        g, rows = plan.tiles, kernel.integer("rows")
        part = "[first : first + r, :, :, i : i + m].transpose(0, 2, 1, 3)"
        w(f"out = y{part}")
        if plan.pool:
            w(f"taps = [z[:r, q, :, e] for q in range({g.ph}) for e in range({g.pw})]")
            w(f"best = {kernel.private('best', rows, g.k, g.cols, 'm')}[:r]")
        else:
            w("best = z[:r, 0, :, 0]")
        if plan.argmax:
            w(f"which = {kernel.private('which', rows, g.k, g.cols, 'm')}[:r]")
            w(f"won = {kernel.private('won', rows, g.k, g.cols, 'm')}[:r]")
            w.steps("pool_argmax(taps, best, which, won)")
            w(f"place = index{part}")
            w.steps("copyto(place, which)")
        elif plan.pool:
            w.steps("pool(taps, best)")
        if plan.bias:
            w.steps(f"add(best, b, out={'best' if plan.relu else 'out'})")
        if plan.relu:
            w.steps("maximum(best, ZERO, out=out)")
        elif not plan.bias:
            w.steps("copyto(out, best)")


def shifts_of(array: str, g: ConvTiles) -> str:
    """Source for the pieces that move between images i … i+m and the windows."""
    geometry = f"{g.top}, {g.left}, {g.stride_w}, {g.dilation_w}"
    return f"*shifts({array}[..., i : i + m], windows, {geometry})"
