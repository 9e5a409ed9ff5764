"""Emits softmax, its logarithm, the cross-entropy and its gradient."""

from convc.backends.base import Scratch
from convc.backends.cpu.kernel import Kernel, Writer, single
from convc.ir.graph import Attrs, Node
from convc.ir.types import DType

OPS = ("softmax", "log_softmax", "softmax_cross_entropy", "softmax_cross_entropy_grad")


class Loss:
    """Ops that normalize over the classes; the classes are few, so one worker runs."""

    requires = "prelude_share"

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return len(kernel.ops) == 1 and kernel.ops[0].op in OPS

    def schedule(self, kernel: Kernel, batch: int) -> Attrs:
        """Whole arrays."""
        return {"algorithm": "softmax", "batch": batch}

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """Shifted logits, their exponentials, one-hot labels, and a row of sums."""
        node, batch = single(kernel), kernel.integer("batch")
        x = node.operands[0].type
        size = x.elements(batch)
        row = (size // x.inner[-1],)
        return (
            Scratch("shifted", x.dtype, (size,)),
            Scratch("powers", x.dtype, (size,)),
            Scratch("onehot", DType.BOOL, (size,)),
            Scratch("row", x.dtype, row),
        )

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        node = single(kernel)
        x = node.operands[0]
        stored, dims = kernel.type(x), kernel.dims(x)
        axis = stored.order.index(stored.rank - 1)
        w("if t:", "    return ()")
        w(f"x = {kernel.mem(x)}", f"y = {kernel.mem(node.result)}")
        w(f"shifted = {kernel.private('shifted', *dims)}")
        w(f"powers = {kernel.private('powers', *dims)}")
        wide = ["1" if i == axis else d for i, d in enumerate(dims)]
        w(f"row = {kernel.private('row', *wide)}")
        if len(node.operands) > 1:
            w(f"labels = {kernel.mem(node.operands[1])}")
            w(f"onehot = {kernel.private('onehot', *dims)}")
            classes = f"np.arange({stored.inner[-1]}, dtype=np.int32)"
            w(f"classes = {classes}[:, None]")
        if node.op == "softmax_cross_entropy_grad":
            w(f"dy = {kernel.mem(node.operands[2])}")
        w("", "def run():")
        w.depth += 1
        w(f"np.maximum.reduce(x, axis={axis}, out=row, keepdims=True)")
        w("subtract(x, row, out=shifted)", "np.exp(shifted, out=powers)")
        w(f"np.add.reduce(powers, axis={axis}, out=row, keepdims=True)")
        getattr(self, f"_{node.op}")(w, node)
        w.depth -= 1
        w("", "return (run,)")

    def _softmax(self, w: Writer, node: Node) -> None:
        w("np.divide(powers, row, out=y)")

    def _log_softmax(self, w: Writer, node: Node) -> None:
        w("np.log(row, out=row)", "subtract(shifted, row, out=y)")

    def _softmax_cross_entropy(self, w: Writer, node: Node) -> None:
        w("equal(classes, labels, out=onehot)")
        w("multiply(shifted, onehot, out=shifted)")
        w("np.add.reduce(shifted, axis=0, out=y)")
        w("np.log(row, out=row)", "subtract(row[0], y, out=y)")

    def _softmax_cross_entropy_grad(self, w: Writer, node: Node) -> None:
        w("np.divide(powers, row, out=powers)")
        w("equal(classes, labels, out=onehot)")
        w("subtract(powers, onehot, out=powers)", "multiply(powers, dy, out=y)")
