"""Emits dropout masks: Philox 4x32-10 in whole-array integer arithmetic."""

from math import prod

from convc.backends.base import Scratch
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel, Writer, single
from convc.ir import philox
from convc.ir.graph import Attrs
from convc.ir.ops.base import number
from convc.ir.types import DType


class Dropout(Emitter):
    """dropout_mask; each worker draws the elements of its images."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return len(kernel.ops) == 1 and kernel.ops[0].op == "dropout_mask"

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """All blocks of four words at once."""
        return [{"algorithm": "philox4x32", "batch": batch}]

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """Four counter words, two products and the words drawn, for all elements."""
        node, batch = single(kernel), kernel.integer("batch")
        mask = node.result.type
        items, each = (
            (batch, prod(mask.inner)) if mask.batched else (prod(mask.inner), 1)
        )
        blocks = -(-items // kernel.threads) * each // 4 + 2
        return (Scratch("lanes", DType.I64, (6 * blocks,)),)

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        node = single(kernel)
        stored = kernel.type(node.result)
        each = prod(stored.inner) if stored.batched else 1
        total = "n" if stored.batched else str(prod(stored.inner))
        seed, step = node.operands
        w(f"seed, step = {kernel.mem(seed)}, {kernel.mem(step)}")
        w(f"lo, hi = (i * {each} for i in share({total}, t))")
        w("blocks = (hi + 3) // 4 - lo // 4")
        w(f"lanes = {kernel.private('lanes', 6, 'blocks')}.view(np.uint64)")
        w("first = np.arange(lo // 4, lo // 4 + blocks, dtype=np.uint64)")
        dims = ["-1", *(str(d) for d in stored.inner)] if stored.batched else ["-1"]
        mask = kernel.mem(node.result)
        if stored.batched:
            last = [stored.order.index(a) for a in range(stored.rank)]
            axes = ", ".join(map(str, last))
            w(f"mask = {mask}.transpose({axes})[lo // {each} : hi // {each}]")
        else:
            size = prod(stored.inner)
            w(f"mask = {kernel.mem(node.result, size)}[lo:hi]")
        threshold = philox.keep_threshold(number(node.attrs["keep"]))
        w("flags = lanes[4].view(np.bool_)  # philox is done with this lane by then")
        w("drawn = flags[: 4 * blocks].reshape(blocks, 4).T")
        w(f"kept = flags[lo % 4 : lo % 4 + hi - lo].reshape({', '.join(dims)})")
        w.steps(
            f"philox(lanes, first, {node.attrs['stream']}, seed, step)",
            f"np.less(lanes[:4], np.uint64({threshold}), out=drawn)",
            "copyto(mask, kept)",
        )
