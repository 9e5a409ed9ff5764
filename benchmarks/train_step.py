"""Times one training step of the two-conv network against eager PyTorch.

Every contestant lives in its own process; they take turns round by round, so that
whatever else the machine does hits all alike. Times are medians over the rounds of the
median step of a round; the ratio is the median of the rounds' ratios.

    python benchmarks/train_step.py --out benchmarks/results/train_step.json
"""

import multiprocessing
import statistics
from importlib.util import find_spec
from pathlib import Path

import click
from agreement import agreement
from conditions import conditions, keep
from rich.console import Console
from rich.table import Table
from workers import CONTESTANTS, serve

OURS, RIVAL = "convc numpy", "torch eager"


@click.command()
@click.option("--batch", default=128, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=12, show_default=True)
@click.option("--steps", default=5, show_default=True, help="Steps per turn.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the JSON goes.")
def main(batch: int, threads: int, rounds: int, steps: int, out: Path | None) -> None:
    """Time the training step, contestants in turn, and print the table."""
    names = [n for n in CONTESTANTS if "torch" not in n or find_spec("torch")]
    if RIVAL not in names:
        click.echo("torch is not installed: only convc is timed")
    times = race(names, batch, threads, rounds, steps)
    result = summary(times, batch, threads, rounds, steps)
    Console().print(table(result))
    result["agreement"] = rows = agreement(threads=threads)
    Console().print(agreement_table(rows))
    if out:
        keep(out, result)
    if any(float(str(row["convc_share_of_bound"])) > 1 for row in rows):
        raise SystemExit("error: convc is outside the derived bound")


def race(
    names: list[str], batch: int, threads: int, rounds: int, steps: int
) -> dict[str, list[float]]:
    """For each contestant, the median step of every round in seconds."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for name in names:
        pipes[name], theirs = context.Pipe()
        worker = context.Process(target=serve, args=(theirs, name, batch, threads))
        worker.start()
        workers.append(worker)
    medians: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(steps)
            seconds = pipe.recv()
            if turn:  # the first round warms up
                medians[name].append(statistics.median(seconds))
    for pipe in pipes.values():
        pipe.send(0)
    for worker in workers:
        worker.join()
    return medians


def summary(
    times: dict[str, list[float]], batch: int, threads: int, rounds: int, steps: int
) -> dict[str, object]:
    """What is kept: medians, quartiles and ratios, with the conditions."""
    rows = {}
    for name, seconds in times.items():
        low, middle, high = statistics.quantiles(seconds, n=4)
        rows[name] = {
            "median_ms": 1e3 * middle,
            "quartiles_ms": [1e3 * low, 1e3 * high],
            "best_ms": 1e3 * min(seconds),
            "rounds_ms": [round(1e3 * s, 3) for s in seconds],
        }
        if RIVAL in times:
            ratios = [a / b for a, b in zip(seconds, times[RIVAL], strict=True)]
            rows[name]["ratio_to_torch_eager"] = statistics.median(ratios)
    return {
        "what": f"training step of two_conv, batch {batch}, float32, Adam",
        "threads": threads,
        "rounds": rounds,
        "steps_per_round": steps,
        **conditions("numpy", "torch", "threadpoolctl"),
        "contestants": rows,
    }


def table(result: dict[str, object]) -> Table:
    """The result for people."""
    drawn = Table(title=str(result["what"]))
    for column in ("contestant", "median", "quartiles", "best", "ratio to torch eager"):
        drawn.add_column(column, justify="left" if column == "contestant" else "right")
    rows = result["contestants"]
    assert isinstance(rows, dict)
    for name, row in rows.items():
        low, high = row["quartiles_ms"]
        ratio = row.get("ratio_to_torch_eager")
        drawn.add_row(
            name,
            f"{row['median_ms']:.1f} ms",
            f"{low:.1f} – {high:.1f}",
            f"{row['best_ms']:.1f} ms",
            f"{ratio:.2f}" if ratio else "",
        )
    return drawn


def agreement_table(rows: list[dict[str, object]]) -> Table:
    """Errors against float64, for people."""
    drawn = Table(title="largest error against float64 (relative; share of the bound)")
    for column in ("value", "convc", "torch", "convc / bound", "torch / bound"):
        drawn.add_column(column, justify="left" if column == "value" else "right")
    keys = ("convc_relative", "torch_relative")
    keys += ("convc_share_of_bound", "torch_share_of_bound")
    for row in rows:
        numbers = [f"{row[key]:.1e}" if key in row else "" for key in keys]
        drawn.add_row(str(row["value"]), *numbers)
    return drawn


if __name__ == "__main__":
    main()
