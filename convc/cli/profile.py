"""``convc profile``: where the time of a step goes, kernel by kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convc.cli.group import (
    COUNT,
    compile_options,
    device_option,
    input_option,
    load_model,
    model_argument,
    print_table,
    step_named,
    step_option,
)

if TYPE_CHECKING:
    from typing import Any

    from rich.table import Table

    from convc.profiling import Kernel, Profile


@click.command()
@model_argument
@step_option
@click.option(
    "--rounds", type=COUNT, default=9, show_default=True, help="Steps that are timed."
)
@click.option("--new-peaks", is_flag=True, help="Measure the machine's peaks anew.")
@click.option(
    "--trace",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the steps as a trace, for chrome://tracing or ui.perfetto.dev.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the kernels as JSON.")
@compile_options
@device_option
@input_option
def profile(
    model: str,
    step: str,
    rounds: int,
    new_peaks: bool,
    trace: Path | None,
    as_json: bool,
    backend: str,
    batch: int,
    threads: int | None,
    device: str | None,
    input_type: str | None,
) -> None:
    """Say where the time of a step goes.

    Of each kernel its time, its work a second, the share of the machine's roofline that
    it reaches, how long its workers wait for the slowest, and the gap before it.
    """
    from convc import profiling
    from convc.engines import targeted
    from convc.files import write_atomically
    from convc.roofline import peaks_for

    backend = targeted(backend, device)
    chosen = step_named(load_model(model, input_type), step)
    program = chosen.compile(backend, batch, threads, device=device)
    found = profiling.profile(program, rounds, peaks_for(program, new_peaks))
    if trace is not None:
        write_atomically(trace, found.trace().encode("utf-8"))
    if as_json:
        click.echo(json.dumps(_record(found), indent=1))
        return
    print_table(_table(found), ("with", "GB/s", "wait"))
    for line in _foot(found):
        click.echo(line)
    if trace is not None:
        click.echo(f"written: {trace}")


def _table(found: Profile) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from convc.plan_table import digits, duration

    table = Table(title=Text(found.name), box=SIMPLE_HEAD, show_edge=False)
    table.add_column("kernel", overflow="fold")
    table.add_column("with", style="dim", overflow="fold")
    for heading in ("time", "share", "GFLOP/s", "GB/s", "roof", "wait", "gap before"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kernel in found.kernels:
        roof = kernel.roof
        table.add_row(
            kernel.row.name,
            ", ".join(kernel.row.layers),
            duration(kernel.seconds),
            f"{kernel.seconds / found.seconds:.0%}",
            digits(kernel.flops / 1e9),
            digits(kernel.bandwidth / 1e9),
            "" if roof is None else f"{roof:.0%}",
            duration(kernel.wait),
            duration(kernel.gap),
        )
    table.add_section()
    flops = sum(k.row.work.flops for k in found.kernels)
    nbytes = sum(k.row.work.nbytes for k in found.kernels)
    table.add_row(
        *("all kernels", "", duration(found.seconds), "100%"),
        *(digits(flops / found.seconds / 1e9), digits(nbytes / found.seconds / 1e9)),
        *("", duration(found.wait), duration(found.gap)),
        style="bold",
    )
    return table


def _foot(found: Profile) -> list[str]:
    from convc.plan_table import duration

    step = duration(found.step)
    lines = [f"a step takes {step}; wait: of workers for the slowest of them"]
    if found.peaks is not None:
        lines.append(f"roof: {found.peaks}")
    return lines


def _record(found: Profile) -> dict[str, Any]:
    return {
        "name": found.name,
        "step_seconds": found.step,
        "kernels": [_kernel(kernel) for kernel in found.kernels],
    }


def _kernel(kernel: Kernel) -> dict[str, Any]:
    work = kernel.row.work
    return {
        "name": kernel.row.name,
        "layers": kernel.row.layers,
        "seconds": kernel.seconds,
        "wait_seconds": kernel.wait,
        "gap_seconds": kernel.gap,
        "flops": work.flops,
        "bytes": work.nbytes,
        "flops_per_second": kernel.flops,
        "bytes_per_second": kernel.bandwidth,
        "roof": kernel.roof,
    }
