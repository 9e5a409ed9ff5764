"""Emits arithmetic on parameters alone: ops on a few numbers, one after the other."""

from convc.backends.base import Scratch
from convc.backends.cpu.elementwise import LINES, TEMPORARY, spans_first
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs, Node, Value


class Weights(Emitter):
    """Several elementwise ops on tensors without a batch.

    What is passed on inside is made by every worker for itself; of a result each makes
    its share of the first axis. One worker makes all where a result is a single number
    or is read inside.
    """

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return len(kernel.ops) > 1 and all(
            n.op in LINES and n.op not in TEMPORARY and not n.result.type.batched
            for n in kernel.ops
        )

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """One call or a few per op."""
        return [{"algorithm": "op_by_op"}]

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """Every value that has no memory of its own."""
        return tuple(
            Scratch(f"v{i}", n.result.type.dtype, n.result.type.bind(1) or (1,))
            for i, n in enumerate(kernel.ops)
            if kernel.outer(n.result) is None
        )

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        alone = self._alone(kernel)
        if alone:
            w("if t:", "    return")
        for node in kernel.ops:
            shared = not alone and kernel.outer(node.result) is not None
            part = "[rows]" if shared else ""
            if shared:
                w(f"rows = slice(*share({node.result.type.shape[0]}, t))")
            for name, value in zip("xyz", node.operands, strict=False):
                spans = shared and spans_first(value.type, node.result.type)
                w(f"{name} = {self._place(kernel, value)}{part * spans}")
            w(f"o = {self._place(kernel, node.result)}{part}")
            w.steps(*LINES[node.op](node))

    def _alone(self, kernel: Kernel) -> bool:
        read = {v.name for n in kernel.ops for v in n.operands}
        return any(
            not value.type.rank or value.name in read for value in kernel.region.yields
        )

    def _place(self, kernel: Kernel, value: Value) -> str:
        if kernel.outer(value) is not None or kernel.constant(value) is not None:
            return kernel.mem(value)
        number = self._number(kernel.ops, value)
        whole = kernel.private(f"v{number}")
        return whole if value.type.rank else f"{whole}.reshape(())"

    def _number(self, nodes: tuple[Node, ...], value: Value) -> int:
        return next(i for i, n in enumerate(nodes) if n.result == value)
