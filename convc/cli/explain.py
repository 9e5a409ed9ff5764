"""Commands that say what a program will do, what it did, and why."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from convc.cli.group import (
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
    from convc.pipeline import Step


@click.command()
@model_argument
@click.argument("layer", required=False)
@step_option
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Run the program and time its kernels, or do not. [default: on the CPU]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@compile_options
@device_option
@input_option
def explain(
    model: str,
    layer: str | None,
    step: str,
    measure: bool | None,
    as_json: bool,
    backend: str,
    batch: int,
    threads: int | None,
    device: str | None,
    input_type: str | None,
) -> None:
    """Say what was made of a layer, and why.

    Without LAYER, list the layers. With it: the user's line and its ops, what each
    pass did or refused to do, and each kernel with its schedule and those rejected for
    it, its work, time, memory and code.
    """
    from convc.cli.colour import print_text
    from convc.cli.explanation import explanation_text
    from convc.engines import targeted
    from convc.explain import explain as explain_layer
    from convc.explain import known_layer
    from convc.places import file_of
    from convc.plan_table import kernel_times
    from convc.roofline import peaks_for

    if as_json and layer is None:
        raise click.UsageError("--json is for a LAYER")
    loaded = load_model(model, input_type)
    chosen = step_named(loaded, step)
    if layer is None:
        _list_layers(chosen)
        return
    known_layer(chosen.graph, layer)
    if measure is None:
        measure = backend == "numpy"
    if measure:
        backend = targeted(backend, device)
    program = chosen.compile(backend, batch, threads, device=device)
    times = kernel_times(program) if measure else None
    peaks = peaks_for(program) if measure else None
    found = explain_layer(program, layer, file_of(loaded.network), times, peaks)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    else:
        print_text(explanation_text(found))


@click.command()
@model_argument
@step_option
@click.option(
    "--measure", is_flag=True, help="Run it, and compare with the prediction."
)
@click.option("--new-peaks", is_flag=True, help="Measure the machine's peaks anew.")
@compile_options
@device_option
@input_option
def plan(
    model: str,
    step: str,
    measure: bool,
    new_peaks: bool,
    backend: str,
    batch: int,
    threads: int | None,
    device: str | None,
    input_type: str | None,
) -> None:
    """Print what each layer gives, holds and costs.

    A kernel stands below the layer that leads it. FLOPs are those of the ops by
    definition, bytes those of what a kernel reads and writes, for one batch.
    """
    from convc.engines import targeted
    from convc.plan_table import SPARE, kernel_times, plan_table
    from convc.roofline import peaks_for

    if new_peaks and not measure:
        raise click.UsageError("--new-peaks needs --measure, which compares with them")
    chosen = step_named(load_model(model, input_type), step)
    if measure:
        backend = targeted(backend, device)
        program = chosen.compile(backend, batch, threads, device=device)
        peaks = peaks_for(program, new_peaks)
        table = plan_table(program.stages, backend, kernel_times(program), peaks)
    else:
        stages = chosen.stages(backend=backend, batch=batch, threads=threads)
        table = plan_table(stages, backend)
    if sys.stdout.isatty():
        print_table(table, SPARE)
    else:
        click.echo(str(table))


def _list_layers(step: Step) -> None:
    """One line a layer, with the lines that it comes from."""
    from convc.explain import layers, user_lines

    rows = layers(step.graph)
    width = max((len(row.layer) for row in rows), default=0)
    for row in rows:
        lines = ", ".join(f"{line.file}:{line.line}" for line in user_lines(row))
        click.echo(f"{row.layer:<{width}}  {row.kind:<12}  {lines}".rstrip())
