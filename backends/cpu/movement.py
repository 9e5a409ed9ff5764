"""Emits ops that move elements, and constants."""

from convc.backends.base import Scratch
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel, single
from convc.backends.source import Writer
from convc.ir.graph import Attrs, Node
from convc.ir.ops.base import ints

OPS = ("transpose", "concat", "slice", "pad", "constant")


class Movement(Emitter):
    """transpose, concat, slice, pad: strided copies; constant: written once."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return len(kernel.ops) == 1 and kernel.ops[0].op in OPS

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """Whole arrays."""
        return [{"algorithm": "copy"}]

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """None."""
        return ()

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        node = single(kernel)
        w("if t:", "    return")
        w(f"y = {kernel.mem(node.result)}")
        getattr(self, f"_{node.op}")(w, kernel, node)

    def _constant(self, w: Writer, kernel: Kernel, node: Node) -> None:
        w.steps(f"y.fill({node.attrs['value']!r})")

    def _transpose(self, w: Writer, kernel: Kernel, node: Node) -> None:
        source, target = kernel.type(node.operands[0]), kernel.type(node.result)
        perm = ints(node.attrs["perm"])
        axes = [source.order.index(perm[a]) for a in target.order]
        w(f"x = {kernel.mem(node.operands[0])}.transpose({', '.join(map(str, axes))})")
        self._copy(w)

    def _slice(self, w: Writer, kernel: Kernel, node: Node) -> None:
        axis, start, size = (ints(node.attrs[k])[0] for k in ("axis", "start", "size"))
        at = kernel.type(node.result).order.index(axis)
        where = [":"] * at + [f"{start} : {start + size}"]
        w(f"x = {kernel.mem(node.operands[0])}[{', '.join(where)}]")
        self._copy(w)

    def _pad(self, w: Writer, kernel: Kernel, node: Node) -> None:
        pads, stored = ints(node.attrs["pads"]), kernel.type(node.operands[0])
        where = []
        for axis in stored.order:
            size = stored.shape[axis]
            before = pads[2 * axis]
            where.append(
                ":" if isinstance(size, str) else f"{before} : {before + size}"
            )
        w(f"x = {kernel.mem(node.operands[0])}", f"inside = y[{', '.join(where)}]")
        w.steps("y.fill(0)", "copyto(inside, x)")

    def _concat(self, w: Writer, kernel: Kernel, node: Node) -> None:
        axis, start = ints(node.attrs["axis"])[0], 0
        at = kernel.type(node.result).order.index(axis)
        for operand in node.operands:
            stop = start + operand.type.bind(1)[axis]
            where = ", ".join([":"] * at + [f"{start} : {stop}"])
            w.steps(f"copyto(y[{where}], {kernel.mem(operand)})")
            start = stop

    def _copy(self, w: Writer) -> None:
        w.steps("copyto(y, x)")
