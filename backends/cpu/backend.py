"""The numpy backend as the compiler sees it."""

import platform
from dataclasses import replace

import numpy as np

from convc.backends.base import Candidate, Emitted, Scratch
from convc.backends.cpu.emit import emit_program
from convc.backends.cpu.kernel import Kernel
from convc.backends.cpu.table import emitter_for
from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Node
from convc.ir.types import TensorType, batch_last


class NumpyBackend:
    """Emits NumPy; stores every batched value with the batch innermost."""

    name = "numpy"
    threaded = True
    redraws_masks = False

    def layout(self, tensor: TensorType) -> TensorType:
        """The batch innermost."""
        return batch_last(tensor)

    def reads_as_given(self, kernel: Node, operand: int) -> bool:
        """Whether an operand may be stored batch first, at no cost."""
        bound = Kernel(kernel, 1)
        value = bound.region.inputs[operand]
        return emitter_for(bound).reads_as_given(bound, value)

    def stores_weights(self, kernel: Node, operand: int, batch: int) -> TensorType:
        """A matrix turned, where one image is multiplied by it."""
        bound = Kernel(kernel, 1)
        value = bound.region.inputs[operand]
        return emitter_for(bound).stores_weights(bound, value, batch)

    def target(self, threads: int) -> str:
        """NumPy's version, the processor's architecture and the number of threads."""
        version = ".".join(np.__version__.split(".")[:2])
        return f"numpy {version} {platform.machine()} threads={threads}"

    def candidates(
        self, kernel: Node, batch: int, threads: int
    ) -> tuple[Candidate, ...]:
        """Every schedule, best prediction first; CompileError if no emitter has one."""
        bound = Kernel(kernel, threads)
        emitter = emitter_for(bound)
        found = []
        for schedule in emitter.schedules(bound, batch):
            scheduled = replace(bound, node=replace(kernel, schedule=schedule))
            cost, direct = emitter.cost(scheduled, batch), emitter.is_direct(scheduled)
            found.append(Candidate(schedule, cost, direct))
        return tuple(sorted(found, key=lambda c: c.cost.seconds))

    def check_schedule(self, kernel: Node, batch: int, threads: int) -> None:
        """CompileError when the kernel cannot run as it is scheduled."""
        bound = Kernel(kernel, threads)
        every = emitter_for(bound).schedules(bound, batch)
        known = {s["algorithm"]: s for s in every}
        name, algorithm = kernel.attrs["name"], bound.schedule.get("algorithm")
        if algorithm not in known:
            raise CompileError(
                f"kernel {name}: unknown algorithm {algorithm!r}, "
                f"known: {', '.join(map(str, known))}"
            )
        wanted = known[algorithm]
        if set(bound.schedule) != set(wanted):
            raise CompileError(
                f"kernel {name}: its schedule has {sorted(bound.schedule)}, "
                f"the numpy backend wants {sorted(wanted)}"
            )
        for key in set(wanted) - {"algorithm"}:
            bound.integer(key)
        bound.check_batch(batch)
        emitter_for(bound).check(bound)

    def scratch(self, kernel: Node, threads: int) -> tuple[Scratch, ...]:
        """The scratch each worker needs."""
        bound = Kernel(kernel, threads)
        return emitter_for(bound).scratch(bound)

    def in_place(self, kernel: Node) -> tuple[tuple[int, int], ...]:
        """The operands and results that may share bytes."""
        bound = Kernel(kernel, 1)
        return emitter_for(bound).in_place(bound)

    def emit(self, graph: Graph) -> Emitted:
        """The source file of a planned graph."""
        if graph.arena is None:
            raise CompileError("only a planned graph can be emitted; run plan-memory")
        return emit_program(graph, graph.arena)
