"""``convc bench``: whole steps against every library that is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convc.cli.group import COUNT, input_option, print_table, working
from convc.ir.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from convc.benching import Bench, Race
    from convc.rivals.base import Task

MODELS = ("two_conv", "four_conv", "csci1470_cifar")
"""What is raced if nothing else is asked for."""


def _sizes(_: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Batch sizes with commas; an empty text is none."""
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [0]
    if any(size < 1 for size in found):
        raise click.BadParameter(
            f"{text!r} is no list of batch sizes such as 1,128", param=parameter
        )
    return found


@click.command()
@click.argument("models", nargs=-1)
@click.option(
    "--training",
    default="128",
    show_default=True,
    callback=_sizes,
    help="Batch sizes of training steps, none for an empty text.",
)
@click.option(
    "--inference",
    default="1,128,1024",
    show_default=True,
    callback=_sizes,
    help="Batch sizes of inference, none for an empty text.",
)
@click.option(
    "--against",
    metavar="NAMES",
    help="Who is raced, numpy and triton among them. [default: all installed]",
)
@click.option("--threads", type=COUNT, help="Threads each has. [default: every core]")
@click.option(
    "--rounds",
    type=COUNT,
    default=9,
    show_default=True,
    help="How often all take turns.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the result goes, as JSON.",
)
@click.option(
    "--read",
    "kept",
    metavar="FILE",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Measure nothing: show a result that was kept.",
)
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw bars and roofline, as SVG or PNG.",
)
@input_option
def bench(
    models: tuple[str, ...],
    training: list[int],
    inference: list[int],
    against: str | None,
    threads: int | None,
    rounds: int,
    output: Path | None,
    kept: Path | None,
    plot: Path | None,
    input_type: str | None,
) -> None:
    """Race MODELS on every backend and every rival that is installed.

    Each has a process of its own; they take turns, round by round. Times are medians
    over the rounds; the ratio is the median over torch's, and behind it the median of
    the rounds' ratios. MODELS are two_conv, four_conv and csci1470_cifar if none is
    named.
    """
    from convc import benching
    from convc.files import write_atomically

    if kept is not None:
        result = benching.read(kept)
        for race in result.races:
            _show(race)
    else:
        tasks = _tasks(models or MODELS, training, inference, threads, input_type)
        names = _named(against)

        def done(so_far: Bench) -> None:
            _show(so_far.races[-1])
            if output is not None:  # what was measured is kept, whatever comes
                write_atomically(output, so_far.text().encode("utf-8"))

        with working() as tell:
            result = benching.bench(tasks, names, rounds, tell, done)
    print_table(_overview(result))
    click.echo(_conditions(result))
    if output is not None:
        click.echo(f"written: {output}")
    if plot is not None:
        _draw(result, plot)
        click.echo(f"written: {plot}")
    if any(race.wrong or not race.contestants for race in result.races):
        sys.exit(1)


def _tasks(
    models: Sequence[str],
    training: Sequence[int],
    inference: Sequence[int],
    threads: int | None,
    input_type: str | None,
) -> list[Task]:
    """What is raced; a mistake in a model is reported before anything is started."""
    from convc.backends import backend_named
    from convc.cli.group import load_model
    from convc.pipeline import default_threads
    from convc.rivals.base import Task

    count = threads or default_threads(backend_named("numpy"))
    works = [("training", n) for n in training] + [("inference", n) for n in inference]
    if not works:
        raise click.UsageError(
            "nothing to race: both --training and --inference are empty"
        )
    for model in models:
        load_model(model, input_type)
    return [Task(m, kind, n, count, input_type) for m in models for kind, n in works]


def _named(against: str | None) -> list[str] | None:
    from convc.benching import everyone

    if against is None:
        return None
    known = dict.fromkeys([*everyone("training"), *everyone("inference")])
    names = list(dict.fromkeys(name.strip() for name in against.split(",")))
    for name in names:
        if name.partition(":")[0] not in known and name not in known:
            raise CompileError(
                f"nobody is called {name!r}; there are {', '.join(known)}"
            )
    return names


def _show(race: Race) -> None:
    """The table of a race, and who was not there."""
    print_table(_table(race))
    for name, why in race.absent.items():
        click.echo(f"skipped: {name}: {why}")
    for name in race.wrong:
        click.echo(f"wrong: the answers of {name} are not those of the network")
    click.echo()


def _table(race: Race) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from convc.backends import BACKENDS
    from convc.plan_table import duration

    table = Table(title=Text(race.title), box=SIMPLE_HEAD, show_edge=False)
    table.add_column("", no_wrap=True)
    by = f"/ {race.base}"
    for heading in ("median", "quartiles", "best", by, "by round", "GFLOP/s", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, c in sorted(race.contestants.items(), key=lambda item: item[1].seconds):
        low, high = c.quartiles
        table.add_row(
            name,
            duration(c.seconds),
            f"{duration(low)} – {duration(high)}",
            duration(c.best),
            "" if c.ratio is None else f"{c.ratio:.2f}",
            "" if c.rounds_ratio is None else f"{c.rounds_ratio:.2f}",
            f"{race.flops / c.seconds / 1e9:.3g}",
            "" if c.error is None else f"{c.error:.0e}",
            style="bold" if name.partition(":")[0] in BACKENDS else "",
        )
    return table


def _overview(result: Bench) -> Table:
    """A line for each race: the best of ours beside torch and the best other."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from convc.backends import BACKENDS
    from convc.plan_table import duration

    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("", "ours", "", "/ torch", "best of others", "", "/ best"):
        words = heading in ("", "best of others")
        table.add_column(heading, justify="left" if words else "right", no_wrap=True)
    for race in result.races:
        found = {name: c.seconds for name, c in race.contestants.items()}
        own = [name for name in found if name.partition(":")[0] in BACKENDS]
        others = [name for name in found if name not in own]
        ours = min(own, key=found.__getitem__, default="")
        best = min(others, key=found.__getitem__, default="")
        mine, torch = found.get(ours), found.get("torch")
        table.add_row(
            race.title,
            duration(mine),
            ours,
            f"{mine / torch:.2f}" if mine and torch else "",
            best,
            duration(found.get(best)),
            f"{mine / found[best]:.2f}" if mine and best else "",
        )
    return table


def _conditions(result: Bench) -> str:
    """The machine and the versions, in lines."""
    machine = result.conditions["machine"]
    versions: dict[str, str] = {}
    for race in result.races:
        for c in race.contestants.values():
            versions |= {k: v for k, v in c.versions.items() if v != "not installed"}
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"{machine['cpu']}, {result.threads} threads, {result.rounds} rounds, Python "
        f"{machine['python']}\n{packages}"
    )


def _draw(result: Bench, path: Path) -> None:
    from convc.backends import BACKENDS
    from convc.pictures.bars import Bars, Roof, draw

    tasks = [
        Bars(
            race.title,
            {name: c.seconds for name, c in race.contestants.items()},
            race.base,
            race.flops,
            race.nbytes,
        )
        for race in result.races
        if race.contestants
    ]
    roof = Roof(result.peaks["gemm"], result.peaks["memory"])
    everyone = {name for task in tasks for name in task.seconds}
    ours = [name for name in everyone if name.partition(":")[0] in BACKENDS]
    draw(tasks, roof, ours, path)
