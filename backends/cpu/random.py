"""Emits dropout masks: Philox 4x32-10 in integer arithmetic, a piece at a time."""

from math import prod

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.cost import passes, streamed
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel, single
from convc.backends.source import Writer
from convc.ir import philox
from convc.ir.graph import Attrs
from convc.ir.ops.base import number
from convc.ir.ops.random import MASKS
from convc.ir.types import DType

PIECE = 64 * 1024
"""Elements per draw: their counters fit a core's second-level cache."""

ROUNDS = 10
CALLS = 10
"""Of a round, on two or three arrays each."""


class Dropout(Emitter):
    """A mask; each worker draws the elements of its images, some at a time."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return len(kernel.ops) == 1 and kernel.ops[0].op in MASKS

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """As many images at a time (elements, without a batch) as fit a piece."""
        items, each = self._items(kernel, batch)
        piece = min(-(-items // kernel.threads), max(1, PIECE // each))
        return [{"algorithm": "philox4x32", "piece": piece}]

    def _items(self, kernel: Kernel, batch: int) -> tuple[int, int]:
        """What the workers share, and the elements of one."""
        mask = single(kernel).result.type
        return (batch, prod(mask.inner)) if mask.batched else (prod(mask.inner), 1)

    def cost(self, kernel: Kernel, batch: int) -> Cost:
        """Ten calls a round on the counters of one piece after the other."""
        items, each = self._items(kernel, batch)
        words = kernel.integer("piece") * each / 4 * 2  # a counter is two f32 long
        draws = items / kernel.threads / kernel.integer("piece")
        rounds = passes(words, 2.5, ROUNDS * CALLS * draws, resident=6 * 4 * words)
        return streamed(kernel, batch) + rounds

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """Four counter words, two products and the words drawn, for a piece."""
        _, each = self._items(kernel, 1)
        blocks = kernel.integer("piece") * each // 4 + 2
        return (Scratch("lanes", DType.I64, (6 * blocks,)),)

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        node = single(kernel)
        stored = kernel.type(node.result)
        _, each = self._items(kernel, 1)
        total = "n" if stored.batched else str(prod(stored.inner))
        seed, step, *keep = node.operands
        w(f"seed, step = {kernel.mem(seed)}, {kernel.mem(step)}")
        if stored.batched:
            axes = ", ".join(str(stored.order.index(a)) for a in range(stored.rank))
            w(f"mask = {kernel.mem(node.result)}.transpose({axes})")
        else:
            w(f"mask = {kernel.mem(node.result, prod(stored.inner))}")
        w(f"for i, m in pieces(*share({total}, t), {kernel.integer('piece')}):")
        w.depth += 1
        w(
            "lo, hi = i, i + m"
            if each == 1
            else f"lo, hi = i * {each}, (i + m) * {each}"
        )
        w("first = np.arange(lo // 4, (hi + 3) // 4, dtype=np.uint64)")
        w(f"lanes = {kernel.private('lanes', 6, 'len(first)')}.view(np.uint64)")
        w("flags = lanes[4].view(np.bool_)  # philox is done with this lane by then")
        w("drawn = flags[: 4 * len(first)].reshape(-1, 4).T")
        dims = ["m", *map(str, stored.inner)] if stored.batched else ["m"]
        w(f"kept = flags[lo % 4 : lo % 4 + hi - lo].reshape({', '.join(dims)})")
        w.steps(f"philox(lanes, first, {node.attrs['stream']}, seed, step)")
        if keep:
            w("limit = lanes[5, :1]  # and with this one")
            w.steps(f"keep_limit({kernel.mem(keep[0])}, out=limit)")
            limit = "limit"
        else:
            threshold = philox.keep_threshold(number(node.attrs["keep"]))
            limit = f"np.uint64({threshold})"
        w.steps(
            f"np.less(lanes[:4], {limit}, out=drawn)", "copyto(mask[i : i + m], kept)"
        )
        w.depth -= 1
