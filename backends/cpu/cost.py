"""What NumPy calls cost, so that schedules can be compared without running them.

All seconds are those of one worker while every other worker does the same. A call
costs something by itself; a product costs its arithmetic and, since the BLAS library
packs its operands and reads and writes its result, what that moves; an elementwise pass
costs what it moves, at the rate of the nearest cache that holds it.
"""

from dataclasses import dataclass

from convc.backends.base import Cost
from convc.backends.cpu.kernel import Kernel
from convc.ir.ops import OPS


@dataclass(frozen=True)
class Machine:
    """What one worker gets of a machine when all its hardware threads are at work.

    ``levels`` are the caches, nearest first: the bytes a worker finds room for, and
    bytes per second of elementwise passes there; ``memory`` is the rate beyond them.
    """

    call: float
    """Seconds of a NumPy call on nothing, with the wait for the interpreter lock."""
    product: float
    """Seconds of a matrix product on nothing, in a call of its own or one of many."""
    gemm: float
    """Operations per second of a matrix product, once its operands are packed."""
    packing: float
    """Bytes per second at which a product packs its operands and updates its result."""
    levels: tuple[tuple[float, float], ...]
    memory: float

    def rate(self, nbytes: float) -> float:
        """Bytes per second of a pass over a working set of so many bytes."""
        return next((r for size, r in self.levels if nbytes <= size), self.memory)


MACHINE = Machine(
    call=4e-6,
    product=0.4e-6,
    gemm=72e9,
    packing=30e9,
    levels=((1e6, 18e9), (25e6, 15e9)),
    memory=12e9,
)
"""Fitted to 151 schedules of the kernels of three networks (convolutions and dense
layers, forward and backward, 128 images) by least squares of the logarithms of the
seconds that two workers were busy, on the two hardware threads of a virtual AMD EPYC
with NumPy 2.4. Predictions are then within 20 % of what was measured for two schedules
in three, within 30 % for four in five, and off by 2.2 at most; choices by them at most
1.27 times as slow as the best. A pass is slower than a plain addition would be, since
some read bytes or strides. Ranking needs the proportions alone, which differ less
between machines than the numbers do; where they mislead, ``convc tune`` measures."""


def gemm(m: int, k: int, n: int, times: float = 1.0) -> Cost:
    """``times`` calls for a product [m,k] @ [k,n]: slow where m, k or n is small."""
    flops = 2.0 * m * k * n
    moved = 4.0 * (m * k + k * n + 2 * m * n)
    seconds = MACHINE.call + MACHINE.product
    seconds += flops / MACHINE.gemm + moved / MACHINE.packing
    return Cost(flops=flops * times, calls=times, seconds=seconds * times)


def passes(
    elements: float, arrays: float, times: float = 1.0, resident: float = 0.0
) -> Cost:
    """``times`` elementwise calls on ``arrays`` f32 arrays of ``elements`` each.

    They find their operands in the cache that holds one call's arrays, or ``resident``
    bytes where more is touched before they are met again.
    """
    moved = 4.0 * elements * arrays
    seconds = MACHINE.call + moved / MACHINE.rate(max(moved, resident))
    return Cost(local=moved * times, calls=times, seconds=seconds * times)


def traffic(kernel: Kernel, batch: int) -> Cost:
    """What every schedule of a kernel pays: operands are read, results are written."""
    values = (*kernel.node.operands, *kernel.node.results)
    nbytes = float(sum(v.type.nbytes(batch) for v in values))
    share = nbytes / kernel.threads
    return Cost(nbytes=nbytes, seconds=share / MACHINE.rate(nbytes))


def streamed(kernel: Kernel, batch: int) -> Cost:
    """A kernel that computes little: its traffic, and a call for each op."""
    flops = sum(
        OPS[n.op].flops([v.type for v in n.operands], n.attrs, batch)
        for n in kernel.ops
    )
    calls = len(kernel.ops)
    work = Cost(flops=float(flops), calls=calls, seconds=calls * MACHINE.call)
    return traffic(kernel, batch) + work
