"""The gradients of a convolution by tiles of m x m outputs, see ``conv_tiled``.

The gradient dz of a row of tiles lies as the outputs of the forward tiles do. The
filters' gradient is summed over all tiles of a worker before it becomes taps; the
image's is made as the pixels of each tile, which overlap and are added up.
"""

from abc import abstractmethod

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import repeated
from convc.backends.cpu.conv_backward_plan import (
    BackwardAlgorithm,
    BackwardPlan,
    emit_gradients_given,
)
from convc.backends.cpu.conv_tiled import (
    check_size,
    emit_windows,
    tiled_schedules,
    tiles_of,
    windows_cost,
)
from convc.backends.cpu.cost import passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs
from convc.ir.types import DType


class TiledBackward(BackwardAlgorithm):
    """Gradients of tiles by products with their pixels, or as their pixels."""

    @abstractmethod
    def sizes(self, plan: BackwardPlan) -> list[int]:
        """The m that may serve for the gradients that are made."""

    @abstractmethod
    def own_scratch(self, plan: BackwardPlan, m: int, columns: int) -> list[Scratch]:
        """Filters, sums, and what lies between dz and them for a row of tiles."""

    @abstractmethod
    def row_cost(self, plan: BackwardPlan, m: int, columns: int) -> Cost:
        """The products for a row of tiles."""

    @abstractmethod
    def emit_filters(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Bind what the products need of the filters, for dx, and sums of nothing."""

    @abstractmethod
    def emit_row(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Add to the sums, and make back: of z, for the row of tiles from ``first``."""

    @abstractmethod
    def emit_taps(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Make dw [kh·kw, c·k] of the sums."""

    def schedules(self, plan: BackwardPlan, batch: int, threads: int) -> list[Attrs]:
        """A few images per tile for each m that may serve."""
        return tiled_schedules(self.name, self.sizes(plan), batch, threads)

    def check(self, kernel: Kernel, plan: BackwardPlan) -> None:
        """CompileError for an m that may not serve."""
        check_size(kernel, self.name, self.sizes(plan))

    def scratch(self, kernel: Kernel, plan: BackwardPlan) -> tuple[Scratch, ...]:
        """A row of tiles at every stage, and the worker's sums."""
        g, f32 = plan.tiles, DType.F32
        images, m = kernel.integer("images"), kernel.integer("m")
        p = tiles_of(g, m)
        columns, results = p.cols * images, (m // g.ph, g.k, p.cols, images)
        scratch = [Scratch("z", f32, (m * m, g.k, columns))]
        scratch += self.own_scratch(plan, m, columns)
        if plan.relu or plan.pool:
            scratch.append(Scratch("won", DType.BOOL, results))
        if plan.pool:
            scratch.append(Scratch("d", f32, results))
            scratch.append(Scratch("which", DType.U8, results))
        if plan.bias:
            scratch.append(Scratch("db", f32, (2, g.k)))
        if plan.dw:
            scratch.append(Scratch("windows", f32, (*p.window_dims, images)))
            scratch.append(Scratch("dw", f32, (2, g.depth, g.k)))
        if plan.dx:
            scratch.append(Scratch("back", f32, (p.kh * p.kw, g.c, columns)))
        return tuple(scratch)

    def cost(self, kernel: Kernel, plan: BackwardPlan, m: int) -> Cost:
        """The gradient dz, then the products and the pixels of each row of tiles."""
        g, size = plan.tiles, kernel.integer("m")
        p, split = tiles_of(g, size), size // g.pw
        columns, taps = p.cols * m, g.ph * g.pw
        some = size // g.ph * g.k * columns
        row = passes(some, 3, split * (1 + bool(plan.relu) + bool(plan.bias)))
        if plan.bias:
            row += passes(g.k, 3, split)
        if plan.pool:
            row += passes(some, 0.5, split * (1 + taps))
            row += passes(some, 2.25, split * taps)
        row += self.row_cost(plan, size, columns)
        if plan.dx:
            row += passes(p.kh * g.c * columns, 3, p.kw)
        cost = windows_cost(g, size, m) if plan.dw else Cost()
        return cost + repeated(row, p.rows)

    def emit(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Write the body of the kernel's function up to the sums of all workers."""
        g, m = plan.tiles, kernel.integer("m")
        p = tiles_of(g, m)
        self._emit_operands(w, kernel, plan)
        w(f"for i, m in pieces(*share(n, t), {kernel.integer('images')}):")
        w.depth += 1
        w(f"z = {kernel.private('z', m * m, g.k, p.cols, 'm')}")
        if p.cols * m > g.width:
            w.steps("z.fill(0)  # for tiles that reach beyond the outputs")
        if plan.dw:
            emit_windows(w, kernel, p)
        if plan.dx:
            w.steps("dx[..., i : i + m].fill(0)")
        w(f"for first, r in pieces(0, {g.rows}, {m // g.ph}):")
        w.depth += 1
        _emit_gradient(w, kernel, plan, m)
        if plan.dx:
            w(f"back = {kernel.private('back', p.kh * p.kw, g.c, f'{p.cols} * m')}")
        self.emit_row(w, kernel, plan)
        if plan.dx:
            w("here = dx[..., i : i + m]")
            w(f"back = back.reshape(1, 1, {p.kh}, {p.kw}, {g.c}, 1, {p.cols}, m)")
            step = g.ph * g.stride_h
            top = f"{g.top} - {step} * first" if step > 1 else f"{g.top} - first"
            edges = f"{top}, {g.left}, {p.stride_w}, 1"
            w.steps(f"fold_windows(*shifts(here, back, {edges}))")
        w.depth -= 2
        if plan.dw:
            w(f"dw = {kernel.private('dw', 2, g.kh * g.kw, g.c // g.groups * g.k)}[0]")
            self.emit_taps(w, kernel, plan)

    def _emit_operands(self, w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
        """Bind what is read and written, and begin the sums."""
        emit_gradients_given(w, kernel, plan)
        if plan.dw:
            w(f"x = {kernel.mem(plan.dw.operands[0])}")
        if plan.dx:
            w(f"dx = {kernel.mem(plan.dx.result)}")
        self.emit_filters(w, kernel, plan)
        if plan.bias:
            w(f"db, tile_db = {kernel.private('db')}")
            w.steps("db.fill(0)")


def _emit_gradient(w: Writer, kernel: Kernel, plan: BackwardPlan, m: int) -> None:
    """The gradient dz of a row of tiles, in z: [row of the tile, column, ...]."""
    g = plan.tiles
    p, rows, split = tiles_of(g, m), m // g.ph, m // g.pw
    dims = (rows, g.k, p.cols, "m")
    w("# z: the gradient of the convolution's own results, a row of tiles")
    if g.rows % rows:
        w(f"if r < {rows}:")
        w.steps("    z.fill(0)")
    columns = f"e::{split}" if split > 1 else ":"
    columns = f"[first : first + r, {columns}, :, i : i + m]"
    here = f"{columns}.transpose(0, 2, 1, 3)"
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
        w(f"which = {kernel.private('which', *dims)}[part]")
        w(f"place = index{columns}")
        w("place = place.transpose(0, 2, 1, 3)")
        w.steps("copyto(which, place)")
        w(f"for k, (q, s) in enumerate(np.ndindex({g.ph}, {g.pw})):  # one has won")
        w("    tap = taps[:, q, e, s, :, : given.shape[2]]")
        w.steps("    equal(which, np.uint8(k), out=won)")
        w.steps("    multiply(d, won, out=tap)")
    w.depth -= split > 1
