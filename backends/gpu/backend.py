"""The triton backend as the compiler sees it."""

from convc.backends.base import Candidate, Emitted, Scratch
from convc.backends.gpu.emit import emit_program
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.region import launches, scratch_values
from convc.backends.gpu.schedules import candidates
from convc.backends.gpu.targets import target_named
from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Node
from convc.ir.types import TensorType


class TritonBackend:
    """Emits Triton; stores every value in the plain layout, images NHWC."""

    threaded = False
    redraws_masks = True

    def __init__(self, target: str = "sm_90") -> None:
        self.device = target_named(target)
        self.name = f"triton:{target}"

    def layout(self, tensor: TensorType) -> TensorType:
        """The plain one."""
        return tensor.plain

    def reads_as_given(self, kernel: Node, operand: int) -> bool:
        """Always: the layout is that of the host."""
        return True

    def stores_weights(self, kernel: Node, operand: int, batch: int) -> TensorType:
        """The plain layout."""
        return kernel.operands[operand].type.plain

    def target(self, threads: int) -> str:
        """The kind of device."""
        return f"triton {self.device.name}"

    def candidates(
        self, kernel: Node, batch: int, threads: int
    ) -> tuple[Candidate, ...]:
        """Every schedule, best prediction first; CompileError if there is none."""
        return candidates(Kernel(kernel, batch), self.device)

    def check_schedule(self, kernel: Node, batch: int, threads: int) -> None:
        """CompileError when the kernel cannot run as it is scheduled."""
        bound = Kernel(kernel, batch)
        known = {frozenset(c.schedule) for c in self.candidates(kernel, batch, threads)}
        if frozenset(bound.schedule) not in known:
            wanted = " or ".join(str(sorted(keys)) for keys in known)
            raise CompileError(
                f"kernel {kernel.attrs['name']}: its schedule has "
                f"{sorted(bound.schedule)}, the triton backend wants {wanted}"
            )
        launches(bound)
        for key in bound.schedule:
            if key.startswith("images_") and bound.integer(key) < batch:
                raise CompileError(
                    f"kernel {kernel.attrs['name']}: its schedule is for "
                    f"{bound.integer(key)} images, the program for {batch}; choose "
                    "its schedule again"
                )

    def scratch(self, kernel: Node, threads: int) -> tuple[Scratch, ...]:
        """The parts of sums that are added by a second launch."""
        return tuple(
            Scratch(v.name.partition("!")[2], v.type.dtype, v.type.inner)
            for v in scratch_values(Kernel(kernel))
        )

    def in_place(self, kernel: Node) -> tuple[tuple[int, int], ...]:
        """No operand is overwritten but by its own update."""
        return ()

    def emit(self, graph: Graph) -> Emitted:
        """The source file of a planned graph."""
        if graph.arena is None:
            raise CompileError("only a planned graph can be emitted; run plan-memory")
        return emit_program(graph, graph.arena)
