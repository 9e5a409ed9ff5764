"""Emits reductions, their adjoints, and batch normalization."""

from convc.backends.base import Scratch
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel, scalar, single
from convc.backends.source import Writer
from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import ints
from convc.ir.types import DType, TensorType

REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_variance")
SPREADS = ("broadcast_to", "reduce_mean_grad")


class Reduction(Emitter):
    """Sums, means and variances; workers share a kept axis where there is one."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return len(kernel.ops) == 1 and kernel.ops[0].op in (
            *REDUCTIONS,
            *SPREADS,
            "argmax",
            "batch_norm",
        )

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """One NumPy reduction per worker."""
        return [{"algorithm": "reduce", "batch": batch}]

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """Means and deviations for a variance, indices for an argmax."""
        node, batch = single(kernel), kernel.integer("batch")
        dtype = node.result.type.dtype
        if node.op == "reduce_variance":
            x = node.operands[0].type
            return (
                Scratch("mean", dtype, (node.result.type.elements(batch),)),
                Scratch("centred", dtype, (x.elements(batch),)),
            )
        if node.op == "argmax":
            return (Scratch("which", DType.I64, (node.result.type.elements(batch),)),)
        if node.op == "batch_norm":
            return (Scratch("scale", dtype, (node.operands[1].type.elements(1),)),)
        return ()

    def in_place(self, kernel: Kernel) -> tuple[tuple[int, int], ...]:
        """Batch normalization reads x once and goes on in the result."""
        return ((0, 0),) if single(kernel).op == "batch_norm" else ()

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        node = single(kernel)
        if node.op in SPREADS:
            self._emit_spread(w, kernel, node)
        elif node.op == "argmax":
            self._emit_argmax(w, kernel, node)
        elif node.op == "batch_norm":
            self._emit_batch_norm(w, kernel, node)
        else:
            self._emit_reduce(w, kernel, node)

    def _emit_reduce(self, w: Writer, kernel: Kernel, node: Node) -> None:
        (x,) = node.operands
        stored, logical = kernel.type(x), ints(node.attrs["axes"])
        axes = tuple(i for i, a in enumerate(stored.order) if a in logical)
        kept = [i for i in range(stored.rank) if i not in axes]
        dims = kernel.dims(x)
        if kept:
            w(f"part = slice(*share({dims[kept[0]]}, t))")
            where = ", ".join([":"] * kept[0] + ["part"])
            w(f"x = {kernel.mem(x)}[{where}]", f"y = {kernel.mem(node.result)}[part]")
        else:
            w("if t:", "    return")
            w(f"x = {kernel.mem(x)}", f"y = {kernel.mem(node.result)}")
        count = " * ".join(dims[a] for a in axes)
        if node.op != "reduce_sum":
            w(f"count = np.{stored.dtype.numpy.name}({count})")
        if node.op == "reduce_variance":
            self._bind_variance(w, kernel, node, axes)
            w.steps(f"np.add.reduce(x, axis={axes}, out=mean, keepdims=True)")
            w.steps(
                "np.divide(mean, count, out=mean)", "subtract(x, mean, out=centred)"
            )
            w.steps("multiply(centred, centred, out=centred)")
            w.steps(f"np.add.reduce(centred, axis={axes}, out=y)")
        else:
            w.steps(f"np.add.reduce(x, axis={axes}, out=y)")
        if node.op != "reduce_sum":
            w.steps("np.divide(y, count, out=y)")

    def _bind_variance(
        self, w: Writer, kernel: Kernel, node: Node, axes: tuple[int, ...]
    ) -> None:
        w(f"wide = tuple(1 if a in {axes} else s for a, s in enumerate(x.shape))")
        size = " * ".join(kernel.dims(node.result)) or "1"
        w(f"mean = {kernel.private('mean', size)}[: y.size].reshape(wide)")
        whole = " * ".join(kernel.dims(node.operands[0]))
        w(f"centred = {kernel.private('centred', whole)}[: x.size].reshape(x.shape)")

    def _emit_spread(self, w: Writer, kernel: Kernel, node: Node) -> None:
        (x,), out = node.operands, kernel.type(node.result)
        axes = ints(node.attrs["axes"])
        wide = _widened(kernel, x, out, axes)
        rows = kernel.dims(node.result)
        w(f"rows = slice(*share({rows[0]}, t))")
        w(f"y = {kernel.mem(node.result)}")
        w(f"x = np.broadcast_to({wide}, y.shape)[rows]", "y = y[rows]")
        if node.op == "reduce_mean_grad":
            count = " * ".join(
                "n" if a == 0 and out.batched else str(out.shape[a]) for a in axes
            )
            w(f"count = np.{out.dtype.numpy.name}({count})")
        mean = node.op == "reduce_mean_grad"
        w.steps("np.divide(x, count, out=y)" if mean else "copyto(y, x)")

    def _emit_argmax(self, w: Writer, kernel: Kernel, node: Node) -> None:
        (x,) = node.operands
        stored = kernel.type(x)
        axis = stored.order.index(stored.rank - 1)
        w("if t:", "    return")
        w(f"x = {kernel.mem(x)}", f"y = {kernel.mem(node.result)}")
        size = " * ".join(kernel.dims(node.result))
        w(f"which = {kernel.private('which', size)}.reshape(y.shape)")
        w.steps(f"np.argmax(x, axis={axis}, out=which)")
        w.steps('copyto(y, which, casting="unsafe")')

    def _emit_batch_norm(self, w: Writer, kernel: Kernel, node: Node) -> None:
        x, *rest = node.operands
        out = kernel.type(node.result)
        axis = out.order.index(out.rank - 1)
        channels = kernel.dims(x)[axis]
        trailing = ", None" * (out.rank - 1 - axis)
        w(f"part = slice(*share({channels}, t))")
        where = ", ".join([":"] * axis + ["part"])
        w(f"x = {kernel.mem(x)}[{where}]", f"y = {kernel.mem(node.result)}[{where}]")
        for name, value in zip(
            ("gamma", "beta", "mean", "variance"), rest, strict=True
        ):
            w(f"{name} = {kernel.mem(value)}[part]")
        w(f"scale = {kernel.private('scale')}[part]")
        w(f"epsilon = {scalar(node.attrs['epsilon'], out.dtype)}")
        w.steps("add(variance, epsilon, out=scale)", "np.sqrt(scale, out=scale)")
        w.steps("np.divide(gamma, scale, out=scale)")
        w.steps(f"subtract(x, mean[:{trailing}], out=y)")
        w.steps(f"multiply(y, scale[:{trailing}], out=y)")
        w.steps(f"add(y, beta[:{trailing}], out=y)")


def _widened(kernel: Kernel, x: Value, out: TensorType, axes: tuple[int, ...]) -> str:
    """Source for x, stored as ``out`` is, with length 1 where it will be repeated."""
    own = kernel.type(x)
    logical = tuple(own.order.index(a) for a in range(own.rank))
    source = kernel.mem(x)
    if logical != tuple(range(own.rank)):
        source += f".transpose({', '.join(map(str, logical))})"
    index = ["None" if a in axes else ":" for a in range(out.rank)]
    source += f"[{', '.join(index)}]"
    if out.order != tuple(range(out.rank)):
        source += f".transpose({', '.join(map(str, out.order))})"
    return source
