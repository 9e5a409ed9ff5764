"""Emits pooling that stands alone: one call per tap over the outputs it reaches."""

from convc.backends.base import Scratch
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel, single
from convc.backends.source import Writer
from convc.ir.graph import Attrs, Node
from convc.ir.ops.pool import pool_axes
from convc.ir.ops.window import Axis
from convc.ir.types import DType

OPS = (
    "max_pool2d",
    "max_pool2d_argmax",
    "max_pool2d_grad",
    "avg_pool2d",
    "avg_pool2d_grad",
)


class Pool(Emitter):
    """Max and average pooling, argmax and gradients; workers share the channels."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return len(kernel.ops) == 1 and kernel.ops[0].op in OPS

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """One call per tap and worker."""
        return [{"algorithm": "taps", "batch": batch}]

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """What an index or a divided gradient needs beside the result."""
        node, batch = single(kernel), kernel.integer("batch")
        pooled = node.result.type if "grad" not in node.op else node.operands[-1].type
        size, f32 = (pooled.elements(batch),), node.operands[-1].type.dtype
        if node.op == "max_pool2d_argmax":
            return (Scratch("best", f32, size), Scratch("won", DType.BOOL, size))
        if node.op == "max_pool2d_grad":
            return (Scratch("part", f32, size), Scratch("won", DType.BOOL, size))
        if node.op == "avg_pool2d_grad":
            return (Scratch("part", f32, size),)
        return ()

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        node = single(kernel)
        large = node.result if "grad" in node.op else node.operands[0]
        small = node.operands[-1] if "grad" in node.op else node.result
        axes = pool_axes(node.op, large.type.bind(1)[1:3], node.attrs)
        channels = kernel.dims(large)[2]
        w(f"part = slice(*share({channels}, t))")
        w(f"x = {kernel.mem(large)}[:, :, part]")
        if node.op != "max_pool2d_argmax":
            w(f"y = {kernel.mem(small)}[:, :, part]")
        if node.op in ("max_pool2d_argmax", "max_pool2d_grad"):
            index = node.operands[0] if "grad" in node.op else node.result
            w(f"index = {kernel.mem(index)}[:, :, part]")
        for scratch in kernel.scratches:
            size = " * ".join(kernel.dims(small))
            shape = "index.shape" if "max" in node.op else "y.shape"
            source = kernel.private(scratch.name, size)
            w(f"{scratch.name} = {source}[: int(np.prod({shape}))].reshape({shape})")
        spans = [str((a.size, a.out, a.kernel, a.stride, a.before)) for a in axes]
        w.call("places = list(pool_taps(", spans, "))")
        if node.op.startswith("avg"):
            w(f"counts = {_counts(axes)}")
        getattr(self, f"_{node.op}")(w, node)

    def _max_pool2d(self, w: Writer, node: Node) -> None:
        w.steps("y.fill(-np.inf)")
        w.steps("for _, inside, window in places:")
        w.steps("    maximum(y[window], x[inside], out=y[window])")

    def _max_pool2d_argmax(self, w: Writer, node: Node) -> None:
        w.steps("best.fill(-np.inf)", "index.fill(0)")
        w.steps("for k, inside, window in places:")
        w.steps("    greater(x[inside], best[window], out=won[window])")
        w.steps("    maximum(best[window], x[inside], out=best[window])")
        w.steps("    copyto(index[window], np.uint8(k), where=won[window])")

    def _max_pool2d_grad(self, w: Writer, node: Node) -> None:
        w.steps("x.fill(0)")
        w.steps("for k, inside, window in places:")
        w.steps(
            "    equal(index, np.uint8(k), out=won)", "    multiply(y, won, out=part)"
        )
        w.steps("    add(x[inside], part[window], out=x[inside])")

    def _avg_pool2d(self, w: Writer, node: Node) -> None:
        w.steps("y.fill(0)")
        w.steps("for _, inside, window in places:")
        w.steps("    add(y[window], x[inside], out=y[window])")
        w.steps("np.divide(y, counts, out=y)")

    def _avg_pool2d_grad(self, w: Writer, node: Node) -> None:
        w.steps("np.divide(y, counts, out=part)", "x.fill(0)")
        w.steps("for _, inside, window in places:")
        w.steps("    add(x[inside], part[window], out=x[inside])")


def _counts(axes: tuple[Axis, ...]) -> str:
    """Source for the taps of each window that lie inside the input, [P, Q, 1, 1]."""
    counts = [
        [
            sum(0 <= o * a.stride + k - a.before < a.size for k in range(a.kernel))
            for o in range(a.out)
        ]
        for a in axes
    ]
    if all(len(set(c)) == 1 for c in counts):
        return f"np.float32({counts[0][0] * counts[1][0]})"
    rows, cols = (f"np.array({c}, np.float32)" for c in counts)
    return f"np.multiply.outer({rows}, {cols})[..., None, None]"
