"""Commands that look for a wrong result: ``bisect`` and ``audit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convc.cli.group import (
    compile_options,
    input_option,
    load_model,
    model_argument,
    step_named,
    step_option,
)

if TYPE_CHECKING:
    from convc.trust.bisect import Search

_METHODS = {
    "training": "training_step",
    "evaluation": "evaluation_step",
    "inference": "inference",
}


@click.command()
@model_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the repro. [default: print it]",
)
@step_option
@compile_options
@input_option
def bisect(
    model: str,
    output: Path | None,
    step: str,
    backend: str,
    batch: int,
    threads: int | None,
    input_type: str,
) -> None:
    """Find the first pass and op, or kernel and op, that compute something wrong.

    Gradient rules are compared with differences of a loss, passes with what they were
    given, kernels with the reference, all on small data. What is found is printed with
    a short program that shows it; then the exit code is 1.
    """
    from convc.trust.bisect import Search
    from convc.trust.finding import WHOLE

    loaded = load_model(model, input_type)
    whole = WHOLE.format(
        model=model,
        image=input_type,
        step=_METHODS[step],
        backend=backend,
        batch=batch,
        threads=threads,
    )
    search = Search(step_named(loaded, step), backend, batch, threads, whole)
    finding = search.run()
    if finding is None:
        click.echo(_compared(search))
        return
    click.echo(str(finding))
    if output is None:
        click.echo(f"\n{finding.repro}", nl=False)
    else:
        output.write_text(finding.repro, "utf-8")
        click.echo(f"  repro   {output}")
    sys.exit(1)


def _compared(search: Search) -> str:
    """What was compared and found equal, a line each."""
    rules = f"{search.rules:6,} gradient rules with differences of a loss\n"
    passes = len(search.passes) - 1
    return (
        "no difference\n"
        f"{rules if search.rules else ''}"
        f"{passes:6,} passes, each with the graph before it\n"
        f"{search.kernels:6,} kernels with the reference, on {search.values:,} values"
    )
