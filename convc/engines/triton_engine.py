"""Runs programs of the Triton backend: one arena on a device, launches, graphs.

A step launches, never allocates, and never waits for the device; what it gave is
fetched when it is over.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from convc.backends.base import Emitted
from convc.engines.base import NoRoom, Resident, load_source
from convc.engines.device import Call, device, fetched, room, uploaded
from convc.engines.launches import launches
from convc.ir.graph import Graph, Value
from convc.ir.ops.base import Array


class TritonEngine:
    """The emitted program on a device, which ``device.ready`` has found.

    ``emitted`` is the instance of its own class, ``calls`` has one call for each
    launch. On a GPU ``run`` replays a CUDA graph of the step, unless ``graphs`` is set
    to False.
    """

    def __init__(self, graph: Graph, emitted: Emitted, place: str) -> None:
        assert graph.arena is not None
        self.graph, self.arena, self.device = graph, graph.arena, device(place)
        self.graphs = True
        module = load_source(emitted.source, graph.name)
        with self.device.active(), room("the arena"):
            self.emitted = module.Program(self.device.place)
        with self.device.active():
            self.calls = launches(emitted.source, module, self.emitted, self.device)
        self.launches_of: list[int] = module.LAUNCHES_OF
        names = [v.name for v in graph.inputs]
        names += [f"-> {name}" for name, _ in graph.outputs]
        self._staged = {n: self.device.staging(self.emitted.array(n)) for n in names}
        self.images_set: int | None = None
        """The number of images that the kernels look up, where it is known."""

    # -- parameters

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Live views where the host sees the device's memory, else read-only copies."""
        if self.device.live:
            return self._views
        arrays = {name: fetched(t) for name, t in self._tensors.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return arrays

    @cached_property
    def _views(self) -> dict[str, Array]:
        return {name: fetched(tensor) for name, tensor in self._tensors.items()}

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        """Every parameter where it lies."""
        names = [p.value.name for p in self.graph.parameters]
        return {name: self.emitted.array(name) for name in names}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Set every parameter."""
        for name, tensor in self._tensors.items():
            uploaded(tensor, arrays[name])

    # -- running

    def input(self, name: str, n: int) -> Array:
        """What ``run`` uploads; a live view where the host sees the memory."""
        return fetched(self._part(name, n))

    def _part(self, name: str, n: int) -> Any:
        """What n images need of a staging tensor."""
        like = self.emitted.array(name, n)
        return self._staged[name].view(-1)[: like.numel()].view(like.shape)

    def run(self, n: int) -> dict[str, Array]:
        """One step: inputs up, one launch of a graph or all launches, outputs down."""
        with self.device.active():
            self._begin(n)
            self._step()
            return self._outputs(n)

    def _begin(self, n: int) -> None:
        """The inputs, and how many images they are, for the launches that follow."""
        if not self.device.live:
            for value in self.graph.inputs:
                self.upload(value.name, n)
        if n != self.images_set:
            self.emitted.at("!images").fill_(n)
            self.images_set = n

    def upload(self, name: str, n: int) -> None:
        """Copy an input from where the host left it to the device."""
        there = self.emitted.array(name, n)
        there.copy_(self._part(name, n), non_blocking=True)

    def _step(self) -> None:
        if self.graphs:
            self._replay()
        else:
            self.launch_all()

    @cached_property
    def _replay(self) -> Call:
        """The whole step. It serves every number of images: the kernels look it up."""
        return self.device.captured(self.launch_all, 1, self.kept)

    @property
    def kept(self) -> list[Any]:
        """What a step changes and the next one reads."""
        return list(self._tensors.values())

    def launch_all(self) -> None:
        """Every launch of a step."""
        for call in self.calls:
            call()

    def _outputs(self, n: int) -> dict[str, Array]:
        names = [name for name, _ in self.graph.outputs]
        if not self.device.live:
            for name in names:
                there = self.emitted.array(f"-> {name}", n)
                self._part(f"-> {name}", n).copy_(there, non_blocking=True)
            self.device.wait()
        return {name: np.array(fetched(self._part(f"-> {name}", n))) for name in names}

    def resident(
        self, images: tuple[str, Array], labels: tuple[str, Array], graphed: int
    ) -> Resident | None:
        """Steps whose batches the device gathers itself."""
        from convc.engines.resident import DeviceBatches

        nbytes = images[1].nbytes + labels[1].nbytes
        try:
            with self.device.active(), room(f"{nbytes:,} bytes of images"):
                return DeviceBatches(self, images, labels, graphed)
        except MemoryError as error:
            raise NoRoom(f"{error} on {self.device.name}") from error

    # -- kernel by kernel

    def _groups(self) -> list[list[Call]]:
        """The launches of each node."""
        calls = iter(self.calls)
        return [[next(calls) for _ in range(count)] for count in self.launches_of]

    def kernel_seconds(self, rounds: int, n: int) -> list[list[float]]:
        """Times of kernels, each from the first of its launches to the last."""
        groups = self._groups()
        with self.device.active():
            self._begin(n)
            times = self.device.seconds(groups, rounds)
        return [times[at :: len(groups)] for at in range(len(groups))]

    def spans(self, rounds: int, n: int) -> Array:
        """As the device's own clock has it, one worker, after a step that warms up."""
        groups = self._groups()
        with self.device.active():
            self._begin(n)
            times = self.device.spans(groups, rounds)
        return np.reshape(times, (rounds, len(groups), 1, 2))

    def stepwise(self, n: int) -> Iterator[None]:
        """A step, node by node; each is done when it is yielded."""
        with self.device.active():
            self._begin(n)
        for calls in self._groups():
            with self.device.active():
                for call in calls:
                    call()
                self.device.wait()
            yield

    def peek(self, value: Value, n: int) -> Array:
        """A view where the host sees the device's memory, else a copy."""
        kind, order = value.type.dtype.numpy, value.type.order
        stored = fetched(self._bytes(value, n)).view(kind)
        shaped = stored.reshape(value.type.storage(n))
        return shaped.transpose([order.index(axis) for axis in range(len(order))])

    def poke(self, value: Value, array: Array, n: int) -> None:
        """Write the value's bytes."""
        whole = np.broadcast_to(array, value.type.bind(n))
        stored = whole.transpose(value.type.order).astype(value.type.dtype.numpy)
        raw = np.ascontiguousarray(stored).reshape(-1).view(np.uint8)
        uploaded(self._bytes(value, n), raw)

    def _bytes(self, value: Value, n: int) -> Any:
        start = next(b.offset for b in self.arena.buffers if b.name == value.name)
        return self.emitted.arena[start : start + value.type.nbytes(n)]

    def forget(self) -> None:
        """Fill the planned part of the arena; the launches' own counters stay."""
        self.emitted.arena[: self.arena.size].fill_(255)
