"""How far the cost model's choice is from the best schedule, kernel by kernel.

Every candidate of every kernel that leaves a choice is verified and measured, the
candidates in turn. The fastest of them and the cost model's choice then take turns
again: the ratio is the median of these rounds' ratios, and at least 1. (The smallest of
many noisy times would be too small.)

    python benchmarks/schedule_choice.py --out benchmarks/results/schedule_choice.json
"""

import statistics
from pathlib import Path

import click
from conditions import conditions, keep
from rich.console import Console
from rich.progress import track
from rich.table import Table

from convc.model import Model
from convc.networks import NETWORKS
from convc.tuning import Outcome, Task, Trial, tasks_of, tune, turns

GOAL = 1.3
"""The choice should not be slower than this many times the best."""


@click.command()
@click.option("--networks", default="two_conv,four_conv,strided", show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Over all candidates.")
@click.option("--finals", default=9, show_default=True, help="Choice against best.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the JSON goes.")
def main(
    networks: str, batch: int, threads: int, rounds: int, finals: int, out: Path | None
) -> None:
    """Measure all candidates of the networks' kernels and print the ratios."""
    console, rows = Console(), []
    for network in networks.split(","):
        model = Model(NETWORKS[network])
        for kind in ("training", "inference"):
            step = model.training_step() if kind == "training" else model.inference()
            tasks, single = tasks_of(step, "numpy", batch, threads)
            note = f"{network} {kind} ({single} kernels leave no choice)"
            for task in track(tasks, note, console=console):
                found = row(task, tune(task, len(task.candidates), rounds), finals)
                rows.append({"network": network, "step": kind, **found})
    console.print(table(rows))
    ratios = [float(str(r["ratio"])) for r in rows]
    within = sum(ratio <= GOAL for ratio in ratios)
    summary = {
        "kernels": len(rows),
        f"within_{GOAL}": within,
        "median_ratio": statistics.median(ratios),
        "worst_ratio": max(ratios),
    }
    console.print(
        f"{within} of {len(rows)} choices are within {GOAL} of the best; median "
        f"{summary['median_ratio']:.2f}, worst {summary['worst_ratio']:.2f}"
    )
    if out:
        what = f"cost model's schedule against the measured best, batch {batch}"
        settings = {"threads": threads, "rounds": rounds, "finals": finals}
        head = {"what": what, **settings, **conditions("numpy"), **summary}
        keep(out, {**head, "rows": rows})


def row(task: Task, outcome: Outcome, finals: int) -> dict[str, object]:
    """What is kept of a kernel."""
    choice, best = outcome.trials[0], outcome.winner
    assert best is not None, f"no schedule of {task.name} is right"
    pair = [task.program(t.candidate) for t in (choice, best)]
    ratio = 1.0
    if best is not choice:
        ours, theirs = turns(pair, task.kernel.name, finals)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return {
        "kernel": task.name,
        "ratio": round(max(ratio, 1.0), 3),
        "choice": schedule(choice),
        "best": schedule(best),
        "candidates": [shown(t) for t in outcome.trials],
    }


def shown(trial: Trial) -> str:
    """A trial as it is kept, on one line."""
    predicted = f"{schedule(trial)}: predicted {1e3 * trial.candidate.cost.seconds:.4g}"
    if trial.seconds is None:
        return f"{predicted} ms, wrong: {trial.fault}"
    return f"{predicted}, measured {1e3 * trial.seconds:.4g} ms"


def schedule(trial: Trial) -> str:
    """The algorithm and its numbers."""
    numbers = dict(trial.candidate.schedule)
    algorithm = str(numbers.pop("algorithm"))
    return " ".join([algorithm, *(f"{k}={v}" for k, v in numbers.items())])


def table(rows: list[dict[str, object]]) -> Table:
    """The rows for people."""
    drawn = Table(title="the cost model's choice against the measured best")
    for column in ("network", "step", "kernel", "choice", "best", "of", "ratio"):
        drawn.add_column(
            column, justify="right" if column in ("of", "ratio") else "left"
        )
    for found in rows:
        names = (str(found[key]) for key in ("network", "step", "kernel", "choice"))
        other = "" if found["best"] == found["choice"] else str(found["best"])
        count = len(found["candidates"])  # type: ignore[arg-type] # a list
        drawn.add_row(*names, other, str(count), f"{found['ratio']:.2f}")
    return drawn


if __name__ == "__main__":
    main()
