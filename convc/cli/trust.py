"""Commands that look for a wrong result: ``bisect`` and ``audit``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convc.cli.group import (
    COUNT,
    backend_option,
    compile_options,
    input_option,
    load_model,
    model_argument,
    print_table,
    step_named,
    step_option,
    working,
)

if TYPE_CHECKING:
    from rich.table import Table

    from convc.trust.audit import Row
    from convc.trust.bisect import Search

_METHODS = {
    "training": "training_step",
    "evaluation": "evaluation_step",
    "inference": "inference",
}


@click.command()
@model_argument
@click.argument("after", required=False)
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
    after: str | None,
    output: Path | None,
    step: str,
    backend: str,
    batch: int,
    threads: int | None,
    input_type: str | None,
) -> None:
    """Find the first pass and op, or kernel and op, that compute something wrong.

    Gradient rules are compared with differences of a loss, passes with what they were
    given, kernels with the reference, all on small data. What is found is printed with
    a short program that shows it; then the exit code is 1. MODEL and AFTER may be two
    stages, files of IR: then the first op at which they part is looked for.
    """
    if after is not None:
        _between(Path(model), Path(after))
        return
    from convc.engines import targeted
    from convc.model import Fed
    from convc.trust.bisect import Search
    from convc.trust.finding import WHOLE

    backend = targeted(backend)
    loaded = load_model(model, input_type)
    whole = WHOLE.format(
        model=model,
        inputs={
            name: kind if isinstance(kind, Fed) else str(kind)
            for name, kind in loaded.inputs.items()
        },
        step=_METHODS[step],
        precision=loaded.precision,
        exact=loaded.exact,
        backend=backend,
        batch=batch,
        threads=threads,
    )
    with working() as tell:
        search = Search(step_named(loaded, step), backend, batch, threads, whole, tell)
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


def _between(one: Path, other: Path) -> None:
    """Compare two stages; exit code 1 where they part."""
    from convc.stage_file import read_stage
    from convc.trust.bisect import between
    from convc.trust.finding import Finding

    with working() as tell:
        tell("two stages")
        found = between(read_stage(one), read_stage(other))
    if isinstance(found, Finding):
        click.echo(str(found))
        sys.exit(1)
    click.echo(f"no difference: {found}")


def _compared(search: Search) -> str:
    """What was compared and found equal, a line each."""
    lines = ["no difference"]
    if search.rules:
        lines.append(f"{search.rules} gradient rules with differences of a loss")
    lines.append(f"{len(search.passes) - 1} passes, each with the graph before it")
    values = f"on {search.values:,} values"
    lines.append(f"{search.kernels} kernels with the reference, {values}")
    return "\n".join(lines)


@click.command()
@model_argument
@backend_option
@click.option("--threads", type=COUNT, help="Threads to use. [default: every core]")
@click.option("--json", "as_json", is_flag=True, help="The rows as JSON lines.")
@input_option
def audit(
    model: str, backend: str, threads: int | None, as_json: bool, input_type: str | None
) -> None:
    """Compare compiled gradients with what gradients are, layer by layer.

    Linear kernels meet their adjoints, <J u, v> = <u, J'v>; every gradient meets
    central differences in float64. A difference that rounding does not explain makes
    the exit code 1.
    """
    from convc.engines import targeted
    from convc.trust.audit import Audit

    backend = targeted(backend)
    graph, rows = load_model(model, input_type).training_step().graph, []
    with working() as tell:
        tell("kernels of the first layer")
        for row in Audit(graph, backend, threads).rows():
            rows.append(row)
            tell(f"{row.layer}: {row.test} of {row.of}")
            if as_json:
                verdict = {"error": row.error, "ok": row.ok, "loose": row.loose}
                click.echo(json.dumps({**asdict(row), **verdict}))
    wrong = sum(not row.ok for row in rows)
    if not as_json:
        print_table(_table(rows), ("expected", "compiled"))
        click.echo(_counted(rows, wrong))
    sys.exit(1 if wrong else 0)


def _counted(rows: list[Row], wrong: int) -> str:
    said = f"{wrong} of them wrong" if wrong else "all within what rounding allows"
    loose = sum(row.ok and row.loose for row in rows)
    aside = f", {loose} within a loose bound" if loose else ""
    return f"{len(rows)} comparisons, {said}{aside}"


def _table(rows: list[Row]) -> Table:
    """A row for each comparison, the layer's name on its first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in (
        "layer",
        "test",
        "of",
        "compiled",
        "expected",
        "error",
        "bound",
        "",
    ):
        words = heading in ("layer", "test", "of", "")
        table.add_column(heading, justify="left" if words else "right", no_wrap=True)
    last = ""
    for row in rows:
        numbers = f"{row.compiled:.6g}", f"{row.expected:.6g}"
        limits = f"{row.error:.1e}", f"{row.bound:.1e}"
        verdict = Text("wrong", "bold red")
        if row.ok:
            verdict = Text("loose", "yellow") if row.loose else Text("ok", "green")
        name = Text(row.layer if row.layer != last else "")
        table.add_row(name, row.test, Text(row.of), *numbers, *limits, verdict)
        last = row.layer
    return table
