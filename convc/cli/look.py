"""A model's layers as a table, and all its programs as files."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from convc.cli.group import (
    STEPS,
    compile_options,
    input_option,
    load_model,
    model_argument,
    print_table,
    step_named,
)


@click.command()
@model_argument
@click.option(
    "--sizes", is_flag=True, help="Print how the size of each result comes about too."
)
@input_option
def summary(model: str, sizes: bool, input_type: str | None) -> None:
    """Print a model's layers, shapes, parameters and work."""
    table = load_model(model, input_type).summary()
    if sys.stdout.isatty():
        print_table(table)
    else:
        click.echo(str(table))
    if sizes:
        click.echo(f"\n{table.sizes()}")


@click.command("compile")
@model_argument
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write.",
)
@click.option(
    "--step",
    type=click.Choice([*STEPS, "both"]),
    default="both",
    show_default=True,
    help="Which programs; both are training and inference.",
)
@click.option("--check", is_flag=True, help="Check every pass on small random data.")
@compile_options
@input_option
def compile_command(
    model: str,
    output: Path,
    step: str,
    check: bool,
    backend: str,
    batch: int,
    threads: int | None,
    input_type: str | None,
) -> None:
    """Write a model's emitted programs, IR and memory plans.

    For the backend torch, the network as a module of PyTorch.
    """
    from convc.backends.torch.emit import emit_torch
    from convc.cli.folder import program_files, write_folder
    from convc.engines import family

    loaded = load_model(model, input_type)
    files: dict[str, str] = {}
    lines = []
    for name in ("training", "inference") if step == "both" else (step,):
        if family(backend) == "torch":
            source = emit_torch(step_named(loaded, name).traced(), batch)
            files[f"{name}.py"] = source
            length = len(source.splitlines())
            lines.append(f"{output / name}.py  {length} lines")
            continue
        program = step_named(loaded, name).compile(
            backend=backend, batch=batch, threads=threads, check=check
        )
        files |= program_files(name, program)
        length = len(program.source.splitlines())
        lines.append(f"{output / name}.py  {length} lines  {program.memory}")
    write_folder(output, files)
    click.echo("\n".join(lines))
