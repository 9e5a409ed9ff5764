"""What this machine can do at most, and how near a kernel comes to it.

The roofline model (Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009): work of
``flops`` operations on ``nbytes`` from main memory reaches at most the smaller of the
arithmetic peak and bandwidth times flops per byte. The three peaks are measured once,
as convc's programs would reach them: NumPy calls, one BLAS thread for each of ours.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from convc.conditions import processor
from convc.data.cache import user_cache
from convc.engines import family
from convc.program import Program

FORMAT = "convc peaks 1"

_SIDE = 512
"""Rows and columns of the matrices that are multiplied: large for BLAS, 1 MiB each."""
_LARGE = 16 << 20
"""f32 elements of each array, of all threads, that no cache holds: 64 MiB."""
_SMALL = 16 << 10
"""f32 elements of an array of one thread that its private cache holds: 64 KiB."""
_ROUNDS = 10


@dataclass(frozen=True)
class Peaks:
    """The most that some threads of this machine reach together.

    ``gemm`` in floating-point operations per second of a large f32 matrix product;
    ``memory`` and ``cache`` in bytes per second, read and written, of an addition of
    arrays that lie in main memory and in private caches.
    """

    gemm: float
    memory: float
    cache: float

    def seconds(self, flops: float, nbytes: float) -> float:
        """The least time for so much arithmetic on so many bytes of main memory."""
        return max(flops / self.gemm, nbytes / self.memory)

    def share(self, flops: float, nbytes: float, seconds: float) -> float:
        """The least time as a part of ``seconds``.

        1 is the roof. It can be more: operands may come from a cache, and an algorithm
        may do less arithmetic than the definition that ``flops`` counts.
        """
        return self.seconds(flops, nbytes) / seconds if seconds else inf

    def __str__(self) -> str:
        return (
            f"{self.gemm / 1e9:.0f} GFLOP/s, {self.memory / 1e9:.0f} GB/s from memory, "
            f"{self.cache / 1e9:.0f} GB/s from private caches"
        )


def machine_peaks(threads: int, again: bool = False) -> Peaks:
    """The peaks of ``threads`` threads: measured once, then kept in the user's cache.

    ``again`` measures anew. A file that cannot be read is measured over, one that
    cannot be written does no harm.
    """
    file = user_cache() / "peaks.json"
    key = f"{processor()}, numpy {np.__version__}, {threads} threads"
    kept = _kept(file)
    if again or key not in kept:
        kept[key] = measure_peaks(threads)
        _keep(file, kept)
    return kept[key]


def peaks_for(program: Program, again: bool = False) -> Peaks | None:
    """Those of the machine that a NumPy program runs on; a GPU's are not measured."""
    if family(program.backend) != "numpy":
        return None
    assert program.graph.arena is not None, "a program has a planned graph"
    return machine_peaks(max(program.threads, program.graph.arena.blas), again)


def measure_peaks(threads: int) -> Peaks:
    """The peaks as short probes find them now, in less than two seconds."""
    share = _LARGE // threads
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        return Peaks(
            gemm=_rate(pool, threads, _product, 2.0 * _SIDE**3, 4),
            memory=_rate(pool, threads, lambda: _sum(share), 12.0 * share, 1),
            cache=_rate(pool, threads, lambda: _sum(_SMALL), 12.0 * _SMALL, 2000),
        )


def _product() -> Callable[[], object]:
    a, b, c = (np.ones((_SIDE, _SIDE), np.float32) for _ in range(3))
    return lambda: np.matmul(a, b, out=c)


def _sum(elements: int) -> Callable[[], object]:
    """Two arrays read, one of them written: nothing is fetched only to be written."""
    a, b = (np.ones(elements, np.float32) for _ in range(2))
    return lambda: np.add(a, b, out=b)


def _rate(
    pool: ThreadPoolExecutor,
    threads: int,
    make: Callable[[], Callable[[], object]],
    work: float,
    calls: int,
) -> float:
    """The best rate of several rounds, each ``calls`` calls of ``work`` per thread."""

    def run(call: Callable[[], object]) -> None:
        for _ in range(calls):
            call()

    probes, best = [make() for _ in range(threads)], inf
    for _ in range(_ROUNDS):
        start = perf_counter()
        list(pool.map(run, probes))
        best = min(best, perf_counter() - start)
    return work * calls * threads / best


def _kept(file: Path) -> dict[str, Peaks]:
    """The peaks in a file; none if it is absent or anything but what was written."""
    try:
        body = json.loads(file.read_bytes())
        found = body["peaks"] if body["format"] == FORMAT else {}
        return {key: _peaks(entry) for key, entry in found.items()}
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ):
        return {}


def _peaks(entry: dict[str, Any]) -> Peaks:
    peaks = Peaks(**{key: float(rate) for key, rate in entry.items()})
    if not all(isfinite(rate) and rate > 0 for rate in asdict(peaks).values()):
        raise ValueError("rates are finite and above 0")
    return peaks


def _keep(file: Path, kept: dict[str, Peaks]) -> None:
    from convc.files import write_atomically

    peaks = {key: asdict(entry) for key, entry in kept.items()}
    text = json.dumps({"format": FORMAT, "peaks": peaks}, indent=1) + "\n"
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text.encode("utf-8"))
