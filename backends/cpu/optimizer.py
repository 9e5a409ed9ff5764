"""Emits the whole optimizer as passes over one flat buffer of parameters.

The planner lays parameters, gradients and each slot out in one order without gaps, so
that one loop over flat pieces updates every parameter.
"""

from convc.backends.base import OPTIMIZERS, SLOTS, Scratch
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops import OPS
from convc.ir.ops.base import number
from convc.ir.types import DType

PIECE = 64 * 1024
"""Elements per call: four arrays of a piece fit a core's second-level cache."""


class Optimizer(Emitter):
    """Any number of updates of one kind with the same attributes.

    The step counter's ``add`` may come along; it waits until all have read the counter.
    """

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return kernel.ops[0].op in OPTIMIZERS

    def _counter(self, kernel: Kernel) -> Node | None:
        return kernel.find("add")

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """Pieces of the flat buffer."""
        return [{"algorithm": "flat", "piece": PIECE}]

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """One piece for intermediate results, two where the gradient is changed."""
        self._check(kernel)
        dtype = kernel.ops[0].operands[0].type.dtype
        piece = (kernel.integer("piece"),)
        scratch = (Scratch("u", dtype, piece), Scratch("d", dtype, piece))
        if kernel.ops[0].op != "adam":
            return scratch
        return (*scratch, Scratch("scalars", dtype, (2, 1)))

    def _check(self, kernel: Kernel) -> None:
        first, counter = kernel.ops[0], self._counter(kernel)
        for node in kernel.ops[1:]:
            if node is not counter and (node.op, node.attrs) != (first.op, first.attrs):
                raise kernel.refusal("the updates differ in kind or attributes")
        if first.operands[0].type.dtype is not DType.F32:
            raise kernel.refusal("only f32 parameters are updated")

    def in_place(self, kernel: Kernel) -> tuple[tuple[int, int], ...]:
        """Every parameter, slot and counter with its update."""
        inputs, yields = kernel.region.inputs, kernel.region.yields
        return tuple(
            (inputs.index(old), yields.index(new))
            for node in kernel.ops
            for old, new in self._updates(node)
            if old in inputs and new in yields
        )

    def _updates(self, node: Node) -> list[tuple[Value, Value]]:
        """What a node of the body updates, and what it makes of it."""
        names = [s for s in OPS[node.op].operands if s in SLOTS] or ["x"]
        states = [v for s, v in zip(names, node.operands, strict=False) if s != "g"]
        return list(zip(states, node.results, strict=True))

    def _check_in_place(self, kernel: Kernel) -> None:
        """CompileError unless every result takes the memory of what it updates."""
        for node in kernel.ops:
            for state, value in self._updates(node):
                old, new = kernel.outer(state), kernel.outer(value)
                places = [v and kernel.buffers[v.name].offset for v in (old, new)]
                if places[0] is None or places[0] != places[1]:
                    raise kernel.refusal(
                        f"{node.op} works in place on {old}: {state.type}, so its "
                        "result must be that parameter's update and no output; update "
                        "the parameter, and show a copy of it"
                    )

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        self._check(kernel)
        self._check_in_place(kernel)
        first = kernel.ops[0]
        slots = [s for s in OPS[first.op].operands if s in SLOTS]
        updates = [n for n in kernel.ops if n.op in OPTIMIZERS]
        size = sum(n.operands[0].type.elements(1) for n in updates)
        for i, slot in enumerate(slots):
            w(f"{slot}_all = {kernel.mem(first.operands[i], size)}")
        rate = kernel.mem(first.operands[len(slots)])
        if first.op == "adam":
            w(f"rate, step = {rate}, {kernel.mem(first.operands[-1])}")
        else:
            w(f"rate = {rate}")
        changed = number(first.attrs["weight_decay"]) and not first.attrs.get(
            "decoupled"
        )
        if first.op == "adam":
            self._scalars(w, kernel, first)
        piece = kernel.integer("piece")
        w(f"for i, size in pieces(*share({size}, t), {piece}):")
        w.depth += 1
        arrays = ", ".join(f"{slot}_all" for slot in slots)
        w(f"{', '.join(slots)} = (a[i : i + size] for a in ({arrays}))")
        w(f"u = {kernel.private('u', 'size')}")
        if changed:
            w(f"d = {kernel.private('d', 'size')}")
        getattr(self, f"_{first.op}")(w, first, self._decay(w, first))
        w.depth -= 1
        counter = self._counter(kernel)
        if counter is not None:
            count, one = (kernel.mem(v) for v in counter.operands)
            w("yield BARRIER  # all have read the step's number", "if t == 0:")
            if first.op != "adam":
                w(f"    step = {count}")
            w.steps(f"    add(step, {one}, out=step)")

    def _decay(self, w: Writer, node: Node) -> str:
        """Emit weight decay on the gradient; the name of the gradient to use."""
        decay = number(node.attrs["weight_decay"])
        if not decay or node.attrs.get("decoupled"):
            return "g"
        w.steps(f"multiply(p, np.float32({decay!r}), out=d)", "add(d, g, out=d)")
        return "d"

    def _sgd(self, w: Writer, node: Node, g: str) -> None:
        w.steps(f"multiply({g}, rate, out=u)", "subtract(p, u, out=p)")

    def _momentum(self, w: Writer, node: Node, g: str) -> None:
        mu = f"np.float32({node.attrs['momentum']!r})"
        w.steps(f"multiply(v, {mu}, out=v)", f"add(v, {g}, out=v)")
        if node.attrs["nesterov"]:
            w.steps(f"multiply(v, {mu}, out=u)", f"add(u, {g}, out=u)")
            w.steps("multiply(u, rate, out=u)")
        else:
            w.steps("multiply(v, rate, out=u)")
        w.steps("subtract(p, u, out=p)")

    def _scalars(self, w: Writer, kernel: Kernel, node: Node) -> None:
        """What changes from step to step: three numbers, computed once a step."""
        beta1, beta2, epsilon = (node.attrs[k] for k in ("beta1", "beta2", "epsilon"))
        w(f"scaled_rate, epsilon = {kernel.private('scalars')}")
        w.steps(
            f"adam_scalars(rate, step, {beta1!r}, {beta2!r}, {epsilon!r}, scaled_rate, "
            "epsilon)"
        )

    def _adam(self, w: Writer, node: Node, g: str) -> None:
        beta1, beta2 = number(node.attrs["beta1"]), number(node.attrs["beta2"])
        if node.attrs["decoupled"] and number(node.attrs["weight_decay"]):
            decay = f"np.float32({node.attrs['weight_decay']!r})"
            w.steps(f"multiply(p, {decay}, out=u)", "multiply(u, rate, out=u)")
            w.steps("subtract(p, u, out=p)")
        w.steps(
            f"multiply(m, np.float32({beta1!r}), out=m)",
            f"multiply({g}, np.float32({1 - beta1!r}), out=u)",
            "add(m, u, out=m)",
            f"multiply({g}, {g}, out=u)",
            f"multiply(u, np.float32({1 - beta2!r}), out=u)",
            f"multiply(v, np.float32({beta2!r}), out=v)",
            "add(v, u, out=v)",
            "np.sqrt(v, out=u)",
            "add(u, epsilon, out=u)",
            "np.divide(m, u, out=u)",
            "multiply(u, scaled_rate, out=u)",
            "subtract(p, u, out=p)",
        )
