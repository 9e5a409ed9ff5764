"""Where the time of a step goes: each kernel's own, and what lies between them.

Each worker notes when it begins and ends its part of a kernel. A kernel lasts from the
first worker's begin to the last one's end; workers that are done earlier wait. What is
between the end of one kernel and the begin of the next is the gap before the latter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from convc.ir.ops.base import Array
from convc.plan_table import KernelRow, fill_inputs, kernel_rows, team
from convc.program import Program
from convc.roofline import Peaks


@dataclass(frozen=True)
class Kernel:
    """A kernel in a step, all times medians in seconds.

    ``wait`` is how long its workers wait for the last of them, on average; ``gap`` what
    lies before it, in the first kernel the start of the step's threads.
    """

    row: KernelRow
    seconds: float
    wait: float
    gap: float

    @property
    def flops(self) -> float:
        """Floating-point operations a second, by definition of the ops."""
        return self.row.work.flops / self.seconds

    @property
    def bandwidth(self) -> float:
        """Bytes of operands and results a second."""
        return self.row.work.nbytes / self.seconds

    @property
    def roof(self) -> float | None:
        """The share of the roofline; None where that is not known."""
        return self.row.work.roof


@dataclass(frozen=True)
class Profile:
    """The kernels of a step, in launch order.

    ``step`` is the median time of whole steps with no clock read in them, ``spans``
    when each worker began and ended each kernel, seconds [step, kernel, worker, 2].
    """

    name: str
    kernels: tuple[Kernel, ...]
    step: float
    spans: Array
    peaks: Peaks | None

    @property
    def seconds(self) -> float:
        """All kernels together."""
        return sum(k.seconds for k in self.kernels)

    @property
    def wait(self) -> float:
        """All waiting in them."""
        return sum(k.wait for k in self.kernels)

    @property
    def gap(self) -> float:
        """All that lies between them."""
        return sum(k.gap for k in self.kernels)

    def trace(self) -> str:
        """The spans for chrome://tracing and ui.perfetto.dev, as JSON.

        In the format of Google's "Trace Event Format": a complete event for each
        worker's part of a kernel, times in microseconds.
        """
        return json.dumps(
            {"displayTimeUnit": "ms", "traceEvents": list(self._events())}
        )

    def _events(self) -> Iterator[dict[str, Any]]:
        named: dict[str, Any] = {"ph": "M", "pid": 0}
        yield {**named, "name": "process_name", "args": {"name": self.name}}
        for worker in range(self.spans.shape[2]):
            who = {"name": f"worker {worker}"}
            yield {**named, "name": "thread_name", "tid": worker, "args": who}
        micro = 1e6 * (self.spans - self.spans.min())
        for number, step in enumerate(micro):
            for kernel, workers in zip(self.kernels, step, strict=True):
                row = kernel.row
                args: dict[str, Any] = {
                    "step": number,
                    "layers": ", ".join(row.layers),
                    "FLOPs": row.work.flops,
                    "bytes": row.work.nbytes,
                }
                for worker, (begin, end) in enumerate(workers):
                    yield {
                        "ph": "X",
                        "pid": 0,
                        "tid": worker,
                        "name": row.name,
                        "ts": round(begin, 3),
                        "dur": round(end - begin, 3),
                        "args": args,
                    }


def profile(program: Program, rounds: int = 9, peaks: Peaks | None = None) -> Profile:
    """Run steps on made-up images; parameters are put back as they were."""
    graph = program.graph
    fill_inputs(program)
    spans = program.spans(rounds)
    first, last = spans[..., 0].min(axis=2), spans[..., 1].max(axis=2)
    seconds = np.median(last - first, axis=0)
    waits = np.median(last - spans[..., 1].mean(axis=2), axis=0)
    gaps = first[:, 1:] - last[:, :-1]
    begins = first[1:, :1] - last[:-1, -1:]  # of each step after the first
    before = [
        float(np.median(begins)) if len(begins) else 0.0,
        *np.median(gaps, axis=0),
    ]
    times = dict(zip((k.node for k in program.kernels), seconds, strict=True))
    assert graph.arena is not None, "a program has a planned graph"
    rows = kernel_rows(graph, graph.arena, program.backend, times, peaks)
    return Profile(
        f"{graph.name}, batch {program.batch}, {team(graph.arena)}, {program.backend}",
        tuple(
            Kernel(row, float(s), float(w), float(g))
            for row, s, w, g in zip(rows, seconds, waits, before, strict=True)
        ),
        _whole(program, rounds),
        spans,
        peaks,
    )


def _whole(program: Program, rounds: int) -> float:
    """The median time of steps as they are run in training."""
    state, times = program.state(), []
    for _ in range(rounds):
        start = perf_counter()
        program.run()
        times.append(perf_counter() - start)
    program.load(state)
    return float(np.median(times))
