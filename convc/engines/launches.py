"""The launches of an emitted Triton program, each as a call without arguments.

1. Where the kind of GPU is one of the targets, its kernels are compiled side by side,
   or come from the user's cache, and each launch goes past Triton's dispatch.
2. Elsewhere, in the interpreter too, it is as the emitted file launches it itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from convc.backends.gpu.compiling import compile_source, ready
from convc.backends.gpu.targets import TARGETS
from convc.backends.gpu.workers import Progress
from convc.engines.device import Call, Device


def launches(source: str, module: Any, emitted: Any, device: Device) -> list[Call]:
    """One call for each entry of the emitted LAUNCHES, on the program's own memory.

    CompileError names the kernel that cannot be compiled, and why.
    """
    entries, kind = module.LAUNCHES, device.architecture()
    if device.live or kind not in TARGETS:  # case 2
        return [partial(emitted.launch, at) for at in range(len(entries))]
    with _bar() as progress:
        compiled = compile_source(source, kind, progress=progress)
    calls: list[Call] = []
    for kernel, entry in zip(ready(module, compiled), entries, strict=True):
        _, programs, pointers, *_ = entry
        calls.append(partial(kernel[programs, 1, 1], *map(emitted.at, pointers)))
    if hasattr(emitted, "workspace"):
        return [partial(_allocating, emitted.workspace, call) for call in calls]
    return calls


def _allocating(workspace: Any, call: Call) -> None:
    """A launch whose descriptors lie in memory of its own program."""
    import triton

    triton.set_allocator(workspace)
    call()


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """On a terminal, a bar of the kernels that are compiled; it goes when it ends."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Bar(console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=None)

        def told(done: int, count: int, kernel: str) -> None:
            bar.update(task, completed=done, total=count, description=kernel)

        yield told
