"""``convc tune``: measures the best schedules and writes down the fastest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convc.cli.group import (
    COUNT,
    compile_options,
    input_option,
    load_model,
    model_argument,
    options,
    print_table,
    step_named,
    step_option,
)
from convc.ir.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from convc.tuning import Outcome, Task, Trial

_tune_options = options(
    click.option(
        "--top",
        type=COUNT,
        default=6,
        show_default=True,
        help="Schedules to try for each kernel: the best predicted ones, and the best "
        "of each algorithm.",
    ),
    click.option(
        "--rounds",
        type=COUNT,
        default=7,
        show_default=True,
        help="How often they take turns.",
    ),
    click.option("--again", is_flag=True, help="Measure anew what is in the lockfile."),
    click.option(
        "--compiled",
        is_flag=True,
        help="Measure nothing: judge schedules for a GPU by their compiled code, as "
        "can be done where there is none.",
    ),
)


@click.command()
@model_argument
@step_option
@_tune_options
@compile_options
@input_option
def tune(
    model: str,
    step: str,
    top: int,
    rounds: int,
    again: bool,
    compiled: bool,
    backend: str,
    batch: int,
    threads: int | None,
    input_type: str | None,
) -> None:
    """Measure MODEL's kernels, keep the fastest schedules in the lockfile.

    A schedule wins only if its results agree with the interpreter. Commands that
    compile read the lockfile: --lockfile, else CONVC_LOCKFILE, else ./convc.lock.
    """
    from convc import lockfile
    from convc.engines import targeted
    from convc.tuning import recalled, tasks_of

    if compiled:
        _want_machine_code(backend)
    else:
        backend = targeted(backend)
    rounds = 0 if compiled else rounds
    path = lockfile.lockfile_path() or Path(lockfile.NAME)
    entries = lockfile.read_lockfile(path) if path.exists() else {}
    chosen = step_named(load_model(model, input_type), step)
    tasks, single = tasks_of(chosen, backend, batch, threads)
    kept = {} if again else entries
    known = [recalled(task, kept.get(task.key), top, rounds) for task in tasks]
    if None in known:
        lockfile.check_writable(path)
    done: list[Outcome] = []
    try:
        for outcome in _outcomes(tasks, known, top, rounds):
            done.append(outcome)
            if not outcome.known and outcome.entry is not None:
                lockfile.update_lockfile(path, [outcome.entry], replacing=again)
    except KeyboardInterrupt:
        _report(done, single, path)
        left = len(tasks) - len(done)
        raise KeyboardInterrupt(
            f"interrupted; {left} of {len(tasks)} kernels were not measured"
        ) from None
    _report(done, single, path)


def _want_machine_code(backend: str) -> None:
    """CompileError unless schedules of the backend can be judged by compiled code."""
    if backend.partition(":")[0] != "triton" or backend == "triton:interpret":
        raise CompileError(
            f"--compiled is for GPUs, say --backend triton:sm_90, not for {backend}; "
            "leave it away to measure"
        )


def _outcomes(
    tasks: list[Task], known: list[Outcome | None], top: int, rounds: int
) -> Iterator[Outcome]:
    """Tune what is not known, one after the other, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from convc import judging, tuning

    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        line = bar.add_task("", total=len(tasks))
        for task, found in zip(tasks, known, strict=True):
            bar.update(line, description=task.name)
            if rounds:
                yield found or tuning.tune(task, top, rounds)
            else:
                yield found or judging.judge(task, top)
            bar.advance(line)


def _report(outcomes: list[Outcome], single: int, path: Path) -> None:
    """What was measured as a table, and what it says of the cost model."""
    if outcomes:
        print_table(_table(outcomes))
    ratios = [o.ratio for o in outcomes if o.ratio is not None]
    known = sum(o.known for o in outcomes)
    wrong = [o for o in outcomes for t in o.trials if t.fault]
    out = sum(bool(t.drawback) for o in outcomes for t in o.trials)
    measured = any(o.rounds for o in outcomes)
    click.echo(
        f"{_kernels(len(outcomes) - known)} {'measured' if measured else 'compiled'}, "
        f"{known} known from {path}, {single} with one schedule only"
    )
    if ratios and measured:
        best = sum(ratio == 1 for ratio in ratios)
        click.echo(
            f"the cost model's choice is the fastest of {best} of "
            f"{_kernels(len(ratios))}, at worst {max(ratios):.2f} times the fastest"
        )
    if wrong:
        click.echo(
            f"{len(wrong)} schedules gave wrong results and cannot win; please report"
        )
    if out:
        click.echo(f"{out} schedules are out for what their code needs")
    if any(o.entry is not None and not o.known for o in outcomes):
        click.echo(f"written: {path}")


def _table(outcomes: list[Outcome]) -> Table:
    """A line for each kernel, and below it one for each schedule."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("kernel and schedules", no_wrap=True)
    table.add_column("predicted", justify="right", no_wrap=True)
    kind = "measured" if any(o.rounds for o in outcomes) else "judged"
    table.add_column(kind, justify="right", no_wrap=True)
    table.add_column("")
    for outcome in outcomes:
        table.add_row(_name(outcome.task), style="cyan")
        for trial in outcome.trials:
            predicted = _milliseconds(trial.candidate.cost.seconds)
            measured = "" if trial.seconds is None else _milliseconds(trial.seconds)
            table.add_row(
                *(f"  {_schedule(trial)}", predicted, measured),
                _remark(outcome, trial),
                style="bold" if trial is outcome.winner else "",
            )
    return table


def _name(task: Task) -> str:
    return task.name if task.count == 1 else f"{task.name} (×{task.count})"


def _schedule(trial: Trial) -> str:
    from convc.ir.printer import attr_text

    schedule = dict(trial.candidate.schedule)
    algorithm = str(schedule.pop("algorithm", ""))
    return " ".join([algorithm, *(f"{k}={attr_text(v)}" for k, v in schedule.items())])


def _remark(outcome: Outcome, trial: Trial) -> str:
    if trial.fault:
        return f"wrong: {trial.fault}"
    if trial.drawback:
        return f"out: {trial.drawback}"
    predicted = trial is outcome.trials[0]
    if trial is outcome.winner:
        best = "fastest" if outcome.rounds else "best"
        return f"{best}, as predicted" if predicted else best
    return "predicted fastest" if predicted else ""


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


def _kernels(count: int) -> str:
    return f"{count} kernel" if count == 1 else f"{count} kernels"
