"""Times a compilation from the traced model to the loaded program, in new processes.

Each round starts an interpreter for every case, so that nothing is warm; importing
convc and NumPy is timed apart. Medians over the rounds.

    python benchmarks/compile_time.py --out benchmarks/results/compile_time.json
"""

import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import click
from keeping import keep
from rich.console import Console
from rich.table import Table

from convc.conditions import conditions

NETWORKS = ("two_conv", "four_conv", "strided")
STEPS = ("training", "inference")

COMPILE = """
import json, sys
from time import perf_counter as now
start = now()
import numpy
from convc import networks
from convc.model import Model
network, step, batch = sys.argv[1:]
imported = now()
model = Model(networks.NETWORKS[network])
chosen = model.training_step() if step == "training" else model.inference()
traced = now()
program = chosen.compile(batch=int(batch))
loaded = now()
passes = {stage.name: stage.seconds for stage in program.stages}
print(json.dumps([imported - start, traced - imported, loaded - traced, passes]))
"""


@click.command()
@click.option("--batch", default=128, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Where the JSON goes.")
def main(batch: int, rounds: int, out: Path | None) -> None:
    """Time cold compilations of the built-in networks and print the table."""
    cases = list(itertools.product(NETWORKS, STEPS))
    taken: dict[tuple[str, str], list[list[float]]] = {case: [] for case in cases}
    passes: dict[tuple[str, str], dict[str, float]] = {}
    for _, case in itertools.product(range(rounds), cases):
        *seconds, passes[case] = _compile(*case, batch)
        taken[case].append(seconds)
    drawn = Table(title=f"cold compilation, batch {batch}, ms (median of {rounds})")
    for column in ("network", "step", "import", "trace", "compile", "trace to loaded"):
        drawn.add_column(column, justify="right" if column not in STEPS else "left")
    rows = []
    for case, seconds in taken.items():
        whole = [trace + compiled for _, trace, compiled in seconds]
        medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
        shown = [f"{1e3 * s:.0f}" for s in (*medians, statistics.median(whole))]
        drawn.add_row(*case, *shown)
        rows.append(
            {
                "network": case[0],
                "step": case[1],
                "trace_to_loaded_ms": [round(1e3 * s, 1) for s in sorted(whole)],
                "median_ms": round(1e3 * statistics.median(whole), 1),
                "passes_ms": {k: round(1e3 * s, 2) for k, s in passes[case].items()},
            }
        )
    Console().print(drawn)
    if out:
        what = f"trace to loaded program, batch {batch}, numpy backend, cold"
        keep(out, {"what": what, **conditions("numpy", "networkx"), "rows": rows})


def _compile(network: str, step: str, batch: int) -> list:
    """Seconds of import, trace and compilation, then those of each pass."""
    command = [sys.executable, "-c", COMPILE, network, step, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
