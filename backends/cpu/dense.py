"""Emits matrix products with what follows them, applied to the rows just made."""

from convc.backends.base import Scratch
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel, Writer, scalar
from convc.ir.graph import Attrs, Node, Value
from convc.ir.types import DType, TensorType

EPILOGUE = {"bias_add": 0, "relu": 0, "apply_mask": 0, "relu_grad": 1}
"""Ops that may follow a product in its kernel, with the operand that is handed on."""


class Dense(Emitter):
    """Products, each matmul [+ bias_add] [+ relu] [+ apply_mask] [+ relu_grad].

    A filter gradient matmul(x, dy) may bring the bias gradient reduce_sum(dy) along.
    Workers share the rows of each result.
    """

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return kernel.find("matmul") is not None

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """One product per worker."""
        self._chains(kernel)
        return [{"algorithm": "gemm_rows", "batch": batch}]

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """None but the decisions of a relu_grad: the result is the workspace."""
        gate = kernel.find("relu_grad")
        if gate is None:
            return ()
        rows = -(-gate.result.type.inner[0] // kernel.threads)
        return (Scratch("won", DType.BOOL, (rows, kernel.integer("batch"))),)

    def _chains(self, kernel: Kernel) -> list[list[Node]]:
        """Each product with what follows it, in order; checks that nothing else is."""
        chains = []
        for product in (n for n in kernel.ops if n.op == "matmul"):
            chain = [product]
            for node in kernel.ops:
                handed_on = EPILOGUE.get(node.op)
                if handed_on is None or not product.result.type.batched:
                    continue
                if node.operands[handed_on] == chain[-1].result:
                    chain.append(node)
            chains.append(chain)
        sums = [n for c in chains if (n := self._bias_gradient(kernel, c[0]))]
        if sum(map(len, chains)) + len(sums) == len(kernel.ops):
            return chains
        allowed = ", ".join(EPILOGUE)
        raise kernel.refusal(f"only {allowed} may follow a product with a batch")

    def _bias_gradient(self, kernel: Kernel, product: Node) -> Node | None:
        """The reduce_sum of a filter gradient's dy, if the kernel has it."""
        node, attrs = kernel.find("reduce_sum"), product.attrs
        if node is None or not attrs["transpose_a"] or attrs["transpose_b"]:
            return None
        shared = node.operands[0] == product.operands[1]
        return node if shared and node.attrs["axes"] == (0,) else None

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        for chain in self._chains(kernel):
            self._emit_chain(w, kernel, chain)

    def _emit_chain(self, w: Writer, kernel: Kernel, chain: list[Node]) -> None:
        product = chain[0]
        a, b = product.operands
        left = self._logical(kernel, a, bool(product.attrs["transpose_a"]))
        right = self._logical(kernel, b, bool(product.attrs["transpose_b"]))
        result = product.result.type
        rows = result.shape[1] if result.batched else result.shape[0]
        if result.batched:
            left, right = _turned(right), _turned(left)
        w(f"rows = slice(*share({rows}, t))")
        w(f"a = {left}[rows]", f"b = {right}")
        names = self._bind_results(w, kernel, chain)
        lines = [f"matmul(a, b, out={names[0]})"]
        for i, node in enumerate(chain[1:], 1):
            lines += self._follow(w, kernel, node, names[i - 1], names[i])
        bias = self._bias_gradient(kernel, product)
        if bias is not None:
            dy = kernel.dims(bias.operands[0])
            w(f"part = slice(*share({dy[0]}, t))")
            w(f"db = {kernel.mem(bias.result)}[part]")
            lines.append("np.add.reduce(b.T[part], axis=1, out=db)")
        w.steps(*lines)

    def _bind_results(self, w: Writer, kernel: Kernel, chain: list[Node]) -> list[str]:
        """Bind the memory of every result; the name of what each op writes.

        An op writes its own memory, or that of the next value which has some.
        """
        names, current = [], ""
        for node in reversed(chain):
            if kernel.outer(node.result) is not None:
                current = {"matmul": "z", "apply_mask": "masked"}.get(node.op, node.op)
                current = "y" if node is chain[-1] else current
                w(f"{current} = {kernel.mem(node.result)}[rows]")
            names.append(current)
        return names[::-1]

    def _follow(
        self, w: Writer, kernel: Kernel, node: Node, source: str, target: str
    ) -> list[str]:
        if node.op == "bias_add":
            w(f"bias = {kernel.mem(node.operands[1])}[rows, None]")
            return [f"add({source}, bias, out={target})"]
        if node.op == "relu":
            return [f"maximum({source}, ZERO, out={target})"]
        if node.op == "apply_mask":
            w(f"mask = {kernel.mem(node.operands[1])}[rows]")
            scale = scalar(node.attrs["scale"], node.result.type.dtype)
            return [
                f"multiply({source}, mask, out={target})",
                f"multiply({target}, {scale}, out={target})",
            ]
        w(f"active = {kernel.mem(node.operands[0])}[rows]")
        w(f"won = {kernel.private('won', 'len(active)', 'n')}")
        return [
            "greater(active, ZERO, out=won)",
            f"multiply({source}, won, out={target})",
        ]

    def _logical(self, kernel: Kernel, value: Value, transpose: bool) -> str:
        source = kernel.mem(value)
        return (
            source + ".T" if transpose != stored_turned(kernel.type(value)) else source
        )


def _turned(source: str) -> str:
    return source.removesuffix(".T") if source.endswith(".T") else source + ".T"


def stored_turned(tensor: TensorType) -> bool:
    """Whether a matrix is stored column by column."""
    return tensor.order == (1, 0)
