"""Where Triton programs run: a GPU that torch finds, or Triton's interpreter.

torch and triton are imported here, when a device is first asked for.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from convc.backends.gpu.targets import TARGETS
from convc.ir.errors import CompileError, RunError
from convc.ir.ops.base import Array

Call = Callable[[], object]

FLUSHED = 256 << 20
"""Bytes that are written between two timed kernels, so that no cache helps one."""
LOOK = 100
"""Steps on a GPU between two looks at what they gave."""
_SWITCH = "TRITON_INTERPRET"


class Device(Protocol):
    """Memory and launches of one device; ``place`` is its name for torch.

    ``live`` says that the host can see its memory, ``interval`` how many steps are
    worth running before the host looks at the results.
    """

    name: str
    place: str
    live: bool
    interval: int

    def architecture(self) -> str:
        """What kind of device it is, as targets are called."""
        ...

    def active(self) -> AbstractContextManager[object]:
        """In force while anything is launched."""
        ...

    def staging(self, like: Any) -> Any:
        """A host tensor for what is copied to or from the tensor ``like``."""
        ...

    def wait(self) -> None:
        """Return when all that was launched is done."""
        ...

    def captured(self, step: Call, count: int, kept: Sequence[Any]) -> Call:
        """A call that makes ``count`` steps, with one launch where that is possible.

        The tensors in ``kept`` are as before when it has been prepared.
        """
        ...

    def seconds(self, groups: Sequence[Sequence[Call]], rounds: int) -> list[float]:
        """How long each group takes, in each of the rounds; one round after another."""
        ...

    def spans(
        self, groups: Sequence[Sequence[Call]], rounds: int
    ) -> list[tuple[float, float]]:
        """When each group began and ended, all groups in a row, after one such row."""
        ...


class Interpreted:
    """Triton's interpreter: the program's memory is the host's."""

    name, place, live, interval = "interpret", "cpu", True, 1

    def architecture(self) -> str:
        """No GPU's."""
        return self.name

    @contextmanager
    def active(self) -> Iterator[None]:
        """Infinities and NaN pass through without a warning, as on a GPU.

        But a row of nothing but NaN has no largest number for the interpreter.
        """
        from triton.runtime.errors import InterpreterError

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                yield
            except InterpreterError as error:
                if "All-NaN slice" not in str(error):
                    raise
                raise RunError(
                    "a kernel met a row of nothing but NaN, where triton's interpreter "
                    "gives up; use a smaller learning rate (a tenth, say), and look "
                    "for pixels or labels that are out of range"
                ) from error

    def staging(self, like: Any) -> Any:
        """The tensor itself."""
        return like

    def wait(self) -> None:
        """Nothing: a launch returns when it is done."""

    def captured(self, step: Call, count: int, kept: Sequence[Any]) -> Call:
        """The steps, one after another."""
        del kept

        def steps() -> None:
            for _ in range(count):
                step()

        return steps

    def seconds(self, groups: Sequence[Sequence[Call]], rounds: int) -> list[float]:
        """By the host's clock."""
        return [end - begin for begin, end in self.spans(groups, rounds)]

    def spans(
        self, groups: Sequence[Sequence[Call]], rounds: int
    ) -> list[tuple[float, float]]:
        """By the host's clock; nothing needs to be warm."""
        found = []
        for _ in range(rounds):
            for calls in groups:
                began = perf_counter()
                for call in calls:
                    call()
                found.append((began, perf_counter()))
        return found


class Cuda:
    """A GPU; torch says cuda to AMD's, too."""

    live, interval = False, LOOK

    def __init__(self, name: str) -> None:
        import torch

        self.name = self.place = name
        self._torch: Any = torch

    def architecture(self) -> str:
        """The GPU's."""
        return architecture(self.name)

    def active(self) -> AbstractContextManager[object]:
        """Launches go to this GPU."""
        context: AbstractContextManager[object] = self._torch.cuda.device(self.place)
        return context

    def staging(self, like: Any) -> Any:
        """Memory that is not paged out, so that copies need no host."""
        empty = self._torch.empty(like.shape, dtype=like.dtype, device="cpu")
        return empty.pin_memory()

    def wait(self) -> None:
        """Wait for the current stream."""
        self._torch.cuda.current_stream().synchronize()

    def captured(self, step: Call, count: int, kept: Sequence[Any]) -> Call:
        """A CUDA graph; a step is run first, so that every kernel is loaded."""
        cuda = self._torch.cuda
        saved = [tensor.clone() for tensor in kept]
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            step()
            for tensor, old in zip(kept, saved, strict=True):
                tensor.copy_(old)
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            for _ in range(count):
                step()
        replay: Call = graph.replay
        return replay

    def seconds(self, groups: Sequence[Sequence[Call]], rounds: int) -> list[float]:
        """By events around each group, the caches flushed before; a round warms up."""
        flushed = self._torch.empty(FLUSHED, dtype=self._torch.uint8, device=self.place)
        marks = self._marked(groups, rounds, flushed.zero_)
        return [a.elapsed_time(b) / 1e3 for a, b in marks[len(groups) :]]

    def spans(
        self, groups: Sequence[Sequence[Call]], rounds: int
    ) -> list[tuple[float, float]]:
        """By events between launches, which are queued faster than they run."""
        marks = self._marked(groups, rounds, lambda: None)
        first = marks[0][0]
        return [
            (first.elapsed_time(a) / 1e3, first.elapsed_time(b) / 1e3)
            for a, b in marks[len(groups) :]
        ]

    def _marked(
        self, groups: Sequence[Sequence[Call]], rounds: int, before: Call
    ) -> list[tuple[Any, Any]]:
        """Events around each group in one round more, ``before`` called ahead of it."""
        marks = []
        for _ in range(rounds + 1):
            for calls in groups:
                event = self._torch.cuda.Event
                begin, end = (event(enable_timing=True) for _ in range(2))
                before()
                begin.record()
                for call in calls:
                    call()
                end.record()
                marks.append((begin, end))
        self.wait()
        return marks


def architecture(name: str) -> str:
    """What kind of GPU that is, as targets are called: sm_90, gfx942."""
    import torch

    if torch.version.hip:
        properties = torch.cuda.get_device_properties(name)
        return str(properties.gcnArchName).partition(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(name))


def nearest_target(kind: str) -> str:
    """The target whose schedules suit a kind of GPU: its own, or the next older.

    CompileError if there is none.
    """
    if kind in TARGETS:
        return kind
    if kind.startswith("gfx9"):
        return "gfx942"
    numbers = sorted(int(name[3:]) for name in TARGETS if name.startswith("sm_"))
    older = [n for n in numbers if kind.startswith("sm_") and n < int(kind[3:])]
    if not older:
        raise CompileError(
            f"this GPU is {kind}; the triton backend has kernels for gfx942 and for "
            f"NVIDIA's from sm_{numbers[0]} on"
        )
    return f"sm_{older[-1]}"


def device(name: str) -> Device:
    """The device called ``name``, which ``ready`` has found."""
    return Interpreted() if name == Interpreted.name else Cuda(name)


@contextmanager
def room(what: str) -> Iterator[None]:
    """MemoryError if the device has no room for ``what``, whatever torch raises."""
    try:
        yield
    except RuntimeError as error:  # torch's own are RuntimeErrors
        if not re.search("out of memory|allocate memory", str(error)):
            raise
        raise MemoryError(f"there is no room for {what}") from error


def fetched(tensor: Any) -> Array:
    """A tensor's elements on the host; where it lies there, a live view."""
    array: Array = tensor.detach().cpu().numpy()
    return array


def uploaded(tensor: Any, array: Array) -> None:
    """Copy an array of the same shape, or a scalar, to a tensor."""
    import torch

    tensor.copy_(torch.from_numpy(np.array(array)))


def ready(name: str) -> str:
    """``name``, a device that can be used: ``interpret``, ``cuda`` or ``cuda:1``.

    For ``interpret`` Triton's interpreter is switched on, which must happen before
    triton is imported. CompileError that says what is missing and how to get it.
    """
    if not re.fullmatch(r"interpret|cuda(:\d+)?", name):
        raise CompileError(
            f"unknown device {name!r}; a Triton program runs on cuda, cuda:1 and so "
            "on, or, interpreted on the CPU, on interpret"
        )
    for module in ("torch", "triton"):
        if find_spec(module) is None:
            raise CompileError(
                f"the triton backend runs programs with torch and triton, and {module} "
                "is not installed; pip install 'convc[triton]'"
            )
    if name == Interpreted.name:
        _interpreting()
    else:
        _gpu(name)
    return name


def _interpreting() -> None:
    """Switch the interpreter on; CompileError if it is too late for that."""
    if "triton" not in sys.modules:
        os.environ[_SWITCH] = "1"
    if not _is_interpreting():
        raise CompileError(
            f"triton was imported without {_SWITCH}=1, so it cannot interpret in this "
            f"process; set {_SWITCH}=1 before triton is imported, or use a new process"
        )


def _is_interpreting() -> bool:
    """Whether triton was imported as an interpreter."""
    from triton.language.standard import cdiv
    from triton.runtime.jit import JITFunction

    return not isinstance(cdiv, JITFunction)


def _gpu(name: str) -> None:
    """CompileError unless torch and triton can use that GPU."""
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        why = "finds none" if built else "is built for the CPU"
        raise CompileError(
            f"device {name} is a GPU, and torch {torch.__version__} {why}; install a "
            "driver and a torch for it (https://pytorch.org), or run interpreted on "
            "the CPU: --interpret, or backend triton:interpret"
        )
    number, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= count:
        raise CompileError(
            f"device {name} is not there; torch finds {count}: cuda:0"
            + (f" to cuda:{count - 1}" if count > 1 else "")
        )
    _refuse_interpreter(name)


def _refuse_interpreter(name: str) -> None:
    """CompileError if triton interprets in this process."""
    if _is_interpreting():
        raise CompileError(
            f"{_SWITCH} is set, so triton interprets and cannot use device {name}; "
            "unset it, or take the device interpret"
        )
