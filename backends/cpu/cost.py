"""What NumPy calls cost, so that schedules can be compared without running them."""

from convc.backends.base import Cost
from convc.backends.cpu.kernel import Kernel
from convc.ir.ops import OPS

CALL = 1e-6
"""Seconds of a NumPy call on nothing, the wait for the interpreter lock included."""
STREAM = 12e9
"""Bytes per second that one core reads and writes beyond its private caches."""
CACHED = 40e9
"""Bytes per second of elementwise passes and copies within the private caches."""
GEMM = 100e9
"""Floating-point operations per second of a large matrix product on one core."""


def gemm(m: int, k: int, n: int, times: float = 1.0) -> Cost:
    """``times`` products [m,k] @ [k,n] on one core, their operands in cache."""
    flops = 2.0 * m * k * n * times
    return Cost(flops=flops, calls=times, seconds=flops / GEMM + times * CALL)


def passes(elements: float, arrays: float, times: float = 1.0) -> Cost:
    """``times`` elementwise calls on ``arrays`` f32 arrays of ``elements`` in cache."""
    local = 4.0 * elements * arrays * times
    return Cost(local=local, calls=times, seconds=local / CACHED + times * CALL)


def streamed(kernel: Kernel, batch: int) -> Cost:
    """A kernel that reads its operands once, computes little and writes its results."""
    values = (*kernel.node.operands, *kernel.node.results)
    nbytes = float(sum(v.type.nbytes(batch) for v in values))
    flops = float(
        sum(
            OPS[n.op].flops([v.type for v in n.operands], n.attrs, batch)
            for n in kernel.ops
        )
    )
    seconds = nbytes / STREAM / kernel.threads + len(kernel.ops) * CALL
    return Cost(flops, nbytes, 0.0, len(kernel.ops), seconds)
