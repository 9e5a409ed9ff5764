"""Engines: each loads what one family of backends emits, and runs it."""

from __future__ import annotations

from convc.backends.base import Emitted
from convc.engines.base import Engine
from convc.engines.numpy_engine import NumpyEngine
from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.types import DType

CPU = ("cpu", "cpu:processes")
"""Devices of the numpy backend: with threads as workers, or with processes."""


def family(backend: str) -> str:
    """The backend's name without its target: ``triton`` of ``triton:sm_90``."""
    return backend.partition(":")[0]


def device_named(backend: str, device: str | None = None) -> str:
    """Where programs of a backend run: ``device``, or what is usual for it.

    CompileError, before any work, if the device is not there or something that it
    needs is not installed.
    """
    if family(backend) == "triton":
        from convc.engines.device import ready

        usual = "interpret" if backend == "triton:interpret" else "cuda"
        return ready(device or usual)
    if device not in (None, *CPU):
        raise CompileError(
            f"the {backend} backend runs on {' or '.join(CPU)}, not on {device!r}; for "
            "a GPU choose the backend triton"
        )
    return device or CPU[0]


def targeted(backend: str, device: str | None = None) -> str:
    """The backend for the device, which is looked for: ``triton`` gets its target.

    CompileError as ``device_named``.
    """
    place = device_named(backend, device)
    if backend == "triton" and place == "interpret":
        return "triton:interpret"
    if backend != "triton":
        return backend
    from convc.engines.device import architecture, nearest_target

    return f"triton:{nearest_target(architecture(place))}"


def engine_for(
    backend: str, device: str | None, graph: Graph, emitted: Emitted
) -> Engine:
    """The emitted program in memory of its own, all zero.

    CompileError as ``device_named``, and for what Triton's interpreter gets wrong;
    MemoryError if there is no room.
    """
    place = device_named(backend, device)
    if place == "interpret":
        _refuse_bf16(graph)
    if family(backend) == "triton":
        from convc.engines.triton_engine import TritonEngine

        _refuse_larger(backend, place)
        return TritonEngine(graph, emitted, place)
    assert graph.arena is not None, "a program has a planned graph"
    if place == "cpu:processes" and graph.arena.threads > 1:
        from convc.engines.processes import ProcessEngine

        return ProcessEngine(graph, emitted)
    return NumpyEngine(graph, emitted)


def _refuse_larger(backend: str, place: str) -> None:
    """CompileError where tiles were chosen for a GPU with more room than this one."""
    if place == "interpret":
        return
    from convc.backends import backend_named
    from convc.backends.gpu.targets import target_named
    from convc.engines.device import architecture, nearest_target

    meant = target_named(backend_named(backend).target(1).split()[-1])
    here = target_named(nearest_target(architecture(place)))
    larger = meant.block_shared_bytes > here.block_shared_bytes
    if larger or meant.vendor != here.vendor:
        raise CompileError(
            f"the program is made for {meant.name}, and {place} is {here.name}; "
            f"compile it for backend triton:{here.name}, or name the device"
        )


def _refuse_bf16(graph: Graph) -> None:
    """CompileError for bf16, whose bits Triton's interpreter takes for integers."""
    for node in graph.ops():
        if any(v.type.dtype is DType.BF16 for v in (*node.operands, *node.results)):
            where = f" at {node.locs[0]}" if node.locs else ""
            raise CompileError(
                f"{node.op}{where} gives {node.results[0].type}: triton's interpreter "
                "multiplies the bits of bf16 as whole numbers, and its results would "
                "be wrong; ask for precision fp16, or run on a GPU"
            )
