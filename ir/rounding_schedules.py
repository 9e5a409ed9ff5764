"""How a kernel's results round where its schedule says how they are computed."""

from convc.ir.graph import Attrs
from convc.ir.ops.base import ints
from convc.ir.rounding_base import Outcome, Site
from convc.ir.rounding_dft import by_frequencies
from convc.ir.rounding_winograd import by_tiles
from convc.ir.winograd import OPS


def transform_of(schedule: Attrs) -> tuple[object, ...]:
    """What of a schedule changes how results may round: the transforms it asks for.

    Empty where sums are computed as such, in whatever order.
    """
    algorithm = schedule.get("algorithm")
    if algorithm == "winograd":
        return algorithm, *ints(schedule["m"])
    return (algorithm,) if algorithm == "dft" else ()


def scheduled(site: Site, outcome: Outcome, schedule: Attrs) -> Outcome:
    """``outcome``, but for convolutions of a kernel that is scheduled as transforms."""
    algorithm = schedule.get("algorithm")
    if algorithm == "winograd" and site.node.op in OPS:
        (m,) = ints(schedule["m"])
        return by_tiles(site, outcome, m)
    if algorithm == "dft" and site.node.op in OPS:
        return by_frequencies(site, outcome)
    return outcome
