"""Emits softmax, and the cross-entropy with its gradient and the count of hits."""

from convc.backends.base import Scratch
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel, single
from convc.backends.source import Writer
from convc.ir.graph import Attrs, Node, Value
from convc.ir.types import DType

LINES: dict[str, list[str]] = {
    "softmax_cross_entropy": [
        "multiply(shifted, hot, out=picked)",
        "np.add.reduce(picked, axis=0, out={o})",
        "np.log(norm, out=logs)",
        "subtract(logs[0], {o}, out={o})",
    ],
    "softmax_cross_entropy_grad": [
        "np.divide(powers, norm, out=picked)",
        "subtract(picked, hot, out=picked)",
        "multiply(picked, {z}, out={o})",
    ],
    "reduce_mean": [
        "np.add.reduce({x}, axis=0, out={o})",
        "np.divide({o}, count, out={o})",
    ],
    "reduce_sum": ["np.add.reduce({x}, axis=0, out={o})"],
    "reduce_mean_grad": ["np.divide({x}, count, out={o})"],
    "argmax": [
        "np.argmax({x}, axis=0, out=which)",
        "copyto({o}, which, casting='unsafe')",
    ],
    "equal": ["equal({x}, {y}, out={o})"],
    "cast": ["copyto({o}, {x}, casting='unsafe')"],
}
"""The calls of each op on operands x, y, z and result o."""

CROSS_ENTROPY = ("softmax_cross_entropy", "softmax_cross_entropy_grad")


class Loss(Emitter):
    """softmax_cross_entropy or its gradient, with ops on one number per image.

    The classes are few, so one worker runs it all; softmax is computed once.
    """

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return any(kernel.find(op) for op in CROSS_ENTROPY)

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """Whole arrays."""
        self._logits(kernel)
        return [{"algorithm": "softmax", "batch": batch}]

    def _logits(self, kernel: Kernel) -> tuple[Value, Value]:
        """Logits and labels, which all cross-entropy ops of the kernel must share."""
        found = [n for n in kernel.ops if n.op in CROSS_ENTROPY]
        logits, labels = found[0].operands[:2]
        unknown = [n.op for n in kernel.ops if n.op not in LINES]
        shared = all(n.operands[:2] == (logits, labels) for n in found)
        given = {logits, labels} <= set(kernel.region.inputs)
        if unknown or not shared or not given:
            raise kernel.refusal(
                "all must belong to one loss, whose logits and labels are operands"
            )
        return logits, labels

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """Softmax's parts, one-hot labels, and the values that stay inside."""
        logits, _ = self._logits(kernel)
        batch, x = kernel.integer("batch"), logits.type
        size, row = (x.elements(batch),), (batch,)
        scratch = [Scratch("planes", x.dtype, (3, *size))]
        scratch.append(Scratch("sums", x.dtype, (2, *row)))
        scratch.append(Scratch("hot", DType.BOOL, size))
        if kernel.find("argmax"):
            scratch.append(Scratch("which", DType.I64, row))
        for value in self._inside(kernel):
            size = (value.type.elements(batch),)
            scratch.append(Scratch(f"v_{value.name}", value.type.dtype, size))
        return tuple(scratch)

    def _inside(self, kernel: Kernel) -> list[Value]:
        return [n.result for n in kernel.ops if kernel.outer(n.result) is None]

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        logits, labels = self._logits(kernel)
        classes = logits.type.inner[-1]
        w("if t:", "    return")
        names: dict[str, str] = {}
        for value in (*kernel.region.inputs, *kernel.region.yields):
            names[value.name] = f"v_{value.name}"
            names[value.name] = {logits: "x", labels: "labels"}.get(
                value, names[value.name]
            )
            w(f"{names[value.name]} = {kernel.mem(value)}")
        for value in self._inside(kernel):
            dims = ["n"] if value.type.rank else [""]
            names[value.name] = f"v_{value.name}"
            w(f"v_{value.name} = {kernel.private(f'v_{value.name}', *dims)}")
        w(f"shifted, powers, picked = {kernel.private('planes', 3, classes, 'n')}")
        w(f"norm, logs = {kernel.private('sums', 2, 1, 'n')}")
        w(f"hot = {kernel.private('hot', classes, 'n')}")
        if kernel.find("argmax"):
            w(f"which = {kernel.private('which', 'n')}")
        w(f"classes = np.arange({classes}, dtype=np.int32)[:, None]")
        w(f"count = np.{logits.type.dtype.numpy.name}(n)")
        w.steps(
            "np.maximum.reduce(x, axis=0, out=norm, keepdims=True)",
            "subtract(x, norm, out=shifted)",
            "np.exp(shifted, out=powers)",
            "np.add.reduce(powers, axis=0, out=norm, keepdims=True)",
            "equal(classes, labels, out=hot)",
        )
        for node in kernel.ops:
            self._emit_op(w, kernel, node, names)

    def _emit_op(
        self, w: Writer, kernel: Kernel, node: Node, names: dict[str, str]
    ) -> None:
        known = {"o": names[node.result.name]}
        for letter, value in zip("xyz", node.operands, strict=False):
            known[letter] = names.get(value.name) or kernel.mem(value)
        w.steps(*(line.format(**known).replace("'", '"') for line in LINES[node.op]))


class Softmax(Emitter):
    """softmax or log_softmax along the last axis; one worker runs it."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return kernel.ops[0].op in ("softmax", "log_softmax")

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """Whole arrays."""
        return [{"algorithm": "softmax", "batch": batch}]

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """Exponentials and their sums."""
        x, batch = single(kernel).operands[0].type, kernel.integer("batch")
        size = x.elements(batch)
        return (
            Scratch("powers", x.dtype, (size,)),
            Scratch("norm", x.dtype, (size // x.bind(1)[-1],)),
        )

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        node = single(kernel)
        x = node.operands[0]
        stored, dims = kernel.type(x), kernel.dims(x)
        axis = stored.order.index(stored.rank - 1)
        w("if t:", "    return")
        w(f"x = {kernel.mem(x)}", f"y = {kernel.mem(node.result)}")
        w(f"powers = {kernel.private('powers', *dims)}")
        wide = ["1" if i == axis else d for i, d in enumerate(dims)]
        w(f"norm = {kernel.private('norm', *wide)}")
        w.steps(
            f"np.maximum.reduce(x, axis={axis}, out=norm, keepdims=True)",
            "subtract(x, norm, out=y)",
            "np.exp(y, out=powers)",
            f"np.add.reduce(powers, axis={axis}, out=norm, keepdims=True)",
        )
        if node.op == "softmax":
            w.steps("np.divide(powers, norm, out=y)")
        else:
            w.steps("np.log(norm, out=norm)", "subtract(y, norm, out=y)")
