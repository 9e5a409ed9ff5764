"""Runs a stage from a file: what is left to be compiled is, then it is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from convc.cli.colour import ir_text, print_text
from convc.cli.group import (
    COUNT,
    STEPS,
    backend_option,
    device_option,
    lockfile_option,
)
from convc.ir.errors import CompileError, RunError

if TYPE_CHECKING:
    from convc.ir.graph import Graph
    from convc.ir.interpreter import Result
    from convc.ir.ops.base import Array
    from convc.passes.manager import Stage
    from convc.pipeline import Step
    from convc.program import Program

_FILE = click.Path(dir_okay=False, path_type=Path)
ROUNDS = 5
"""Steps that are timed."""
SHOWN = 8
"""Numbers of an output that are printed."""


@click.command()
@click.argument("file", metavar="STAGE.ir", type=_FILE)
@click.option(
    "--from",
    "after",
    metavar="PASS",
    default="",
    help="The last pass the stage went through. [default: as in NN-PASS.ir]",
)
@click.option("--to", metavar="PASS", help="Print the IR after this pass, run nothing.")
@click.option(
    "--step",
    type=click.Choice(STEPS),
    help="Whose passes are left. [default: as in the folder's name]",
)
@click.option(
    "--input",
    "inputs",
    metavar="NAME=FILE.npy",
    multiple=True,
    help="The data of an input. [default: random numbers]",
)
@click.option("--weights", metavar="W", type=_FILE, help="A safetensors file.")
@click.option("--images", type=COUNT, help="How many to run on. [default: the batch]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--source", metavar="FILE", type=_FILE, help="Write the program there.")
@click.option("--compare", is_flag=True, help="Compare with the interpreter.")
@click.option("--check", is_flag=True, help="Check every pass on small random data.")
@backend_option
@click.option("--batch", type=COUNT, help="[default: as planned or scheduled, or 128]")
@click.option("--threads", type=COUNT, help="[default: as planned, or every core]")
@lockfile_option
@device_option
def run(
    file: Path,
    after: str,
    to: str | None,
    step: str | None,
    inputs: tuple[str, ...],
    weights: Path | None,
    images: int | None,
    seed: int,
    source: Path | None,
    compare: bool,
    check: bool,
    device: str | None,
    **settings: Any,
) -> None:
    """Compile and run STAGE.ir, a stage that was dumped and perhaps edited.

    The passes after it run, see --from and --step; NN-PASS.ir in a folder of
    convc compile or CONVC_DUMP says itself where it stands.
    """
    from convc.engines import targeted
    from convc.stage_file import random_inputs, read_stage, rest, state_of

    for_runs = {"--input": inputs, "--weights": weights, "--images": images}
    for_runs |= {"--source": source, "--compare": compare}
    if to is not None and any(for_runs.values()):
        given = " and ".join(name for name, value in for_runs.items() if value)
        raise click.UsageError(f"--to runs nothing; leave out {given}")
    if to is None:
        settings["backend"] = targeted(settings["backend"], device)
    graph = read_stage(file)
    left = rest(graph, file, after, step or "")
    settings = _settings(graph, file, settings)
    if to is not None:
        print_text(ir_text(_text_after(to, left, settings, check)))
        return
    arrays = _arrays(inputs)
    names = ", ".join(item.name for item in left.passes) or "none"
    program = left.compile(**settings, check=check, device=device)
    click.echo(f"{graph.name}: {graph.stage} stage; passes that were left: {names}")
    if any(item.name == "apply-optimizer" for item in left.passes):
        click.echo("optimizer: adam with its defaults, for the stage has none yet")
    click.echo(str(program.memory))
    if source is not None:
        _write(source, program.source)
    data = {
        **random_inputs(program.graph, _images(images, arrays, program), seed),
        **arrays,
    }
    meant = _meant(left, program)
    state = state_of((meant.graph, program.graph), _weights(weights, program), seed)
    program.load(state)
    result = _run(program, data)
    if compare:
        _compare(meant, data, state, result)


def _settings(graph: Graph, file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Backend, batch and threads; a planned stage has decided on the last two.

    CompileError if they are not those, or a kernel cannot run as it is scheduled.
    """
    from convc.backends import backend_named
    from convc.pipeline import default_threads
    from convc.stage_file import batch_of, check_schedules

    plan = graph.arena
    if plan is not None:
        for name, planned in (("batch", plan.batch), ("threads", plan.threads)):
            if settings[name] not in (None, planned):
                raise CompileError(
                    f"{file}: is planned for {name} {planned}, not {settings[name]}; "
                    "resume a stage in front of plan-memory"
                )
        settings["threads"] = plan.threads
    backend = backend_named(settings["backend"])
    threads = settings["threads"] or default_threads(backend)
    batch = settings["batch"] or batch_of(graph) or 128
    check_schedules(graph, backend, batch, threads)
    return {**settings, "batch": batch, "threads": threads}


def _text_after(name: str, left: Step, settings: dict[str, Any], check: bool) -> str:
    names = ["trace", *(item.name for item in left.passes)]
    if name not in names:
        raise CompileError(
            f"no pass that is left is called {name!r}; left are "
            f"{', '.join(names[1:]) or 'none'}"
        )
    short = replace(left, passes=left.passes[: names.index(name)])
    return short.stages(**settings, check=check)[-1].text


def _arrays(inputs: tuple[str, ...]) -> dict[str, Array]:
    """The arrays of --input, by name."""
    import numpy as np

    found: dict[str, Array] = {}
    for given in inputs:
        name, equals, path = given.partition("=")
        if not equals:
            raise click.UsageError(f"--input: wanted NAME=FILE.npy, got {given}")
        try:
            found[name] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"{path}: cannot be read: {error}") from error
    return found


def _images(wanted: int | None, given: dict[str, Array], program: Program) -> int:
    """How many images to run: those given, else those asked for, else the batch."""
    batched = {v.name for v in program.graph.inputs if v.type.batched}
    sizes = [len(array) for name, array in given.items() if name in batched]
    return wanted or (sizes[0] if sizes else program.batch)


def _weights(path: Path | None, program: Program) -> dict[str, Array]:
    """The tensors of a weight file, all that are not of training alone."""
    from convc.runtime.checkpoint import load_weights

    if path is None:
        return {}
    training = ("training/", "optimizer/")
    expected = {
        p.value.name: (p.value.type.bind(1), p.value.type.dtype.numpy)
        for p in program.graph.parameters
        if not p.value.name.startswith(training)
    }
    return load_weights(path, expected)


def _write(path: Path, source: str) -> None:
    from convc.files import write_atomically

    try:
        write_atomically(path, source.encode())
    except OSError as error:
        raise CompileError(f"{path}: cannot be written: {error}") from error
    click.echo(f"{path}: {len(source.splitlines())} lines")


def _run(program: Program, data: dict[str, Array]) -> Result:
    """One step, printed with its time and its checksum."""
    from statistics import median

    from convc.ir.interpreter import Result
    from convc.runtime.checkpoint import weights_digest

    result = Result(program(**data), program.state())
    for name, array in result.outputs.items():
        click.echo(f"{name} = {_said(array)}")
    updates = {p.name: result.updates[p.name] for p, _ in program.graph.updates}
    updated = {f"update of {name}": array for name, array in updates.items()}
    click.echo(f"sha256 {weights_digest({**result.outputs, **updated})}")
    times = []
    for _ in range(ROUNDS):
        start = perf_counter()
        program(**data)
        times.append(perf_counter() - start)
    click.echo(f"time {1e3 * median(times):.2f} ms, the median of {ROUNDS} steps")
    return result


def _said(array: Array) -> str:
    """A number, or an array's shape, range and first numbers."""
    if not array.ndim:
        return f"{array.item():.9g}"
    first = " ".join(f"{x:.6g}" for x in array.flat[:SHOWN])
    more = " …" if array.size > SHOWN else ""
    spread = f"{array.min():.6g} to {array.max():.6g}, mean {array.mean():.6g}"
    shape = ",".join(map(str, array.shape))
    return f"{array.dtype}[{shape}] {spread}: {first}{more}"


def _meant(left: Step, program: Program) -> Stage:
    """The stage that says what the program computes.

    It is the file's own, or what the last pass left that changes the meaning: one with
    a check of its own.
    """
    changed = [at for at, p in enumerate(left.passes, start=1) if p.check is not None]
    return program.stages[changed[-1] if changed else 0]


def _compare(
    meant: Stage, data: dict[str, Array], state: dict[str, Array], result: Result
) -> None:
    """Print how far the result is from the interpreter's; RunError if too far."""
    from convc.ir.rounding import bounded, explain

    bounds = bounded(meant.graph, data, state)
    for name, array in result.outputs.items():
        wanted, bound = bounds.outputs[name], bounds.output_bounds[name]
        click.echo(explain(name, array, wanted, bound))
    faults = bounds.faults(result)
    if faults:
        raise RunError("\n".join(["the interpreter disagrees", *faults]))
    compared = f"outputs ({len(bounds.outputs)}) and updates ({len(bounds.updates)})"
    click.echo(f"{compared} agree with the interpreter within their bounds")
