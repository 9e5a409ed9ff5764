"""Emits a forward convolution with what follows it as one tiled kernel."""

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_algorithm import ConvAlgorithm, over_tiles
from convc.backends.cpu.conv_dft import DftProducts
from convc.backends.cpu.conv_im2col import Im2colRows
from convc.backends.cpu.conv_plan import conv_plan
from convc.backends.cpu.conv_pooled import PooledDirect
from convc.backends.cpu.conv_shifted import ShiftedGemm
from convc.backends.cpu.conv_winograd import Winograd
from convc.backends.cpu.cost import traffic
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs

ALGORITHMS: tuple[ConvAlgorithm, ...] = (
    Im2colRows(),
    ShiftedGemm(),
    PooledDirect(),
    Winograd(),
    DftProducts(),
)


class ConvForward(Emitter):
    """conv2d and its epilogue, see ``ConvPlan``, by one of ALGORITHMS."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return kernel.find("conv2d") is not None

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """The tiles of every algorithm that can serve."""
        plan = conv_plan(kernel)
        found = [a.schedules(plan, batch, kernel.threads) for a in ALGORITHMS]
        return [schedule for schedules in found for schedule in schedules]

    def check(self, kernel: Kernel) -> None:
        """CompileError when the kernel cannot run as it is scheduled."""
        self._algorithm(kernel).check(kernel, conv_plan(kernel))

    def is_direct(self, kernel: Kernel) -> bool:
        """Whether a scheduled kernel's results are the sums that define them."""
        return self._algorithm(kernel).direct

    def cost(self, kernel: Kernel, batch: int) -> Cost:
        """The predicted cost of a scheduled kernel."""
        plan, algorithm = conv_plan(kernel), self._algorithm(kernel)
        return traffic(kernel, batch) + over_tiles(
            lambda m: algorithm.cost(kernel, plan, m),
            algorithm.overhead(kernel, plan),
            batch,
            kernel.threads,
            kernel.integer("images"),
        )

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """What the algorithm needs."""
        return self._algorithm(kernel).scratch(kernel, conv_plan(kernel))

    def in_place(self, kernel: Kernel) -> tuple[tuple[int, int], ...]:
        """What a residual adds: it is read before the result is written there.

        Not where products are summed up there first, or the convolution reads it too.
        """
        plan, region = conv_plan(kernel), kernel.region
        if plan.other is None or plan.other in plan.conv.operands:
            return ()
        if self._algorithm(kernel).sums_in_place(plan):
            return ()
        return ((region.inputs.index(plan.other), region.yields.index(plan.last)),)

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        self._algorithm(kernel).emit(w, kernel, conv_plan(kernel))

    def _algorithm(self, kernel: Kernel) -> ConvAlgorithm:
        name = kernel.schedule["algorithm"]
        return next(a for a in ALGORITHMS if a.name == name)
