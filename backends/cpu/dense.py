"""Emits matrix products with what follows them, applied to the part just made."""

from dataclasses import replace

from convc.backends.base import ACTIVATIONS, Cost, Scratch
from convc.backends.cpu.activation import activate
from convc.backends.cpu.cost import gemm, passes, traffic
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel, scalar
from convc.backends.source import Writer
from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.random import DROPOUTS
from convc.ir.types import DType, TensorType

EPILOGUE = {
    "bias_add": 0,
    **dict.fromkeys(ACTIVATIONS, 0),
    **dict.fromkeys(DROPOUTS, 0),
    "relu_grad": 1,
}
"""Ops that may follow a product in its kernel, with the operand that is handed on."""
TWICE = (*DROPOUTS, "relu_grad")
"""Those of two calls."""


NAMES = {"matmul": "z", **dict.fromkeys(DROPOUTS, "masked")}
"""What results within a chain are called, if not like their op."""


class Dense(Emitter):
    """Products, each matmul [+ bias_add] [+ activation] [+ dropout] [+ relu_grad].

    A filter gradient matmul(x, dy) may bring the bias gradient reduce_sum(dy) along.
    Results are stored [features, batch] (filter gradients [in, out]). In `gemm_rows`
    workers share the rows of each result; in `gemm_columns` they share the batch, which
    pays where the rows are few, such as classes: a worker then packs its own columns of
    the right operand only, and has longer columns of the left one. Filter gradients
    have no batch, and share rows in both.
    """

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return kernel.find("matmul") is not None

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """One product per worker: rows or, where a result has a batch, its columns."""
        chains = self._chains(kernel)
        batched = any(chain[0].result.type.batched for chain in chains)
        names = ("gemm_rows", "gemm_columns") if batched else ("gemm_rows",)
        return [{"algorithm": name, "batch": batch} for name in names]

    def cost(self, kernel: Kernel, batch: int) -> Cost:
        """The traffic, a product per chain, and passes over what it made."""
        cost = traffic(kernel, batch)
        for chain in self._chains(kernel):
            cost += self._chain_cost(kernel, chain, batch)
        return cost

    def _chain_cost(self, kernel: Kernel, chain: list[Node], batch: int) -> Cost:
        product, threads = chain[0], kernel.threads
        left = product.operands[0].type.bind(batch)
        depth = left[0 if product.attrs["transpose_a"] else 1]
        n, m = product.result.type.bind(batch)
        if not product.result.type.batched:
            n, m = m, n
        if _by_columns(kernel, product):
            n = -(-n // threads)
        else:
            m = -(-m // threads)
        work = gemm(m, depth, n)
        for node in chain[1:]:
            work += passes(m * n, 2, 2 if node.op in TWICE else 1)
        return replace(work, flops=work.flops * threads, local=work.local * threads)

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """None but the decisions of a relu_grad: the result is the workspace."""
        gate = kernel.find("relu_grad")
        if gate is None:
            return ()
        rows, batch = gate.result.type.inner[0], kernel.integer("batch")
        if kernel.schedule["algorithm"] == "gemm_columns":
            batch = -(-batch // kernel.threads)
        else:
            rows = -(-rows // kernel.threads)
        return (Scratch("won", DType.BOOL, (rows, batch)),)

    def reads_as_given(self, kernel: Kernel, value: Value) -> bool:
        """Where only products read it: the BLAS library takes either order."""
        return all(n.op == "matmul" for n in kernel.ops if value in n.operands)

    def stores_weights(self, kernel: Kernel, value: Value, batch: int) -> TensorType:
        """A row for each result of a product with one image.

        The product with a single column is then one pass over each row.
        """
        readers = [n for n in kernel.ops if value in n.operands]
        if batch > 1 or [n.op for n in readers] != ["matmul"]:
            return value.type.plain
        (product,) = readers
        left, right = product.operands
        turned = right == value and left.type.batched
        turned = turned and not product.attrs["transpose_b"]
        return value.type.with_layout((1, 0)) if turned else value.type.plain

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
        if _by_columns(kernel, product):
            part = "[:, columns]"
            w("columns = slice(*share(n, t))")
            w(f"a = {left}", f"b = {right}{part}")
        else:
            part = "[rows]"
            w(f"rows = slice(*share({rows}, t))")
            w(f"a = {left}{part}", f"b = {right}")
        names = self._bind_results(w, kernel, chain, part)
        lines = [f"matmul(a, b, out={names[0]})"]
        for i, node in enumerate(chain[1:], 1):
            lines += self._follow(w, kernel, node, names[i - 1], names[i], part)
        bias = self._bias_gradient(kernel, product)
        if bias is not None:
            dy = kernel.dims(bias.operands[0])
            w(f"mine = slice(*share({dy[0]}, t))")
            w(f"db = {kernel.mem(bias.result)}[mine]")
            lines.append("np.add.reduce(b.T[mine], axis=1, out=db)")
        w.steps(*lines)

    def _bind_results(
        self, w: Writer, kernel: Kernel, chain: list[Node], part: str
    ) -> list[str]:
        """Bind the worker's part of every result; the name of what each op writes.

        An op writes its own memory, or that of the next value which has some.
        """
        names, current = [], ""
        for node in reversed(chain):
            if kernel.outer(node.result) is not None:
                current = NAMES.get(node.op, node.op)
                current = "y" if node is chain[-1] else current
                w(f"{current} = {kernel.mem(node.result)}{part}")
            names.append(current)
        return names[::-1]

    def _follow(
        self,
        w: Writer,
        kernel: Kernel,
        node: Node,
        source: str,
        target: str,
        part: str,
    ) -> list[str]:
        if node.op == "bias_add":
            own = "[rows, None]" if part == "[rows]" else "[:, None]"
            w(f"bias = {kernel.mem(node.operands[1])}{own}")
            return [f"add({source}, bias, out={target})"]
        if node.op in ACTIVATIONS:
            return activate(node, source, target, work=target)
        if node.op in DROPOUTS:
            w(f"mask = {kernel.mem(node.operands[1])}{part}")
            masked = f"multiply({source}, mask, out={target})"
            if node.op == "apply_keep":
                w(f"keep = {kernel.mem(node.operands[2])}")
                return [masked, f"np.divide({target}, keep, out={target})"]
            scale = scalar(node.attrs["scale"], node.result.type.dtype)
            return [masked, f"multiply({target}, {scale}, out={target})"]
        w(f"active = {kernel.mem(node.operands[0])}{part}")
        w(f"won = {kernel.private('won', '*active.shape')}")
        return [
            "greater(active, ZERO, out=won)",
            f"multiply({source}, won, out={target})",
        ]

    def _logical(self, kernel: Kernel, value: Value, transpose: bool) -> str:
        source = kernel.mem(value)
        return (
            source + ".T" if transpose != stored_turned(kernel.type(value)) else source
        )


def _by_columns(kernel: Kernel, product: Node) -> bool:
    """Whether workers share the columns of the product, which are the batch."""
    by_columns = kernel.schedule["algorithm"] == "gemm_columns"
    return by_columns and product.result.type.batched


def _turned(source: str) -> str:
    return source.removesuffix(".T") if source.endswith(".T") else source + ".T"


def stored_turned(tensor: TensorType) -> bool:
    """Whether a matrix is stored column by column."""
    return tensor.order == (1, 0)
