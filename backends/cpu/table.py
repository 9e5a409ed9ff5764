"""Which emitter writes which kernel."""

from typing import Protocol

from convc.backends.base import Scratch
from convc.backends.cpu.conv import ConvForward
from convc.backends.cpu.conv_backward import ConvBackward
from convc.backends.cpu.dense import Dense
from convc.backends.cpu.elementwise import Elementwise
from convc.backends.cpu.kernel import Kernel, Writer
from convc.backends.cpu.loss import Loss, Softmax
from convc.backends.cpu.movement import Movement
from convc.backends.cpu.optimizer import Optimizer
from convc.backends.cpu.pool import Pool
from convc.backends.cpu.random import Dropout
from convc.backends.cpu.reduction import Reduction
from convc.ir.graph import Attrs


class Emitter(Protocol):
    """Writes one family of kernels."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        ...

    def schedule(self, kernel: Kernel, batch: int) -> Attrs:
        """The default schedule."""
        ...

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """Private memory of each worker."""
        ...

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        ...


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
    Elementwise(),
)


def emitter_for(kernel: Kernel) -> Emitter:
    """The emitter of a kernel; CompileError with ops, types and line if none."""
    for emitter in EMITTERS:
        if emitter.matches(kernel):
            return emitter
    raise kernel.refusal("no emitter takes them")
