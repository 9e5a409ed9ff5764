"""``convc report``: one page that shows a compiled program."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter

import click

from convc.cli.group import (
    compile_options,
    device_option,
    input_option,
    load_model,
    model_argument,
    step_named,
    step_option,
)
from convc.ir.errors import CompileError


@click.command()
@model_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page to write.",
)
@step_option
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Run the program, to time its kernels and this machine. [default: on the CPU]",
)
@compile_options
@device_option
@input_option
def report(
    model: str,
    output: Path,
    step: str,
    measure: bool | None,
    backend: str,
    batch: int,
    threads: int | None,
    device: str | None,
    input_type: str | None,
) -> None:
    """Write one page that shows what the compiler made of a model.

    The page is for a browser and needs nothing else: the graph before and after each
    pass, the user's lines beside the generated code, memory over time, and the speed
    of each kernel under the machine's roofline.
    """
    from convc.engines import targeted
    from convc.places import file_of
    from convc.plan_table import kernel_times
    from convc.report.data import Facts, record
    from convc.report.render import render
    from convc.roofline import peaks_for

    place = _place(output)
    if measure is None:
        measure = backend == "numpy"
    if measure:
        backend = targeted(backend, device)
    loaded = load_model(model, input_type)
    start = perf_counter()
    program = step_named(loaded, step).compile(backend, batch, threads, device=device)
    facts = Facts(
        step,
        perf_counter() - start,
        kernel_times(program) if measure else {},
        peaks_for(program) if measure else None,
        file_of(loaded.network),
    )
    page = render(record(program, facts))
    _write(place, page)
    kernels, stages = len(program.kernels), len(program.stages)
    size = f"{len(page) / 1000:.0f} kB"
    click.echo(f"{output}: {size}, {stages} stages, {kernels} kernels")


def _place(path: Path) -> Path:
    """Where a page of that name lies, links followed; CompileError if it cannot."""
    place = path.resolve()
    why = ""
    if not place.parent.is_dir():
        why = f"there is no folder {path.parent}"
    elif place.exists() and not place.is_file():
        why = "what is there is not a file"
    elif not os.access(place.parent, os.W_OK):
        why = f"the folder {path.parent} may not be written to"
    if why:
        raise CompileError(f"{path}: cannot be written: {why}")
    return place


def _write(place: Path, text: str) -> None:
    """Put a file in its place, whole; CompileError if it cannot be written."""
    from convc.files import write_atomically

    try:
        write_atomically(place, text.encode("utf-8"))
    except OSError as error:
        raise CompileError(f"{place}: cannot be written: {error.strerror}") from error
