"""Emits a forward convolution with what follows it as one tiled kernel."""

from convc.backends.cpu.conv_algorithm import ByAlgorithm, ConvAlgorithm
from convc.backends.cpu.conv_depthwise import Depthwise
from convc.backends.cpu.conv_dft import DftProducts
from convc.backends.cpu.conv_im2col import Im2colRows
from convc.backends.cpu.conv_pixels import Im2colPixels
from convc.backends.cpu.conv_plan import ConvPlan, conv_plan
from convc.backends.cpu.conv_pooled import PooledDirect
from convc.backends.cpu.conv_shifted import ShiftedGemm
from convc.backends.cpu.conv_winograd import Winograd
from convc.backends.cpu.kernel import Kernel


class ConvForward(ByAlgorithm[ConvPlan]):
    """conv2d and its epilogue, see ``ConvPlan``."""

    algorithms = (
        Im2colRows(),
        Im2colPixels(),
        ShiftedGemm(),
        PooledDirect(),
        Winograd(),
        DftProducts(),
        Depthwise(),
    )

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return kernel.find("conv2d") is not None

    def plan(self, kernel: Kernel) -> ConvPlan:
        """The convolution and what follows it."""
        return conv_plan(kernel)

    def in_place(self, kernel: Kernel) -> tuple[tuple[int, int], ...]:
        """What a residual adds: it is read before the result is written there.

        Not where products are summed up there first, or the convolution reads it too.
        """
        plan, region = conv_plan(kernel), kernel.region
        if plan.other is None or plan.other in plan.conv.operands:
            return ()
        algorithm = self.algorithm(kernel)
        assert isinstance(algorithm, ConvAlgorithm)
        if algorithm.sums_in_place(plan):
            return ()
        return ((region.inputs.index(plan.other), region.yields.index(plan.last)),)
