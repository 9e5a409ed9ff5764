"""Checks of a memory plan that only the emitted code depends on.

The verifier knows that buffers do not collide; that a view lies on its source, an
update on its parameter, an optimizer's parameters in one block, and that scratch is as
large as the emitted code takes it to be, is checked here: a plan may come from text.
"""

from collections.abc import Iterable, Sequence

from convc.backends.base import flat_groups
from convc.backends.cpu.kernel import Kernel
from convc.ir.errors import CompileError
from convc.ir.graph import VIEWS, Arena, Graph, Value


def check_plan(graph: Graph, arena: Arena, kernels: Sequence[Kernel]) -> None:
    """CompileError, with both sides, when the emitted code would use other memory."""
    buffers = {b.name: b for b in arena.buffers}
    homes = [(value, parameter) for parameter, value in graph.updates]
    homes += [(n.result, n.operands[0]) for n in graph.nodes if n.op in VIEWS]
    for value, home in homes:
        at, wanted = buffers[value.name].offset, buffers[home.name].offset
        if at != wanted:
            raise CompileError(
                f"memory plan: {value} must lie on {home} at offset {wanted}, it lies "
                f"at {at}; run plan-memory again"
            )
    for kernel in kernels:
        _check_batch(kernel, arena.batch)
        _check_scratch(kernel)
        for group in flat_groups(kernel.node):
            _check_block(kernel, group)


def _check_batch(kernel: Kernel, batch: int) -> None:
    planned = kernel.schedule.get("batch", batch)
    if not isinstance(planned, int) or planned < batch:
        raise _misplanned(
            kernel, f"its schedule is for {planned} images, the program for {batch}"
        )


def _check_scratch(kernel: Kernel) -> None:
    for scratch in kernel.scratches:
        name = f"{kernel.node.name}!{scratch.name}"
        needed = scratch.nbytes * kernel.threads
        has = kernel.buffers[name].size if name in kernel.buffers else 0
        if has < needed:
            raise _misplanned(
                kernel, f"its scratch %{name} needs {needed} bytes, the plan has {has}"
            )


def _check_block(kernel: Kernel, group: Iterable[Value]) -> None:
    end = None
    for value in group:
        offset = kernel.buffers[value.name].offset
        if end is not None and offset != end:
            raise _misplanned(
                kernel,
                f"{value} must follow the one before it at offset {end}, it lies at "
                f"{offset}",
            )
        end = offset + value.type.nbytes(1)


def _misplanned(kernel: Kernel, reason: str) -> CompileError:
    name, where = kernel.node.attrs["name"], kernel.where()
    return CompileError(
        f"kernel {name} at {where}: {reason}; choose its schedule and plan its memory "
        "again"
    )
