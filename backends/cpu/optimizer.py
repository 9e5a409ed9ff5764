"""Emits the whole optimizer as passes over one flat buffer of parameters.

The planner lays parameters, gradients and each slot out in one order without gaps, so
that one loop over flat pieces updates every parameter.
"""

from convc.backends.base import OPTIMIZERS, SLOTS, Scratch
from convc.backends.cpu.kernel import Kernel, Writer
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Node
from convc.ir.ops import OPS
from convc.ir.ops.base import number
from convc.ir.types import DType

PIECE = 64 * 1024
"""Elements per call: four arrays of a piece fit a core's second-level cache."""


class Optimizer:
    """Any number of updates of one kind with the same attributes."""

    requires = "prelude_share"

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return bool(kernel.ops) and all(n.op in OPTIMIZERS for n in kernel.ops)

    def schedule(self, kernel: Kernel, batch: int) -> Attrs:
        """Pieces of the flat buffer."""
        return {"algorithm": "flat", "piece": PIECE}

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """One piece for intermediate results, two where the gradient is changed."""
        self._check(kernel)
        dtype = kernel.ops[0].operands[0].type.dtype
        return (Scratch("u", dtype, (2, kernel.integer("piece"))),)

    def _check(self, kernel: Kernel) -> None:
        first = kernel.ops[0]
        for node in kernel.ops[1:]:
            if (node.op, node.attrs) != (first.op, first.attrs):
                raise CompileError(
                    f"kernel {kernel.node.attrs['name']}: {node.op} and {first.op} with "
                    "other attributes cannot be one flat update; split the kernel"
                )
        if first.operands[0].type.dtype is not DType.F32:
            raise CompileError("the numpy backend updates f32 parameters only")

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        self._check(kernel)
        first = kernel.ops[0]
        slots = [s for s in OPS[first.op].operands if s in SLOTS]
        size = sum(n.operands[0].type.elements(1) for n in kernel.ops)
        for i, slot in enumerate(slots):
            w(f"{slot}_all = {kernel.mem(first.operands[i], size)}")
        w(f"u_all, d_all = {kernel.private('u')}")
        w(f"lr_now = {kernel.mem(first.operands[len(slots)])}")
        if first.op == "adam":
            w(f"step = {kernel.mem(first.operands[-1])}")
        names = ", ".join(f"{s}_all[i : i + m]" for s in slots)
        w("calls = [", f"    ({names}, u_all[:m], d_all[:m])")
        w(f"    for i, m in pieces(*share({size}, t), {kernel.integer('piece')})", "]")
        w("", "def run():")
        w.depth += 1
        w("lr = np.float32(lr_now)")
        getattr(self, f"_{first.op}")(w, first)
        w.depth -= 1
        w("", "return (run,)")

    def _decay(self, w: Writer, node: Node) -> str:
        """Emit weight decay on the gradient; the name of the gradient to use."""
        decay = number(node.attrs["weight_decay"])
        if not decay:
            return "g"
        w(f"multiply(p, np.float32({decay!r}), out=d)", "add(d, g, out=d)")
        return "d"

    def _sgd(self, w: Writer, node: Node) -> None:
        w("for p, g, u, d in calls:")
        w.depth += 1
        gradient = self._decay(w, node)
        w(f"multiply({gradient}, lr, out=u)", "subtract(p, u, out=p)")
        w.depth -= 1

    def _momentum(self, w: Writer, node: Node) -> None:
        mu = f"np.float32({node.attrs['momentum']!r})"
        w("for p, g, v, u, d in calls:")
        w.depth += 1
        gradient = self._decay(w, node)
        w(f"multiply(v, {mu}, out=v)", f"add(v, {gradient}, out=v)")
        if node.attrs["nesterov"]:
            w(f"multiply(v, {mu}, out=u)", f"add(u, {gradient}, out=u)")
            w("multiply(u, lr, out=u)")
        else:
            w("multiply(v, lr, out=u)")
        w("subtract(p, u, out=p)")
        w.depth -= 1

    def _adam(self, w: Writer, node: Node) -> None:
        beta1, beta2, epsilon, decay = (
            number(node.attrs[k]) for k in ("beta1", "beta2", "epsilon", "weight_decay")
        )
        w("# bias corrections folded into two scalars (Kingma and Ba, section 2)")
        w("k = int(step) + 1")
        w(f"root = np.sqrt(1 - {beta2!r}**k)")
        w(f"rate = np.float32(lr * root / (1 - {beta1!r}**k))")
        w(f"epsilon = np.float32({epsilon!r} * root)")
        if decay and node.attrs["decoupled"]:
            w(f"shrink = np.float32(1 - lr * {decay!r})")
        w("for p, g, m, v, u, d in calls:")
        w.depth += 1
        if decay and node.attrs["decoupled"]:
            w("multiply(p, shrink, out=p)")
            gradient = "g"
        else:
            gradient = self._decay(w, node)
        w(f"multiply(m, np.float32({beta1!r}), out=m)")
        w(f"multiply({gradient}, np.float32({1 - beta1!r}), out=u)", "add(m, u, out=m)")
        w(f"multiply({gradient}, {gradient}, out=u)")
        w(f"multiply(u, np.float32({1 - beta2!r}), out=u)")
        w(f"multiply(v, np.float32({beta2!r}), out=v)", "add(v, u, out=v)")
        w("np.sqrt(v, out=u)", "add(u, epsilon, out=u)", "np.divide(m, u, out=u)")
        w("multiply(u, rate, out=u)", "subtract(p, u, out=p)")
        w.depth -= 1
