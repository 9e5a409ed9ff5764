"""The numpy backend as the compiler sees it."""

from convc.backends.base import Scratch
from convc.backends.cpu.emit import emit_program
from convc.backends.cpu.kernel import Kernel
from convc.backends.cpu.table import emitter_for
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Graph, Node
from convc.ir.types import TensorType, batch_last


class NumpyBackend:
    """Emits NumPy; stores every batched value with the batch innermost."""

    name = "numpy"

    def layout(self, tensor: TensorType) -> TensorType:
        """The batch innermost."""
        return batch_last(tensor)

    def schedule(self, kernel: Node, batch: int, threads: int) -> Attrs:
        """The default schedule; CompileError if no emitter takes the kernel."""
        bound = Kernel(kernel, threads)
        return emitter_for(bound).schedule(bound, batch)

    def check_schedule(self, kernel: Node, threads: int) -> None:
        """CompileError when the kernel cannot run as it is scheduled."""
        bound = Kernel(kernel, threads)
        emitter = emitter_for(bound)
        wanted = emitter.schedule(bound, 1)
        name = kernel.attrs["name"]
        if set(bound.schedule) != set(wanted):
            raise CompileError(
                f"kernel {name}: its schedule has {sorted(bound.schedule)}, "
                f"the numpy backend wants {sorted(wanted)}"
            )
        if bound.schedule["algorithm"] != wanted["algorithm"]:
            raise CompileError(
                f"kernel {name}: unknown algorithm {bound.schedule['algorithm']!r}, "
                f"known: {wanted['algorithm']}"
            )
        for key in set(wanted) - {"algorithm"}:
            bound.integer(key)

    def scratch(self, kernel: Node, threads: int) -> tuple[Scratch, ...]:
        """The scratch each worker needs."""
        bound = Kernel(kernel, threads)
        return emitter_for(bound).scratch(bound)

    def emit(self, graph: Graph) -> str:
        """The source file of a planned graph."""
        if graph.arena is None:
            raise CompileError("only a planned graph can be emitted; run plan-memory")
        return emit_program(graph, graph.arena)
