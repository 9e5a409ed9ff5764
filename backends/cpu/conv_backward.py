"""Emits the gradients of a convolution as one tiled kernel.

The kernel may begin with the gradients of ReLU and max-pool, so that the gradient
before the pool exists only as a tile, and gives any of: filter gradient, input
gradient, bias gradient. Filter and bias gradients are summed per worker and then over
the workers in a fixed order: the same bits in every run.
"""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import over_tiles
from convc.backends.cpu.conv_backward_dft import DftBackward
from convc.backends.cpu.conv_backward_im2col import Im2colBackward
from convc.backends.cpu.conv_backward_plan import (
    BackwardAlgorithm,
    BackwardPlan,
    backward_plan,
)
from convc.backends.cpu.cost import passes, traffic
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs

ALGORITHMS: tuple[BackwardAlgorithm, ...] = (Im2colBackward(), DftBackward())


class ConvBackward(Emitter):
    """Gradients of a convolution, see ``BackwardPlan``, by one of ALGORITHMS."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return bool(
            kernel.find("conv2d_filter_grad") or kernel.find("conv2d_input_grad")
        )

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """The tiles of every algorithm that can serve."""
        plan = backward_plan(kernel)
        found = [a.schedules(plan, batch, kernel.threads) for a in ALGORITHMS]
        return [schedule for schedules in found for schedule in schedules]

    def check(self, kernel: Kernel) -> None:
        """CompileError when the kernel cannot run as it is scheduled."""
        self._algorithm(kernel).check(kernel, backward_plan(kernel))

    def is_direct(self, kernel: Kernel) -> bool:
        """Whether a scheduled kernel's results are the sums that define them."""
        return self._algorithm(kernel).direct

    def cost(self, kernel: Kernel, batch: int) -> Cost:
        """The predicted cost of a scheduled kernel."""
        plan, algorithm = backward_plan(kernel), self._algorithm(kernel)
        once = algorithm.overhead(kernel, plan)
        if plan.dw:
            sums = plan.tiles.depth * plan.tiles.k
            once += passes(sums, 1) + passes(sums / kernel.threads, 3)
        return traffic(kernel, batch) + over_tiles(
            lambda m: algorithm.cost(kernel, plan, m),
            once,
            batch,
            kernel.threads,
            kernel.integer("images"),
        )

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """What the algorithm needs."""
        return self._algorithm(kernel).scratch(kernel, backward_plan(kernel))

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        plan = backward_plan(kernel)
        self._algorithm(kernel).emit(w, kernel, plan)
        _emit_totals(w, kernel, plan)

    def _algorithm(self, kernel: Kernel) -> BackwardAlgorithm:
        name = kernel.schedule["algorithm"]
        return next(a for a in ALGORITHMS if a.name == name)


def _emit_totals(w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
    """Add up what the workers have summed, each a part of it."""
    g = plan.tiles
    if not (plan.dw or plan.bias):
        return
    w("yield BARRIER")
    for name, node, shape in (
        ("dw", plan.dw, (g.depth, g.k)),
        ("db", plan.bias, (g.k,)),
    ):
        if node is None:
            continue
        part = kernel.private_of(name, "u", 2, *shape)
        w.call("parts = [", [f"{part}[0] for u in range(THREADS)"], "]")
        w.steps(f"add_parts(t, {kernel.mem(node.result, *shape)}, parts)")
