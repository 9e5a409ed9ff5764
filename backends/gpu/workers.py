"""Processes that compile kernels side by side.

They are apart from this process because Triton is either a compiler or an interpreter
(``TRITON_INTERPRET``) for as long as a process lives, because a compiler that crashes
or never ends must not take its caller along, and to use all cores.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

Job = Mapping[str, Any]
Progress = Callable[[int, int, str], None]
"""Told how many kernels are done, how many there are, and the name of the latest."""

_SCRIPT = Path(__file__).with_name("compile_worker.py")
_TAIL = 2000
"""The most characters of a compiler's output that an error quotes."""


class Workers:
    """Up to ``count`` processes (default: one for each core), started when needed.

    They stay until ``close``, ready for more. A job that takes longer than ``seconds``
    is ended.
    """

    def __init__(self, count: int | None = None, seconds: float = 300) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self.seconds = seconds
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()

    def run(self, jobs: Sequence[Job], progress: Progress | None = None) -> list[str]:
        """Do all jobs; what went wrong with each, or nothing."""
        pool = ThreadPoolExecutor(min(self.count, len(jobs)) or 1)
        try:
            futures = {pool.submit(self._do, job): job for job in jobs}
            for done, future in enumerate(as_completed(futures), start=1):
                if progress is not None:
                    progress(done, len(jobs), futures[future]["kernel"])
            return [future.result() for future in futures]
        except BaseException:  # Ctrl-C, or a progress that fails
            pool.shutdown(wait=False, cancel_futures=True)
            self.close()
            raise
        finally:
            pool.shutdown()

    def close(self) -> None:
        """End the processes, whatever they do."""
        for worker in tuple(self._busy):
            worker.kill()  # who waits for its answer ends it
        while self._idle:
            self._idle.pop().end()

    def processes(self) -> list[int]:
        """The process ids of those that are there."""
        return [worker.id for worker in (*self._busy, *self._idle)]

    def _do(self, job: Job) -> str:
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker()
        self._busy.add(worker)
        try:
            return worker.answer(job, self.seconds)
        finally:
            self._busy.discard(worker)
            if worker.alive():
                self._idle.append(worker)
            else:
                worker.end()


@cache
def shared_workers() -> Workers:
    """The workers that all compilations of this process share."""
    workers = Workers()
    atexit.register(workers.close)
    return workers


class _Worker:
    """One process, and what it said on stderr."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - end() closes it
        path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
        environment = {**os.environ, "PYTHONPATH": path}
        environment.pop("TRITON_INTERPRET", None)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
        )

    @property
    def id(self) -> int:
        """The process's id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.poll() is None

    def kill(self, late: threading.Event | None = None) -> None:
        """End the process at once; it may still have to be waited for."""
        if late is not None:
            late.set()
        self._process.kill()

    def answer(self, job: Job, seconds: float) -> str:
        """What goes wrong with a job, or nothing."""
        quiet = os.fstat(self._said.fileno()).st_size
        late = threading.Event()
        timer = threading.Timer(seconds, self.kill, [late])
        timer.start()
        try:
            line = self._exchange(json.dumps(job))
        finally:
            timer.cancel()
        error = json.loads(line)["error"] if line else self._death(late, seconds)
        return error + self._words(quiet) if error else ""

    def _exchange(self, job: str) -> bytes:
        """The line that answers a job; empty if the process ends instead."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(job.encode("utf-8") + b"\n")
            stdin.flush()
        except BrokenPipeError:
            return b""
        return stdout.readline()

    def _death(self, late: threading.Event, seconds: float) -> str:
        code = self._process.wait()
        if late.is_set():
            return f"the compiler took longer than {seconds:g} s"
        return f"the compiler's process ended with code {code}"

    def _words(self, start: int) -> str:
        """What was said on stderr since then, the end of it."""
        size = os.fstat(self._said.fileno()).st_size
        first = max(start, size - _TAIL)
        said = os.pread(self._said.fileno(), size - first, first)
        text = said.decode("utf-8", "replace").strip()
        return f"\n{text}" if text else ""

    def end(self) -> None:
        """End the process and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            if pipe is not None:
                pipe.close()
