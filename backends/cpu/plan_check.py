"""Checks of a memory plan that only the emitted code depends on.

The verifier knows that buffers do not collide; that a view lies on its source, an
update on its parameter, an optimizer's parameters in one block, that values are stored
in the order that the code takes them to be in and have a reader, that code which writes
on its operands can do so, and that scratch is as large as the emitted code takes it to
be, is checked here: a plan may come from text.
"""

from collections.abc import Iterable, Sequence
from itertools import product

from convc.backends.base import flat_groups
from convc.backends.cpu.kernel import Kernel
from convc.backends.cpu.table import emitter_for
from convc.ir.errors import CompileError
from convc.ir.graph import VIEWS, Arena, Graph, Value
from convc.ir.types import batch_last


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
        _check_orders(kernel)
        _check_readers(kernel)
        kernel.check_batch(arena.batch)
        _check_scratch(kernel)
        _check_in_place(kernel)
        for group in flat_groups(kernel.node):
            _check_block(kernel, group)


def _check_orders(kernel: Kernel) -> None:
    """The batch is innermost; operands may be as given, or weights of one image turned.

    Where the code takes both.
    """
    emitter, operands = emitter_for(kernel), kernel.node.operands
    given = set()
    for inside, outside in zip(kernel.region.inputs, operands, strict=True):
        as_given = outside.type == outside.type.plain
        if as_given and emitter.reads_as_given(kernel, inside):
            given.add(outside)
        turned = emitter.stores_weights(kernel, inside, batch=1)
        if outside.type == turned and not outside.type.batched:
            given.add(outside)
    for value in (*operands, *kernel.node.results):
        wanted = batch_last(value.type)
        if value.type != wanted and value not in given:
            raise _refused(
                kernel,
                f"{value} is stored as {value.type}, the numpy backend wants {wanted}; "
                "choose its layout again",
            )


def _check_readers(kernel: Kernel) -> None:
    """Every op has a result that another op reads or the kernel yields."""
    read = {v for node in kernel.ops for v in node.operands} | {*kernel.region.yields}
    for node in kernel.ops:
        if read.isdisjoint(node.results):
            raise _refused(
                kernel,
                f"nothing reads {node.results[0]}, the result of its {node.op}; yield "
                "it, or leave the op out",
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


def _check_in_place(kernel: Kernel) -> None:
    """A result lies on an operand only where the code allows it, and then exactly."""
    tolerated = emitter_for(kernel).in_place(kernel)
    operands, results = (
        enumerate(v) for v in (kernel.node.operands, kernel.node.results)
    )
    for (i, old), (j, new) in product(operands, results):
        a, b = kernel.buffers[old.name], kernel.buffers[new.name]
        apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
        if not apart and ((i, j) not in tolerated or a.offset != b.offset):
            raise _misplanned(
                kernel,
                f"its result {new} at offset {b.offset} lies on {old} at {a.offset}, "
                "which its code still reads",
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
    return _refused(kernel, f"{reason}; choose its schedule and plan its memory again")


def _refused(kernel: Kernel, reason: str) -> CompileError:
    name, where = kernel.node.attrs["name"], kernel.where()
    return CompileError(f"kernel {name} at {where}: {reason}")
