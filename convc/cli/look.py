"""Commands that look at a model and what the compiler makes of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convc.cli.group import (
    compile_options,
    input_option,
    load_model,
    model_argument,
    print_table,
)
from convc.ir.errors import CompileError

if TYPE_CHECKING:
    from convc.model import Model
    from convc.passes.manager import Stage
    from convc.pipeline import Step

STEPS = ("training", "evaluation", "inference")
"""The programs that a model can be compiled to."""


@click.command()
@model_argument
@input_option
def summary(model: str, input_type: str) -> None:
    """Print a model's layers, shapes, parameters and work."""
    table = load_model(model, input_type).summary()
    if sys.stdout.isatty():
        print_table(table)
    else:
        click.echo(str(table))


@click.command()
@model_argument
@click.option("--after", metavar="PASS", help="The pass to look behind. [default: all]")
@click.option("--list", "listed", is_flag=True, help="List the passes instead.")
@click.option(
    "--step",
    type=click.Choice(STEPS),
    default="training",
    show_default=True,
    help="Which of the model's programs.",
)
@compile_options
@input_option
def show(
    model: str,
    after: str | None,
    listed: bool,
    step: str,
    backend: str,
    batch: int,
    threads: int | None,
    input_type: str,
) -> None:
    """Print a model's IR, as it is after one of the passes."""
    if listed and after is not None:
        raise click.UsageError("--after and --list exclude each other")
    chosen = _step(load_model(model, input_type), step)
    if after is not None:
        chosen = _up_to(chosen, after)
    stages = chosen.stages(backend=backend, batch=batch, threads=threads)
    if listed:
        _list_stages(stages)
    else:
        click.echo(stages[-1].text, nl=False)


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
    input_type: str,
) -> None:
    """Write a model's emitted programs, IR and memory plans."""
    from convc.cli.folder import program_files, write_folder

    loaded = load_model(model, input_type)
    files: dict[str, str] = {}
    lines = []
    for name in ("training", "inference") if step == "both" else (step,):
        program = _step(loaded, name).compile(
            backend=backend, batch=batch, threads=threads, check=check
        )
        files |= program_files(name, program)
        length = len(program.source.splitlines())
        lines.append(f"{output / name}.py  {length} lines  {program.memory}")
    write_folder(output, files)
    click.echo("\n".join(lines))


def _step(model: Model, name: str) -> Step:
    """One of the model's programs by its name on the command line."""
    if name == "training":
        return model.training_step()
    return model.evaluation_step() if name == "evaluation" else model.inference()


def _up_to(step: Step, name: str) -> Step:
    """The step without the passes behind ``name``, one of which may be failing."""
    names = ["trace", *(item.name for item in step.passes)]
    if name not in names:
        raise CompileError(
            f"no pass is called {name!r}; the passes are {', '.join(names)}"
        )
    return replace(step, passes=step.passes[: names.index(name)])


def _list_stages(stages: list[Stage]) -> None:
    """One line a pass, with what it left undone and why."""
    width = max(len(stage.name) for stage in stages)
    for stage in stages:
        nodes = f"{len(stage.graph.nodes):4d} nodes"
        took = f"{1e3 * stage.seconds:7.2f} ms"
        click.echo(f"{stage.name:<{width}}  {nodes}  {took}  {stage.graph.stage}")
        for note in stage.refusals:
            click.echo(f"{'':<{width}}  {note}")
