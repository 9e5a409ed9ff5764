"""Layers on several backends: how far each is from float64, and how long it takes.

Every backend runs in a process of its own, and they take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from convc.contenders import Compiled, Contender, InTorch, Job
from convc.directions import Block, work_of
from convc.engines import family
from convc.ir.errors import ConvcError
from convc.roofline import Peaks, machine_peaks
from convc.team import Member, MemberError, Team, team


@dataclass(frozen=True)
class Cell:
    """A direction on a backend.

    ``units`` is its largest error in units of the derived bound; ``seconds`` None where
    time says nothing; ``choice`` the schedules of its products; ``fault`` why it could
    not be run.
    """

    units: float | None = None
    seconds: float | None = None
    choice: str = ""
    fault: str = ""

    @property
    def wrong(self) -> bool:
        """Whether the error is more than rounding explains."""
        return self.units is not None and not self.units <= 1


@dataclass(frozen=True)
class Row:
    """A direction of a block on every backend.

    ``ratios`` has the first backend's time over that of each other, the median of the
    rounds; ``roof`` the share of the roofline that the first one reached.
    """

    layer: str
    others: tuple[str, ...]
    direction: str
    flops: int
    nbytes: int
    cells: Mapping[str, Cell]
    ratios: Mapping[str, float]
    roof: float | None = None


@dataclass
class Comparison:
    """Blocks on backends, which take turns; ``absent`` says which are not there."""

    job: Job
    backends: Sequence[str]
    rounds: int = 7
    absent: dict[str, str] = field(default_factory=dict)

    def rows(self, tell: Callable[[str], None] = lambda _: None) -> Iterator[Row]:
        """Row by row: one block's programs at a time; ``tell`` hears what is done."""
        found = self.job.blocks()
        peaks = None
        if family(self.backends[0]) in ("numpy", "torch"):
            tell("the machine's peaks")
            peaks = machine_peaks(self.job.workers)
        tell("the backends")
        makers = {name: (_kind(name), (self.job, name)) for name in self.backends}
        with team(makers) as those:
            self.absent = those.absent
            for number, block in enumerate(found):
                tell(f"{block.layer}: programs")
                ready = {m.name: _asked(those, m, number) for m in list(those.members)}
                for direction in block.directions:
                    tell(f"{block.layer}: {direction}")
                    yield self._row(block, direction, ready, those, peaks)

    def _row(
        self,
        block: Block,
        direction: str,
        ready: Mapping[str, dict[str, tuple[float, str]] | str],
        those: Team,
        peaks: Peaks | None,
    ) -> Row:
        able = [m for m in those.members if isinstance(ready[m.name], dict)]
        times = _rounds(those, able, direction, self.rounds)
        cells = {}
        for name, made in ready.items():
            if isinstance(made, str):
                cells[name] = Cell(fault=made)
                continue
            seconds = median(times[name]) if times.get(name) else None
            cells[name] = Cell(made[direction][0], seconds, made[direction][1])
        first = self.backends[0]
        ratios = {
            name: median(a / b for a, b in zip(times[first], own, strict=True))
            for name, own in times.items()
            if name != first and own and times.get(first)
        }
        flops, nbytes = work_of(block, direction, self.job.batch)
        own = cells[first].seconds if first in cells else None
        roof = peaks.share(flops, nbytes, own) if peaks and own else None
        return Row(
            *(block.layer, block.others, direction, flops, nbytes),
            *(cells, ratios, roof),
        )


def _kind(name: str) -> type[Contender]:
    return InTorch if family(name) == "torch" else Compiled


def _asked(
    those: Team, member: Member, number: int
) -> dict[str, tuple[float, str]] | str:
    """What a member made of a block, or why it could not."""
    try:
        made: dict[str, tuple[float, str]] = member.ask("ready", number)
    except MemberError as error:
        _left(those, member, error)
        return str(error).removeprefix(f"{member.name}: ")
    return made


def _left(those: Team, member: Member, error: ConvcError) -> None:
    """A member whose process is gone leaves."""
    if not member.process.is_alive():
        those.dismiss(member, str(error))


def _rounds(
    those: Team, members: Sequence[Member], direction: str, rounds: int
) -> dict[str, list[float]]:
    """For each member the seconds of every round after the first, which warms up."""
    times: dict[str, list[float]] = {m.name: [] for m in members}
    for turn in range(rounds + 1):
        for member in members:
            if member not in those.members:
                continue
            try:
                seconds = member.ask("turn", direction)
            except MemberError as error:
                _left(those, member, error)
                times[member.name] = []
                continue
            if turn and seconds is not None:
                times[member.name].append(seconds)
    return times


def totals(rows: Sequence[Row], backends: Sequence[str]) -> dict[str, float]:
    """The seconds of all rows, for each backend that has all of them."""
    found = {}
    for name in backends:
        cells = [row.cells.get(name) for row in rows]
        seconds = [c.seconds for c in cells if c is not None and c.seconds is not None]
        if seconds and len(seconds) == len(rows):
            found[name] = sum(seconds)
    return found
