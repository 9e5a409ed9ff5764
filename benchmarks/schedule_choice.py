"""How far the cost model's choice is from the best schedule, kernel by kernel.

Over the built-in networks and those of the course notes, trained and run; a kernel that
several layers have is measured once. Every candidate of a kernel that leaves a choice
is verified and measured, the candidates in turn. The fastest of them and the cost
model's choice then take turns again: the ratio is the median of these rounds' ratios,
and at least 1. (The smallest of many noisy times would be too small.)

    python benchmarks/schedule_choice.py --out benchmarks/results/schedule_choice.json

The file is written after every kernel. The same command takes from it what was measured
in the same conditions for the same predictions: it goes on where it was stopped, and
measures again what a change of the cost model concerns.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from keeping import keep, write
from rich.console import Console
from rich.progress import track
from seed_networks import SEED_NETWORKS

from convc.conditions import conditions
from convc.model import Model
from convc.networks import NETWORKS
from convc.tuning import Task, Trial, tasks_of, tune, turns

GOAL = 1.3
"""The choice should not be slower than this many times the best."""
NAMES = (*NETWORKS, *SEED_NETWORKS)

Row = dict[str, Any]


@dataclass
class Job:
    """A kernel that leaves a choice, and the layers that have it."""

    task: Task
    layers: list[str]


@click.command()
@click.option("--networks", default=",".join(NAMES), show_default="all")
@click.option("--batch", default=128, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Over all candidates.")
@click.option("--finals", default=9, show_default=True, help="Choice against best.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the JSON goes.")
def main(
    networks: str, batch: int, threads: int, rounds: int, finals: int, out: Path | None
) -> None:
    """Measure all candidates of the networks' kernels and print the ratios."""
    unknown = [n for n in networks.split(",") if n not in NAMES]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(NAMES)}")
    what = f"cost model's schedule against the measured best, batch {batch}"
    settings = {"threads": threads, "rounds": rounds, "finals": finals}
    head: Row = {"what": what, **settings, **conditions("numpy")}
    jobs, known, rows = jobs_of(networks, batch, threads), known_rows(out, head), []
    console = Console(highlight=False, soft_wrap=True)
    for job in track(jobs, f"{len(jobs)} kernels", console=console):
        found = known.get(identity(predictions(job.task)))
        rows.append({"layers": job.layers, **(found or row(job.task, rounds, finals))})
        console.print(line(rows[-1]))
        if out:
            write(out, {**head, **summary(rows), "rows": rows})
    for name, value in summary(rows).items():
        console.print(f"{name}: {value}")
    if out:
        keep(out, {**head, **summary(rows), "rows": rows})


def jobs_of(networks: str, batch: int, threads: int) -> list[Job]:
    """The different kernels of the networks that leave a choice."""
    jobs: dict[object, Job] = {}
    for name in networks.split(","):
        seed = SEED_NETWORKS.get(name)
        model = seed.model(name) if seed else Model(NETWORKS[name])
        for kind in ("training", "inference"):
            step = model.training_step() if kind == "training" else model.inference()
            for task in tasks_of(step, "numpy", batch, threads)[0]:
                job = jobs.setdefault(task.key, Job(task, []))
                job.layers.append(f"{name} {kind} {task.name}")
    return list(jobs.values())


def known_rows(out: Path | None, head: Row) -> dict[str, Row]:
    """What a file holds that was measured in these conditions, by its predictions."""
    if out is None or not out.exists():
        return {}
    kept = json.loads(out.read_text("utf-8"))
    if any(kept.get(key) != head[key] for key in head if key != "command"):
        return {}
    rows = ({k: v for k, v in r.items() if k != "layers"} for r in kept["rows"])
    return {identity(r): r for r in rows}


def identity(found: Row) -> str:
    """A kernel and all that is predicted of it, as one text."""
    predicted = [text.partition(" ms")[0] for text in found["candidates"]]
    return "\n".join([found["kernel"], found["types"], *predicted])


def row(task: Task, rounds: int, finals: int) -> Row:
    """Measure a kernel."""
    outcome = tune(task, len(task.candidates), rounds)
    choice, best = outcome.trials[0], outcome.winner
    assert best is not None, f"no schedule of {task.name} is right"
    pair = [task.program(t.candidate) for t in (choice, best)]
    ratio = 1.0
    if best is not choice:
        ours, theirs = turns(pair, task.kernel.name, finals)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return {
        "ratio": round(max(ratio, 1.0), 3),
        "choice": schedule(choice),
        "best": schedule(best),
        **predictions(task, outcome.trials),
    }


def predictions(task: Task, trials: Iterable[Trial] = ()) -> Row:
    """A kernel, and of each candidate what is predicted and what came of it."""
    candidates = [shown(t) for t in trials or (Trial(c, None) for c in task.candidates)]
    key = task.key
    return {"kernel": key.kernel, "types": key.types, "candidates": candidates}


def shown(trial: Trial) -> str:
    """A trial as it is kept, on one line."""
    predicted = f"{schedule(trial)}: predicted {1e3 * trial.candidate.cost.seconds:.4g}"
    if trial.seconds is None:
        return f"{predicted} ms, wrong: {trial.fault}"
    return f"{predicted} ms, measured {1e3 * trial.seconds:.4g} ms"


def schedule(trial: Trial) -> str:
    """The algorithm and its numbers."""
    numbers = dict(trial.candidate.schedule)
    algorithm = str(numbers.pop("algorithm"))
    return " ".join([algorithm, *(f"{k}={v}" for k, v in numbers.items())])


def line(found: Row) -> str:
    """A row for people."""
    more = len(found["layers"]) - 1
    layers = found["layers"][0] + (f" and {more} more" if more else "")
    best = "the best" if found["best"] == found["choice"] else f"best {found['best']}"
    of = len(found["candidates"])
    return f"{found['ratio']:.2f}  {layers}: {found['choice']}, {best} of {of}"


def summary(rows: list[Row]) -> Row:
    """How many choices are good."""
    ratios = [r["ratio"] for r in rows]
    return {
        "layers": sum(len(r["layers"]) for r in rows),
        "kernels": len(rows),
        f"within_{GOAL}": sum(ratio <= GOAL for ratio in ratios),
        "median_ratio": statistics.median(ratios),
        "worst_ratio": max(ratios),
    }


if __name__ == "__main__":
    main()
