"""Trains a network as its recipe says with several seeds, and keeps the seconds.

    python benchmarks/recipe.py fast --target 99.4 --threads 2

What counts is the time from the traced network to the last test: compiling, gathering
batches, all steps, and a test after each epoch. Reading the data is left out. Where the
processor's seconds are no more than these, the machine had other work beside it.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from conditions import conditions, keep

from convc.data.choice import load_for
from convc.model import Model
from convc.networks import load_network

RESULT = Path(__file__).parent / "results" / "recipe.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="fast", help="a built-in network")
    parser.add_argument("--target", type=float, default=99.4, help="in percent")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="train on the first images alone")
    parser.add_argument("--data", help="the folder of the data set")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    network, name = load_network(options.name)
    recipe = Model(network).recipe
    seeds = {str(seed): run(options, seed) for seed in options.seeds}
    last = [record["accuracy"][-1] for record in seeds.values()]
    result = {
        "network": name,
        "recipe": {field: repr(value) for field, value in vars(recipe).items()},
        "target": options.target,
        "threads": options.threads,
        "seeds": seeds,
        "mean": {
            "accuracy": round(mean(last), 4),
            "seconds": round(mean(r["seconds"] for r in seeds.values()), 2),
        },
        "reached": sum(accuracy >= options.target for accuracy in last),
        **conditions("convc", "numpy"),
    }
    keep(options.out, result)


def run(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One seed: accuracy in percent after each epoch, and where the seconds went."""
    network, name = load_network(options.name)
    model = Model(network, name=name)
    splits = load_for(model.image.inner, options.data)
    train = splits.train.first(options.limit or len(splits.train))
    load = os.getloadavg()[0]
    began, busy = time.perf_counter(), time.process_time()
    history = model.fit(train, splits.test, seed=seed, threads=options.threads)
    seconds = time.perf_counter() - began
    epochs = history.epochs
    return {
        "data": train.name,
        "accuracy": [round(100 * (e.test_accuracy or 0.0), 2) for e in epochs],
        "seconds_by_epoch": [round(e.seconds, 2) for e in epochs],
        "seconds": round(seconds, 2),
        "processor_seconds": round(time.process_time() - busy, 2),
        "load_before": round(load, 2),
        "weights_sha256": history.digest,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
