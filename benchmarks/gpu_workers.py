"""A process that does one job of the benchmark after the other, and may be lost.

A wrong kernel can take a whole CUDA context with it, a compilation can take for ever:
jobs run in a process of their own, which is replaced after either.
"""

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

Row = dict[str, Any]

KINDS: Mapping[str, tuple[str, str]] = {
    "peaks": ("gpu_timing", "peaks"),
    "network": ("gpu_networks", "network"),
    "layer": ("gpu_layers", "layer"),
    "tune": ("gpu_tuning", "tune_network"),
}
"""For each kind of job the module and the function that does it."""


SOURCES: Mapping[str, tuple[str, str]] = {
    "network": ("gpu_networks", "network_sources"),
    "layer": ("gpu_layers", "layer_sources"),
}
"""Those whose programs can be compiled ahead, and the function that emits them."""


@dataclass(frozen=True)
class Job:
    """What to do, by the name of its kind, and the function's arguments."""

    name: str
    kind: str
    arguments: Row = field(default_factory=dict)


class Worker:
    """Runs jobs in another process, which is started when it is needed."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._process: Any = None
        self._pipe: Any = None

    def run(self, job: Job, deadline: float) -> Row:
        """The job's row, or one with the key ``error``.

        The job is given up when ``time.monotonic()`` reaches the deadline.
        """
        began = time.monotonic()
        try:
            self.start()
            self._pipe.send(job)
            if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
                self.stop()
                return {"error": f"given up after {time.monotonic() - began:.0f} s"}
            row, healthy = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self.stop()
            return {"error": f"the process died, exit code {code}"}
        if not healthy:
            self.stop()
        return {**row, "took_s": round(time.monotonic() - began, 2)}

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = None

    def start(self) -> None:
        """Start the process, if there is none, and wait until it has the device."""
        if self._process is not None:
            return
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._device))
        self._process.start()
        theirs.close()
        self._pipe.recv()


def serve(pipe: Connection, device: str) -> None:
    """Answer every job with its row and whether the process is fit for another."""
    from emitted_programs import numbers_of

    from convc.engines.device import ready
    from convc.ir.errors import ConvcError

    pipe.send(ready(device))
    with numbers_of(device):
        while True:
            try:
                job = pipe.recv()
            except EOFError:
                return
            module, name = KINDS[job.kind]
            function: Callable[..., Row] = getattr(import_module(module), name)
            try:
                answer = function(device=device, **job.arguments), True
            except ConvcError as error:
                answer = {"error": str(error)}, True
            except Exception as error:  # noqa: BLE001 - a lost job is a row, too
                answer = {"error": f"{type(error).__name__}: {error}"}, False
            pipe.send(answer)
            gc.collect()  # programs and what they hold on the device


class Ahead:
    """Compiles what jobs will launch before they are done, without the device.

    What it makes lies in the user's cache of machine code. It leaves half of the cores
    alone, and never says that something failed: the job itself will.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._made: list[Any] = []

    def begin(self, jobs: Sequence[Job], backend: str) -> None:
        """Start with the first of the jobs."""
        count = max(1, (os.cpu_count() or 1) // 2)
        self._pool = multiprocessing.get_context("spawn").Pool(count, _politely)
        chosen = [(job, backend) for job in jobs if job.kind in SOURCES]
        self._made = [self._pool.apply_async(compile_job, one) for one in chosen]

    def stop(self) -> int:
        """End all processes; of how many jobs everything was compiled."""
        if self._pool is None:
            return 0
        done = sum(made.ready() and made.successful() for made in self._made)
        self._pool.terminate()
        self._pool.join()
        return done


def _politely() -> None:
    os.nice(10)


def compile_job(job: Job, backend: str) -> None:
    """Put the machine code that a job needs on the backend's target into the cache."""
    from convc.backends.gpu.compiling import compile_source
    from convc.backends.gpu.workers import Workers

    module, name = SOURCES[job.kind]
    workers = Workers(1)
    try:
        for source in getattr(import_module(module), name)(backend, **job.arguments):
            compile_source(source, backend.partition(":")[2], workers=workers)
    finally:
        workers.close()
