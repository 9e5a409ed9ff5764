"""Whole steps of a network on every backend and rival, raced round by round.

Each contestant has a process of its own with its threads pinned. In each round each
takes a turn of a few steps, so that whatever else the machine does hits all alike; the
first round warms up and is not counted. Who begins changes from round to round.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from convc.backends import BACKENDS
from convc.conditions import conditions
from convc.ir.errors import RunError
from convc.loading import step_named
from convc.rivals import RIVALS
from convc.rivals.base import Task
from convc.rivals.ours import PROCESSES
from convc.roofline import machine_peaks
from convc.team import Make, Member, MemberError, Team, team

FORMAT = "convc bench 1"
BASE = "torch"
"""Whose time the others are divided by, where it is there."""
OURS = ("numpy",)
"""Who else may be the base, in this order."""
TURN = 0.25
"""Seconds of a turn, or one step."""
PAUSE = 0.03
"""Seconds between turns, in which the threads of the last one come to rest."""
WRONG = 1e-3
"""Error of an answer, over the largest, that no rounding of float32 explains here."""


@dataclass(frozen=True)
class Contestant:
    """How one did: median seconds of each round, and of all rounds.

    ``ratio`` is its median over that of the base, ``rounds_ratio`` the median of the
    rounds' ratios; ``error`` of an inference against float64, over the largest answer.
    """

    seconds: float
    quartiles: tuple[float, float]
    best: float
    rounds: tuple[float, ...]
    ratio: float | None = None
    rounds_ratio: float | None = None
    error: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Race:
    """A task and how everyone did; ``absent`` says why others have no time."""

    model: str
    kind: str
    batch: int
    flops: int
    nbytes: int
    contestants: Mapping[str, Contestant]
    absent: Mapping[str, str]
    base: str

    @property
    def title(self) -> str:
        """``two_conv training, batch 128``."""
        return f"{self.model} {self.kind}, batch {self.batch}"

    @property
    def wrong(self) -> list[str]:
        """Who gives answers that are not the network's."""
        return [
            name
            for name, c in self.contestants.items()
            if c.error is not None and not c.error <= WRONG
        ]


@dataclass(frozen=True)
class Bench:
    """All races, and what they were run with."""

    conditions: Mapping[str, Any]
    threads: int
    rounds: int
    peaks: Mapping[str, float]
    races: tuple[Race, ...]

    def text(self) -> str:
        """As JSON, which ``read`` reads."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def everyone(kind: str) -> list[str]:
    """Backends and rivals that do a kind of task, ours first."""
    own = ["numpy", PROCESSES, *(b for b in BACKENDS if b != "numpy")]
    return [*own, *(name for name, (*_, kinds) in RIVALS.items() if kind in kinds)]


def race(
    task: Task,
    names: Sequence[str],
    rounds: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Race:
    """Have ``names`` run the task in turn."""
    flops, nbytes = _work(task)
    tell(f"{task.model} {task.kind}, batch {task.batch}: programs")
    makers = {name: (_maker(name), (task, name)) for name in names}
    with team(makers) as those:
        times: dict[str, list[float]] = {m.name: [] for m in those.members}
        for turn in range(rounds + 1):
            tell(f"{task.model} {task.kind}, batch {task.batch}: round {turn}")
            _round(those, turn, times)
        found = {m.name: _asked(m) for m in those.members if times[m.name]}
        base = next((n for n in (BASE, *OURS) if n in found), "")
        made = {
            name: _contestant(times[name], times.get(base, []), *answers)
            for name, answers in found.items()
        }
        absent = dict(those.absent)
    return Race(*(task.model, task.kind, task.batch, flops, nbytes, made, absent, base))


def _maker(name: str) -> Make:
    """The class of a contestant; a name that is no rival's is a backend's."""
    module, kind = RIVALS[name][:2] if name in RIVALS else ("ours", "Ours")
    made: Make = getattr(import_module(f"convc.rivals.{module}"), kind)
    return made


def _round(those: Team, turn: int, times: dict[str, list[float]]) -> None:
    """A turn for each, beginning with another one each time."""
    members = list(those.members)
    start = turn % len(members) if members else 0
    for member in members[start:] + members[:start]:
        time.sleep(PAUSE)
        try:
            taken = member.ask("turn", TURN)
        except MemberError as error:
            those.dismiss(member, str(error).removeprefix(f"{member.name}: "))
            continue
        if turn:
            times[member.name].append(median(taken))


def _asked(member: Member) -> tuple[float | None, dict[str, str]]:
    return member.ask("error"), member.ask("versions")


def _contestant(
    own: Sequence[float],
    base: Sequence[float],
    error: float | None,
    versions: Mapping[str, str],
) -> Contestant:
    middle = median(own)
    low, _, high = quantiles(own, n=4) if len(own) > 1 else (middle,) * 3
    ratio = middle / median(base) if base else None
    each = [a / b for a, b in zip(own, base, strict=False)]
    return Contestant(
        *(middle, (low, high), min(own), tuple(own), ratio),
        *(median(each) if each else None, error, versions),
    )


def _work(task: Task) -> tuple[int, int]:
    """FLOPs by definition and bytes of our program's kernels, for the roofline."""
    from convc.plan_table import kernel_rows

    step = step_named(task.load(), task.kind)
    graph = step.stages("numpy", task.batch, task.threads)[-1].graph
    assert graph.arena is not None, "the last pass plans"
    rows = kernel_rows(graph, graph.arena, "numpy", {}, None)
    return sum(r.work.flops for r in rows), sum(r.work.nbytes for r in rows)


def bench(
    tasks: Sequence[Task],
    names: Sequence[str] | None,
    rounds: int,
    tell: Callable[[str], None] = lambda _: None,
    done: Callable[[Bench], None] = lambda _: None,
) -> Bench:
    """Race every task; ``done`` hears what there is so far, after each."""
    races: list[Race] = []
    threads = tasks[0].threads
    tell("the machine's peaks")
    peaks = asdict(machine_peaks(threads, again=True))
    made = conditions("convc", "numpy")
    for task in tasks:
        able = everyone(task.kind)
        chosen = able if names is None else [n for n in names if n in able]
        races.append(race(task, chosen, rounds, tell))
        done(Bench(made, threads, rounds, peaks, tuple(races)))
    return Bench(made, threads, rounds, peaks, tuple(races))


def read(path: Path) -> Bench:
    """What ``Bench.text`` wrote; RunError, with the reason, if it is nothing such."""
    try:
        body = json.loads(path.read_text("utf-8"))
        if body.pop("format") != FORMAT:
            raise ValueError("it is of another format")
        races = tuple(
            Race(
                **{
                    **r,
                    "contestants": {
                        k: Contestant(**c) for k, c in r["contestants"].items()
                    },
                }
            )
            for r in body.pop("races")
        )
        return Bench(races=races, **body)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: is no result of convc bench: {error}") from None
