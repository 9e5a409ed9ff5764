"""Emits the gradients of a convolution as one tiled kernel.

The kernel may begin with the gradients of ReLU and max-pool, so that the gradient
before the pool exists only as a tile, and gives any of: filter gradient, input
gradient, bias gradient. Filter and bias gradients are summed per worker and then over
the workers in a fixed order: the same bits in every run.
"""

from convc.backends.base import Cost
from convc.backends.cpu.conv_algorithm import ByAlgorithm
from convc.backends.cpu.conv_backward_dft import DftBackward
from convc.backends.cpu.conv_backward_im2col import Im2colBackward
from convc.backends.cpu.conv_backward_plan import BackwardPlan, backward_plan
from convc.backends.cpu.conv_backward_winograd import WinogradBackward
from convc.backends.cpu.conv_depthwise import DepthwiseBackward
from convc.backends.cpu.cost import passes
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer


class ConvBackward(ByAlgorithm[BackwardPlan]):
    """Gradients of a convolution, see ``BackwardPlan``."""

    algorithms = (
        Im2colBackward(),
        DftBackward(),
        WinogradBackward(),
        DepthwiseBackward(),
    )

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return bool(
            kernel.find("conv2d_filter_grad") or kernel.find("conv2d_input_grad")
        )

    def plan(self, kernel: Kernel) -> BackwardPlan:
        """The gradients and what precedes them."""
        return backward_plan(kernel)

    def overhead(self, kernel: Kernel, plan: BackwardPlan) -> Cost:
        """The algorithm's, and that of the sums of all workers."""
        cost = super().overhead(kernel, plan)
        if plan.dw:
            sums = plan.tiles.depth * plan.tiles.k
            cost += passes(sums, 1) + passes(sums / kernel.threads, 3)
        return cost

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        super().emit(w, kernel)
        _emit_totals(w, kernel, backward_plan(kernel))


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
