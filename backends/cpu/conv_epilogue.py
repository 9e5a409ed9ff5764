"""What follows a convolution in its kernel, on a tile that is still in the cache.

Every algorithm leaves a tile of products and binds its names: ``taps``, the elements
of each pool window, or ``best`` where nothing is pooled. From there on they agree.
"""

from dataclasses import dataclass

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.activation import activate
from convc.backends.cpu.conv_plan import ConvPlan
from convc.backends.cpu.cost import passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import LINE, Writer, wrapped
from convc.ir.types import DType


@dataclass(frozen=True)
class Block:
    """Results that one epilogue makes: ``dims`` are [rows, filters, columns, images].

    ``split`` > 1 says that neighbouring columns have an axis of their own, [rows,
    split, filters, tiles, images]: column e + split * j is [:, e, :, j]. ``by_pixel``
    says that filters come after columns, as they are stored, and ``here`` that the
    products already lie where the results belong. ``by_filter`` says that a block is of
    ``r`` filters of all pixels, from ``first`` on: [rows, columns, filters, images].
    """

    dims: tuple[object, ...]
    split: int = 1
    by_pixel: bool = False
    here: bool = False
    by_filter: bool = False

    @property
    def place(self) -> str:
        """Source for the part of a stored array that the block is."""
        if self.by_filter:
            return "[:, :, first : first + r, i : i + m]"
        columns = f"e::{self.split}" if self.split > 1 else ":"
        part = f"[first : first + r, {columns}, :, i : i + m]"
        return part if self.by_pixel else part + ".transpose(0, 2, 1, 3)"

    @property
    def bias(self) -> str:
        """Source for the biases of a block's filters."""
        return "b[first : first + r]" if self.by_filter else "b"

    @property
    def part(self) -> str:
        """Source for the part of a scratch array that a block of ``r`` rows takes."""
        return "" if self.by_filter else "[:r]"


def epilogue_scratch(plan: ConvPlan, dims: tuple[int, ...]) -> list[Scratch]:
    """With a pool the running maximum and its index, of the size of a block."""
    found = []
    if plan.pool:
        found.append(Scratch("best", DType.F32, dims))
    if plan.argmax:
        found.append(Scratch("which", DType.U8, dims))
        found.append(Scratch("won", DType.BOOL, dims))
    return found


def emit_operands(w: Writer, kernel: Kernel, plan: ConvPlan, block: Block) -> None:
    """Bind what every epilogue reads and writes: b, other, y and index."""
    if plan.bias:
        apart = block.by_pixel or block.by_filter
        axes = "[:, None]" if apart else "[:, None, None]"
        w(f"b = {kernel.mem(plan.bias.operands[1])}{axes}")
    if plan.other:
        w(f"other = {kernel.mem(plan.other)}")
    w(f"y = {kernel.mem(plan.last)}")
    if plan.argmax:
        w(f"index = {kernel.mem(plan.argmax.result)}")


def emit_epilogue(w: Writer, kernel: Kernel, plan: ConvPlan, block: Block) -> None:
    """Pool ``taps`` into ``best``, add what is to be added, activate, and store."""
    if plan.pool:
        w(f"best = {kernel.private('best', *block.dims)}{block.part}")
    if plan.argmax:
        w(f"which = {kernel.private('which', *block.dims)}{block.part}")
        w(f"won = {kernel.private('won', *block.dims)}{block.part}")
        w.steps("pool_argmax(taps, best, which, won)")
    elif plan.pool:
        w.steps("pool(taps, best)")
    if plan.bias and (plan.add or plan.activation):
        w.steps(f"add(best, {block.bias}, out=best)")
    best, which = "best", "which"
    if block.split > 1:
        w(f"for e in range({block.split}):")
        w.depth += 1
        best, which = (f"{n}[:, e, :, : out.shape[2]]" for n in (best, which))
    w(f"out = y{block.place}")
    if plan.argmax:
        w(*wrapped(f"place = index{block.place}", LINE - 4 * w.depth))
        w.steps(f"copyto(place, {which})")
    _emit_results(w, plan, block, best)
    w.depth -= block.split > 1


def _emit_results(w: Writer, plan: ConvPlan, block: Block, best: str) -> None:
    """The last op makes the results in their place."""
    if plan.add:
        w(f"more = other{block.place}")
        w.steps(f"add({best}, more, out={best if plan.activation else 'out'})")
    if plan.activation:
        w.steps(*activate(plan.activation, best, "out", work=best))
    elif plan.bias and not plan.add:
        w.steps(f"add({best}, {block.bias}, out=out)")
    elif not plan.add and not block.here:
        w.steps(f"copyto(out, {best})")


def epilogue_cost(
    plan: ConvPlan, elements: float, times: float, split: int = 1
) -> Cost:
    """``times`` epilogues that make ``elements`` results each."""
    taps = plan.tiles.ph * plan.tiles.pw
    cost = passes(elements / split, 2, times * split)
    if plan.pool:
        cost += passes(elements, 3, times * (taps - 1))
    if plan.argmax:
        cost += passes(elements, 2.5, times * (taps - 1) * 2)
    if plan.bias and (plan.add or plan.activation):
        cost += passes(elements, 2, times)
    if plan.add:
        cost += passes(elements / split, 3, times * split)
    return cost
