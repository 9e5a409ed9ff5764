"""Emits matrix products, with bias, ReLU and dropout applied to the rows just made."""

from convc.backends.base import Scratch
from convc.backends.cpu.kernel import Kernel, Writer, scalar
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Node, Value
from convc.ir.types import TensorType

EPILOGUE = ("bias_add", "relu", "apply_mask")
"""Ops that may follow a product in its kernel, in this order."""


class Dense:
    """matmul [+ bias_add] [+ relu] [+ apply_mask]; workers share the result's rows."""

    requires = "prelude_share"

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return kernel.find("matmul") is not None

    def schedule(self, kernel: Kernel, batch: int) -> Attrs:
        """One product per worker."""
        self._chain(kernel)
        return {"algorithm": "gemm_rows"}

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """None: the result is the workspace."""
        return ()

    def _chain(self, kernel: Kernel) -> list[Node]:
        chain = [n for n in map(kernel.find, ("matmul", *EPILOGUE)) if n]
        value: Value | None = None
        for node in chain:
            if value is not None and node.operands[0] != value:
                break
            value = node.result
        else:
            batched = len(chain) == 1 or chain[0].result.type.batched
            if len(chain) == len(kernel.ops) and batched:
                return chain
        ops = ", ".join(n.op for n in kernel.ops)
        raise CompileError(
            f"kernel {kernel.node.attrs['name']} at {kernel.where()}: the numpy backend "
            f"cannot run {ops} as one product; only {', '.join(EPILOGUE)} may follow a "
            "product with a batch, in this order; split the kernel"
        )

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        chain = self._chain(kernel)
        product, by_op = chain[0], {n.op: n for n in chain}
        a, b = product.operands
        left = self._logical(kernel, a, bool(product.attrs["transpose_a"]))
        right = self._logical(kernel, b, bool(product.attrs["transpose_b"]))
        result = product.result.type
        rows = result.shape[1] if result.batched else result.shape[0]
        if result.batched:
            left, right = self._turned(right), self._turned(left)
        w(f"rows = slice(*share({rows}, t))")
        w(f"a = {left}[rows]", f"b = {right}")
        w(f"y = {kernel.mem(chain[-1].result)}[rows]")
        if "bias_add" in by_op:
            w(f"bias = {kernel.mem(by_op['bias_add'].operands[1])}[rows, None]")
        if "apply_mask" in by_op:
            mask = by_op["apply_mask"]
            w(f"mask = {kernel.mem(mask.operands[1])}[rows]")
            w(f"scale = {scalar(mask.attrs['scale'], result.dtype)}")
        w("", "def run():")
        w.depth += 1
        w("matmul(a, b, out=y)")
        if "bias_add" in by_op:
            w("add(y, bias, out=y)")
        if "relu" in by_op:
            w("maximum(y, ZERO, out=y)")
        if "apply_mask" in by_op:
            w("multiply(y, scale, out=y)", "multiply(y, mask, out=y)")
        w.depth -= 1
        w("", "return (run,)")

    def _logical(self, kernel: Kernel, value: Value, transpose: bool) -> str:
        source = kernel.mem(value)
        return source + ".T" if transpose != stored_turned(kernel.type(value)) else source

    def _turned(self, source: str) -> str:
        return source.removesuffix(".T") if source.endswith(".T") else source + ".T"


def stored_turned(tensor: TensorType) -> bool:
    """Whether a matrix is stored column by column."""
    return tensor.order == (1, 0)
