"""What an algorithm for convolutions is, and a kernel that one of several computes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_plan import ConvPlan
from convc.backends.cpu.cost import MACHINE, traffic
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs

SAVING = 0.75
"""The most arithmetic that transforms may take with their products, beside the sum's:
they cost accuracy, and must be worth it."""

P = TypeVar("P")
"""The parts of a kernel: a ``ConvPlan``, or a ``BackwardPlan``."""


class Algorithm(ABC, Generic[P]):
    """One way to compute the kernels of a family, tile by tile."""

    name: ClassVar[str]
    """What schedules call it."""
    direct: ClassVar[bool] = True
    """Whether results are the sums that define them: equal sums come out equal."""

    @abstractmethod
    def schedules(self, plan: P, batch: int, threads: int) -> list[Attrs]:
        """The tiles worth trying; none where the algorithm cannot serve."""

    @abstractmethod
    def cost(self, kernel: Kernel, plan: P, m: int) -> Cost:
        """The predicted cost of one tile of ``m`` images on one worker."""

    def check(self, kernel: Kernel, plan: P) -> None:
        """CompileError when the algorithm cannot run the kernel as it is scheduled."""
        return

    def overhead(self, kernel: Kernel, plan: P) -> Cost:
        """The cost for one worker that does not depend on the number of images."""
        return Cost()

    @abstractmethod
    def scratch(self, kernel: Kernel, plan: P) -> tuple[Scratch, ...]:
        """Private memory of each worker."""

    @abstractmethod
    def emit(self, w: Writer, kernel: Kernel, plan: P) -> None:
        """Write the body of the kernel's function."""


class ConvAlgorithm(Algorithm[ConvPlan]):
    """One way to compute a conv2d, with the epilogue that all ways share."""

    def sums_in_place(self, plan: ConvPlan) -> bool:
        """Whether products are added up where the results belong."""
        return False


class ByAlgorithm(Emitter, Generic[P]):
    """A family of kernels, each computed as its schedule says."""

    algorithms: ClassVar[tuple[Algorithm[Any], ...]]

    @abstractmethod
    def plan(self, kernel: Kernel) -> P:
        """The kernel's parts; CompileError where they cannot be one kernel."""

    def algorithm(self, kernel: Kernel) -> Algorithm[P]:
        """The one that a scheduled kernel names."""
        name = kernel.schedule["algorithm"]
        return next(a for a in self.algorithms if a.name == name)

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """The tiles of every algorithm that can serve."""
        plan = self.plan(kernel)
        found = [a.schedules(plan, batch, kernel.threads) for a in self.algorithms]
        return [schedule for schedules in found for schedule in schedules]

    def check(self, kernel: Kernel) -> None:
        """CompileError when the kernel cannot run as it is scheduled."""
        self.algorithm(kernel).check(kernel, self.plan(kernel))

    def is_direct(self, kernel: Kernel) -> bool:
        """Whether a scheduled kernel's results are the sums that define them."""
        return self.algorithm(kernel).direct

    def overhead(self, kernel: Kernel, plan: P) -> Cost:
        """The cost for one worker that does not depend on the number of images."""
        return self.algorithm(kernel).overhead(kernel, plan)

    def cost(self, kernel: Kernel, batch: int) -> Cost:
        """The predicted cost of a scheduled kernel."""
        plan, algorithm = self.plan(kernel), self.algorithm(kernel)
        return traffic(kernel, batch) + over_tiles(
            lambda m: algorithm.cost(kernel, plan, m),
            self.overhead(kernel, plan),
            batch,
            kernel.threads,
            kernel.integer("images"),
        )

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """What the algorithm needs."""
        return self.algorithm(kernel).scratch(kernel, self.plan(kernel))

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        self.algorithm(kernel).emit(w, kernel, self.plan(kernel))


def tile_sizes(default: int, share: int) -> list[int]:
    """Images per tile worth trying, the default first, none beyond a worker's share."""
    sizes = [default, default * 2, default // 2, default // 4]
    return list(dict.fromkeys(min(share, m) for m in sizes if m))


def over_tiles(
    tile: Callable[[int], Cost], once: Cost, batch: int, threads: int, images: int
) -> Cost:
    """The cost of a batch: each worker's share in tiles of ``images``.

    ``tile`` is the cost of a tile of m images; ``once`` comes once for every worker.
    Workers run side by side, so that the work adds up over them and the time does not.
    """
    share = -(-batch // threads)
    whole, rest = divmod(share, images)
    cost = once
    if whole:
        cost += repeated(tile(images), whole)
    if rest:
        cost += tile(rest)
    return replace(cost, flops=cost.flops * threads, local=cost.local * threads)


def repeated(cost: Cost, times: float) -> Cost:
    """``times`` the same."""
    return Cost(
        cost.flops * times,
        cost.nbytes * times,
        cost.local * times,
        cost.calls * times,
        cost.seconds * times,
    )


def batched(product: Cost, count: float, calls: float, shared: float = 0.0) -> Cost:
    """``count`` times the one product, in so many calls.

    An operand of ``shared`` elements that all products have is in the nearest cache.
    """
    apart = repeated(product, count)
    saved = (count - calls) * (MACHINE.call + 4.0 * shared / MACHINE.packing)
    return replace(apart, calls=calls, seconds=apart.seconds - saved)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    return sum(costs, Cost())
