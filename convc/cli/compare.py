"""``convc compare``: the layers of a model on several backends, side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from convc.cli.group import (
    COUNT,
    asked_exact,
    batch_option,
    exact_option,
    input_option,
    load_model,
    lockfile_option,
    model_argument,
    options,
    print_table,
    working,
)
from convc.ir.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table
    from rich.text import Text

    from convc.comparing import Cell, Row

backends_option = click.option(
    "--backends",
    default="numpy,triton,torch",
    show_default=True,
    help="What is compared, the first with each other one: numpy, triton, "
    "triton:interpret, torch, torch:channels_last, torch:compile.",
)
_threads_option = click.option(
    "--threads", type=COUNT, help="Threads of the CPU. [default: every core]"
)


@click.command()
@model_argument
@backends_option
@options(batch_option, _threads_option, exact_option, lockfile_option)
@click.option(
    "--rounds",
    type=COUNT,
    default=7,
    show_default=True,
    help="How often the backends take turns.",
)
@click.option("--json", "as_json", is_flag=True, help="The rows as JSON lines.")
@input_option
def compare(
    model: str,
    backends: str,
    batch: int,
    threads: int | None,
    rounds: int,
    as_json: bool,
    input_type: str | None,
) -> None:
    """Compare backends layer by layer: errors, times and choices.

    Of each layer forward, the gradient of its input and that of its weights: the error
    against float64 in units of what rounding may be, the time, and how the first
    backend computes it. An error beyond its bound makes the exit code 1.
    """
    from convc.comparing import Comparison, totals
    from convc.contenders import Job
    from convc.lockfile import lockfile_path

    names = known_backends(backends)
    load_model(model, input_type)  # a mistake is reported before anything is started
    path = lockfile_path()
    job = Job(
        *(model, input_type, batch, threads, asked_exact()),
        str(path.absolute()) if path else None,
    )
    comparison = Comparison(job, names, rounds)
    rows: list[Row] = []
    with working() as tell:
        for row in comparison.rows(tell):
            rows.append(row)
            if as_json:
                click.echo(json.dumps(asdict(row)))
    found = totals(rows, names)
    there = [name for name in names if any(name in row.cells for row in rows)]
    if as_json:
        click.echo(json.dumps({"totals": found, "absent": comparison.absent}))
    else:
        workers = "1 thread" if job.workers == 1 else f"{job.workers} threads"
        title = f"{model}, batch {batch}, {workers} of the CPU"
        print_table(_table(title, rows, there, found), ("also", "algorithm, tile"))
        for name, why in comparison.absent.items():
            click.echo(f"not compared: {name}: {why}")
        _say_faults(rows)
    if not there or any(c.wrong or c.fault for row in rows for c in row.cells.values()):
        sys.exit(1)


def known_backends(text: str) -> list[str]:
    """The backends in a list with commas, each once; CompileError if one is unknown."""
    from convc.backends import BACKENDS
    from convc.engines import family
    from convc.engines.torch_engine import MODES

    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in MODES and family(name) not in BACKENDS:
            listed = ", ".join((*BACKENDS, *MODES))
            raise CompileError(f"unknown backend {name!r}, known: {listed}")
    return names


def _table(
    title: str, rows: Sequence[Row], names: Sequence[str], found: dict[str, float]
) -> Table:
    """A row for each direction, the layer's name on its first; the totals last."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), box=SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    first, *others = names or [""]
    table.add_column("layer", no_wrap=True)
    table.add_column("also", style="dim", no_wrap=True)
    table.add_column("direction", no_wrap=True)
    for name in names:
        table.add_column(f"{name}\nerror/bound", justify="right", no_wrap=True)
    for name in names:
        table.add_column(f"{name}\ntime", justify="right", no_wrap=True)
    for name in others:
        table.add_column(f"{first}\n/ {name}", justify="right", no_wrap=True)
    table.add_column("roof", justify="right", no_wrap=True)
    table.add_column("algorithm, tile", style="dim", overflow="fold")
    last = ""
    for row in rows:
        new = row.layer != last
        cells = [row.cells.get(name) for name in names]
        table.add_row(
            Text(row.layer if new else "", "bold"),
            Text(", ".join(row.others) if new else ""),
            row.direction,
            *map(_error, cells),
            *(_time(cell.seconds if cell else None) for cell in cells),
            *(_ratio(row.ratios.get(name)) for name in others),
            "" if row.roof is None else f"{row.roof:.0%}",
            Text(cells[0].choice if cells and cells[0] else ""),
        )
        last = row.layer
    table.add_section()
    base = found.get(first)
    table.add_row(
        *("total", "", ""),
        *("" for _ in names),
        *(_time(found.get(name)) for name in names),
        *(_ratio(base / found[n] if base and n in found else None) for n in others),
        *("", ""),
        style="bold",
    )
    return table


def _error(cell: Cell | None) -> Text:
    from rich.text import Text

    if cell is None:
        return Text()
    if cell.units is None:
        return Text("failed", "bold red")
    number = f"{cell.units:.2g}" if cell.units else "0"
    return Text(number, "bold red" if cell.wrong else "green")


def _time(seconds: float | None) -> str:
    from convc.plan_table import duration

    return duration(seconds)


def _ratio(ratio: float | None) -> Text:
    from rich.text import Text

    if ratio is None:
        return Text()
    return Text(f"{ratio:.2f}", "green" if ratio <= 1 else "yellow")


def _say_faults(rows: Sequence[Row]) -> None:
    """What could not be run, once for each layer and backend, and what is wrong."""
    said = set()
    for row in rows:
        for name, cell in row.cells.items():
            text = f"{row.layer} on {name} failed: {cell.fault}" if cell.fault else ""
            if cell.wrong:
                text = (
                    f"{row.layer}, {row.direction} on {name}: the error is "
                    f"{cell.units:.3g} times what rounding may be"
                )
            if text and text not in said:
                said.add(text)
                click.echo(text)
