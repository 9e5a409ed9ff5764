"""Targets: each turns a planned graph into readable source. They know the IR only."""

from functools import cache

from convc.backends.base import Backend
from convc.backends.cpu.backend import NumpyBackend
from convc.ir.errors import CompileError

BACKENDS = ("numpy", "triton")
"""Every backend that compiles, by the name users give; a device may follow:
``triton:sm_90``."""


@cache
def backend_named(name: str) -> Backend:
    """The backend called ``name``; CompileError that lists those there are."""
    kind, _, device = name.partition(":")
    if kind == "numpy" and not device:
        return NumpyBackend()
    if kind == "triton":
        from convc.backends.gpu.backend import TritonBackend

        return TritonBackend(*filter(None, [device]))
    if kind == "torch":
        raise CompileError(
            "the torch backend takes a graph as traced, and knows none of our passes, "
            "schedules or plans; convc compile writes its file, convc compare and "
            "convc bench run it"
        )
    raise CompileError(f"unknown backend {name!r}, known: {', '.join(BACKENDS)}")
