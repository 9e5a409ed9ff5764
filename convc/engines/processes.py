"""Programs of the NumPy backend whose workers are processes, on one shared arena.

Threads of one interpreter hand its lock back and forth at every call; processes do not.
Worker 0 is this process, each other worker a child that has made the same program from
the same source over the same memory, a file that is mapped by all and has no name any
more when they are ready. A step begins with a few bytes through each child's pipe, its
kernels end at a barrier of counters in shared memory, and each child answers.

Whoever fails says so in shared memory, where the others see it at their barrier. A
barrier that lasts too long, or whose other side is dead, fails too, so that nobody
waits for ever; a child whose parent is gone ends.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import platform
import signal
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import BrokenBarrierError
from time import perf_counter, sleep
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from convc.backends.base import Emitted
from convc.engines.base import load_source
from convc.engines.numpy_engine import NumpyEngine, spanned
from convc.ir.errors import RunError
from convc.ir.graph import Graph
from convc.ir.ops.base import Array

PATIENCE = 60.0
"""Seconds that a worker waits for the others before it gives up."""
START = 120.0
"""Seconds that a child may take to be ready."""
LOOK = 1.0
"""Seconds between two looks of an idle child at whether its parent is alive."""
SPINS = 2000
"""Looks at the counters between two looks at the clock and at who is alive."""
_PAGE = 4096
_ORDERED = ("x86_64", "AMD64")
"""Processors on which other cores see what a core writes in the order it wrote it."""


class Shared:
    """The arena and a page of counters: failed, then one for each worker."""

    def __init__(self, path: str, size: int) -> None:
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _PAGE + size)
        self.counters = memoryview(self._map)[:_PAGE].cast("q")
        self.arena = np.frombuffer(self._map, np.uint8, size, _PAGE)


class SharedBarrier:
    """What emitted code waits at: counters that each worker raises for itself alone."""

    def __init__(self, shared: Shared, worker: int, threads: int) -> None:
        self._counters, self._own = shared.counters, worker + 1
        self._others = [t + 1 for t in range(threads) if t != worker]
        self._parent = os.getppid() if worker else 0
        self.patience = PATIENCE

    def wait(self) -> None:
        """Until all have come; BrokenBarrierError if one failed or does not come."""
        counters = self._counters
        counters[self._own] = count = counters[self._own] + 1
        for other in self._others:
            spins, until = 0, 0.0
            while counters[other] < count:
                spins += 1
                if counters[0]:
                    raise BrokenBarrierError
                if spins % SPINS == 0:
                    until = until or perf_counter() + self.patience
                    self._look(until)

    def _look(self, until: float) -> None:
        """Give up if it takes too long; end if this is a child whose parent is gone."""
        sleep(0)
        if self._parent and os.getppid() != self._parent:
            os._exit(1)
        if perf_counter() > until:
            self.abort()
            raise BrokenBarrierError

    def abort(self) -> None:
        """Let the others go."""
        self._counters[0] = 1

    def reset(self) -> None:
        """Forget a failure; nobody may be waiting."""
        for at in range(len(self._others) + 2):
            self._counters[at] = 0


class ProcessEngine(NumpyEngine):
    """The emitted program with a process for each worker but the first.

    ``start`` is how children are started: "fork", "spawn" or "forkserver". RunError if
    a child cannot be started, or where the machine does not promise what the barrier
    needs.
    """

    def __init__(
        self, graph: Graph, emitted: Emitted, start: str | None = None
    ) -> None:
        super().__init__(graph, emitted)
        if platform.machine() not in _ORDERED:
            raise RunError(
                f"device cpu:processes is for x86-64, this is a {platform.machine()}; "
                "choose device cpu"
            )
        threads = self._arena.threads
        path = _file(_PAGE + self._arena.size)
        try:
            shared = Shared(path, self._arena.size)
            _move(self.emitted, shared)
            self.emitted.barrier = SharedBarrier(shared, 0, threads)
            context = multiprocessing.get_context(start)
            self._children = [
                _Child(context, (path, self._arena.size, emitted.source, t, threads))
                for t in range(1, threads)
            ]
            weakref.finalize(self, _end, self._children)
            for child in self._children:
                child.answer(START)
        finally:
            Path(path).unlink()
        self._own = ThreadPoolExecutor(1)  # a step outlives what interrupts its wait
        self._bound: dict[int, list[Any]] = {}

    def step(self, n: int) -> None:
        """One step: the children are told, worker 0 runs here, all answer."""
        if n not in self._bound:
            self._bound[n] = self.emitted.bind(n, 0)
        self._together(("run", n), lambda: self.emitted.work(self._bound[n]))

    def spans(self, rounds: int, n: int) -> Array:
        """Each process reads the one clock that the system has."""
        calls, stamps = spanned(self.functions, self.emitted, n, 0)

        def run() -> None:
            for _ in range(rounds + 1):
                self.emitted.work(calls)

        others = self._together(("spans", n, rounds), run)
        return self.timeline([stamps, *others], rounds)

    def _together(self, command: tuple[Any, ...], run: Any) -> list[Any]:
        """Have all do something; what the children answer. RunError if one fails."""
        self._tell(command)
        waiting = self._own.submit(run)
        try:
            wait_for([waiting])
        finally:
            wait_for([waiting])
            answers = [child.outcome(self.emitted.barrier) for child in self._children]
            failed = self.emitted.barrier._counters[0]
            self.emitted.barrier.reset()
        waiting.result()
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        if failed:
            raise RunError(
                f"the workers of device cpu:processes waited {PATIENCE:.0f} s for each "
                "other; the machine is overloaded, or one of them hangs"
            )
        return answers

    def _tell(self, command: tuple[Any, ...]) -> None:
        """Send a command to all children; if one is dead, none is left waiting."""
        told = list[_Child]()
        try:
            for child in self._children:
                child.tell(command)
                told.append(child)
        except RunError:
            self.emitted.barrier.abort()
            for child in told:
                child.outcome(self.emitted.barrier)
            self.emitted.barrier.reset()
            raise


class _Child:
    """A worker's process and the pipe to it."""

    def __init__(self, context: Any, arguments: tuple[Any, ...]) -> None:
        self._worker = arguments[3]
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, *arguments), daemon=True
        )
        self.process.start()
        theirs.close()

    def tell(self, command: tuple[Any, ...]) -> None:
        """Send a command; RunError if nobody is there."""
        if not self.process.is_alive():
            raise self._dead()
        try:
            self.pipe.send(command)
        except OSError:
            raise self._dead() from None

    def answer(self, seconds: float) -> Any:
        """What it says; RunError if it says nothing in time, is dead, or failed."""
        try:
            if not self.pipe.poll(seconds):
                self.process.kill()  # what it still writes would be of another step
                raise RunError(
                    f"worker {self._worker} did not answer in {seconds:.0f} s and was "
                    "ended; compile the program again"
                )
            kind, body = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise self._dead() from None
        if kind == "failed":
            raise RunError(f"worker {self._worker} failed: {body}")
        return body

    def outcome(self, barrier: SharedBarrier) -> Any:
        """What it says at the end of a step, an error being one of the answers."""
        try:
            return self.answer(barrier.patience + 1)
        except RunError as error:
            barrier.abort()
            return error

    def _dead(self) -> RunError:
        self.process.join(5)
        return RunError(
            f"worker {self._worker} died with exit code {self.process.exitcode}; "
            "compile the program again"
        )


def _file(size: int) -> str:
    """A file of zeros in memory, where the system has such a place."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    handle, path = tempfile.mkstemp(prefix="convc-", dir=place)
    with os.fdopen(handle, "wb") as file:
        file.truncate(size)
    return path


def _move(program: Any, shared: Shared) -> None:
    """Give an emitted program the shared arena in place of its own."""
    shared.arena[:] = program.memory.bytes
    program.memory.bytes = shared.arena


def _end(children: list[_Child]) -> None:
    """Ask them to end, and end those that do not."""
    for child in children:
        with contextlib.suppress(OSError):
            child.pipe.send(("end",))
    for child in children:
        child.process.join(2)
        if child.process.is_alive():
            child.process.kill()
            child.process.join()
        child.pipe.close()


def _serve(
    pipe: Connection, path: str, size: int, source: str, worker: int, threads: int
) -> None:
    """A child: worker number ``worker`` of the program, until it is told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    parent = os.getppid()
    try:
        module = load_source(source, f"worker {worker}")
        program, shared = module.Program(), Shared(path, size)
        program.memory.bytes = shared.arena
        program.barrier = SharedBarrier(shared, worker, threads)
        bound: dict[int, list[Any]] = {}
        with threadpool_limits(1, "blas"):
            pipe.send(("done", None))
            while True:
                while not pipe.poll(LOOK):  # fork has us hold both ends of the pipe
                    if os.getppid() != parent:
                        return
                command, *rest = pipe.recv()
                if command == "end":
                    return
                pipe.send(_done(module, program, bound, worker, command, rest))
    except (EOFError, OSError):
        return  # the parent is gone


def _done(
    module: Any,
    program: Any,
    bound: dict[int, list[Any]],
    worker: int,
    command: str,
    rest: list[int],
) -> tuple[str, Any]:
    """Run what is asked; the answer."""
    try:
        n = rest[0]
        if command == "spans":
            calls, stamps = spanned(module.KERNELS, program, n, worker)
            for _ in range(rest[1] + 1):
                program.work(calls)
            return "done", stamps
        if n not in bound:
            bound[n] = program.bind(n, worker)
        program.work(bound[n])
    except Exception as error:  # noqa: BLE001 - emitted code may be broken
        return "failed", f"{type(error).__name__}: {error}"
    return "done", None
