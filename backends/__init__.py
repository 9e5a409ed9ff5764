"""Targets: each turns a planned graph into readable source. They know the IR only."""

from convc.backends.base import Backend
from convc.backends.cpu.backend import NumpyBackend
from convc.ir.errors import CompileError

BACKENDS: dict[str, Backend] = {"numpy": NumpyBackend()}
"""Every backend by the name users give."""


def backend_named(name: str) -> Backend:
    """The backend called ``name``; CompileError that lists those there are."""
    if name not in BACKENDS:
        raise CompileError(f"unknown backend {name!r}, known: {', '.join(BACKENDS)}")
    return BACKENDS[name]
