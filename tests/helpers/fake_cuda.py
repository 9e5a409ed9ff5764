"""A stand-in for torch.cuda on a machine without a GPU.

Device memory is the host's, but hosts and devices are kept apart as far as that can be
seen: launches while a graph is captured are recorded and not made, and copies are then
errors, as is anything that waits. What is called, and in which order, is in ``log``.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


class FakeCuda:
    """Put in place by ``fake_cuda``; ``log`` lists what was asked for."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.capturing: Graph | None = None
        self.memory: list[torch.Tensor] = []
        self._now = 0.0

    def note(self, what: str) -> None:
        """Log it; an error if it may not happen while a graph is captured."""
        assert self.capturing is None, f"{what} while a graph is captured"
        self.log.append(what)

    @contextlib.contextmanager
    def device(self, place: str) -> Iterator[None]:
        assert place.startswith("cuda")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield

    def Stream(self) -> "Stream":
        return Stream(self, "side")

    def current_stream(self) -> "Stream":
        return Stream(self, "current")

    @contextlib.contextmanager
    def stream(self, stream: "Stream") -> Iterator[None]:
        self.note(f"on {stream.name}")
        yield
        self.note(f"off {stream.name}")

    def CUDAGraph(self) -> "Graph":
        return Graph(self)

    @contextlib.contextmanager
    def graph(self, graph: "Graph") -> Iterator[None]:
        self.note("capture")
        self.capturing = graph
        yield
        self.capturing = None

    def Event(self, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)

    def owns(self, tensor: torch.Tensor) -> bool:
        where = tensor.untyped_storage().data_ptr()
        return any(where == own.untyped_storage().data_ptr() for own in self.memory)

    def tick(self) -> float:
        self._now += 1.0
        return self._now


class Stream:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: "Stream") -> None:
        self.cuda.note(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self.cuda.note("synchronize")


class Graph:
    """The launches that were recorded."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.launches: list[Callable[[], object]] = []

    def replay(self) -> None:
        self.cuda.note(f"replay {len(self.launches)}")
        for launch in self.launches:
            launch()


class Event:
    """Counts milliseconds: each event is one later than the one before."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.at = cuda, 0.0

    def record(self) -> None:
        self.at = self.cuda.tick()

    def elapsed_time(self, other: "Event") -> float:
        return other.at - self.at


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Torch finds one GPU, an sm_86, and triton's launches go to it."""
    from triton.runtime.interpreter import GridExecutor

    from convc.engines import device

    cuda = FakeCuda()
    for name in ("device", "Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    monkeypatch.setattr(torch.cuda, "Event", cuda.Event)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 7))
    monkeypatch.setattr(device, "_refuse_interpreter", lambda name: None)
    for name in ("empty", "zeros"):
        monkeypatch.setattr(torch, name, _on_host(cuda, getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    for name in ("copy_", "fill_", "zero_", "clone", "cpu"):
        _guard(monkeypatch, cuda, name)
    launch = GridExecutor.__call__

    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        graph = cuda.capturing
        if graph is None:
            cuda.log.append(self.fn.__name__)
            launch(self, *args, **kwargs)
        else:
            graph.launches.append(lambda: launch(self, *args, **kwargs))

    monkeypatch.setattr(GridExecutor, "__call__", recorded)
    return cuda


def _on_host(cuda: FakeCuda, make: Callable[..., Any]) -> Callable[..., Any]:
    """torch.empty and torch.zeros; what is asked for on the GPU lies on the host."""

    def made(*args: Any, device: object = None, **kwargs: Any) -> Any:
        tensor = make(*args, **kwargs)
        if str(device).startswith("cuda"):
            cuda.memory.append(tensor)
        return tensor

    return made


def _guard(patch: pytest.MonkeyPatch, cuda: FakeCuda, name: str) -> None:
    """A method of tensors that may not be called while a graph is captured.

    ``cpu`` copies what is not the host's, as it would from a GPU.
    """
    original = getattr(torch.Tensor, name)
    clone = torch.Tensor.clone

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert cuda.capturing is None, f"{name} while a graph is captured"
        if name == "cpu" and cuda.owns(self):
            return clone(self)
        return original(self, *args, **kwargs)

    patch.setattr(torch.Tensor, name, method)
