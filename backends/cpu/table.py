"""Which emitter writes which kernel."""

from convc.backends.cpu.conv import ConvForward
from convc.backends.cpu.conv_backward import ConvBackward
from convc.backends.cpu.dense import Dense
from convc.backends.cpu.elementwise import Elementwise
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel
from convc.backends.cpu.loss import Loss, Softmax
from convc.backends.cpu.movement import Movement
from convc.backends.cpu.optimizer import Optimizer
from convc.backends.cpu.pool import Pool
from convc.backends.cpu.random import Dropout
from convc.backends.cpu.reduction import Reduction
from convc.backends.cpu.weights import Weights

EMITTERS: tuple[Emitter, ...] = (
    ConvForward(),
    ConvBackward(),
    Dense(),
    Optimizer(),
    Pool(),
    Reduction(),
    Loss(),
    Softmax(),
    Dropout(),
    Movement(),
    Weights(),
    Elementwise(),
)


def emitter_for(kernel: Kernel) -> Emitter:
    """The emitter of a kernel; CompileError with ops, types and line if none.

    That is so for every kernel in which anything has 16 bits or is in tf32.
    """
    kernel.refuse_lower_precision()
    for emitter in EMITTERS:
        if emitter.matches(kernel):
            return emitter
    raise kernel.refusal("no emitter takes them")
