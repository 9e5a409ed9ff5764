"""What an algorithm for forward convolution is: tiles, cost, scratch, lines."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

from convc.backends.base import Cost, Scratch
from convc.backends.cpu.conv_plan import ConvPlan
from convc.backends.cpu.cost import MACHINE
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Attrs


class ConvAlgorithm(ABC):
    """One way to compute a conv2d, tile by tile, with the epilogue all ways share."""

    name: ClassVar[str]
    """What schedules call it."""
    direct: ClassVar[bool] = True
    """Whether results are the sums that define them: equal sums come out equal."""

    @abstractmethod
    def schedules(self, plan: ConvPlan, batch: int, threads: int) -> list[Attrs]:
        """The tiles worth trying; none where the algorithm cannot serve."""

    @abstractmethod
    def cost(self, kernel: Kernel, plan: ConvPlan, m: int) -> Cost:
        """The predicted cost of one tile of ``m`` images on one worker."""

    def check(self, kernel: Kernel, plan: ConvPlan) -> None:
        """CompileError when the algorithm cannot run the kernel as it is scheduled."""
        return

    def overhead(self, kernel: Kernel, plan: ConvPlan) -> Cost:
        """The cost for one worker that does not depend on the number of images."""
        return Cost()

    @abstractmethod
    def scratch(self, kernel: Kernel, plan: ConvPlan) -> tuple[Scratch, ...]:
        """Private memory of each worker."""

    def sums_in_place(self, plan: ConvPlan) -> bool:
        """Whether products are added up where the results belong."""
        return False

    @abstractmethod
    def emit(self, w: Writer, kernel: Kernel, plan: ConvPlan) -> None:
        """Write the body of the kernel's function."""


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
