"""What each family of kernels has: its schedules, their cost, its scratch, its code."""

from abc import ABC, abstractmethod

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.cost import streamed
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs, Value
from convc.ir.types import TensorType


class Emitter(ABC):
    """Writes one family of kernels."""

    @abstractmethod
    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""

    @abstractmethod
    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """Every schedule it can run the kernel with, each worth trying."""

    def check(self, kernel: Kernel) -> None:
        """CompileError when it cannot run the kernel with the numbers scheduled."""
        return

    def is_direct(self, kernel: Kernel) -> bool:
        """Whether a scheduled kernel's results are the sums that define them."""
        return True

    def cost(self, kernel: Kernel, batch: int) -> Cost:
        """The predicted cost of a scheduled kernel."""
        return streamed(kernel, batch)

    @abstractmethod
    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """Private memory of each worker for a scheduled kernel."""

    def in_place(self, kernel: Kernel) -> tuple[tuple[int, int], ...]:
        """The operands and results, by number, that may lie on the same bytes.

        An operand that the code still reads when it, or another worker, has begun to
        write the result must not be named.
        """
        return ()

    def reads_as_given(self, kernel: Kernel, value: Value) -> bool:
        """Whether an operand may be stored batch first, at no cost."""
        return False

    def stores_weights(self, kernel: Kernel, value: Value, batch: int) -> TensorType:
        """How an operand without a batch is best stored."""
        return value.type.plain

    @abstractmethod
    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
