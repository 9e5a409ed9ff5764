"""Trains networks as their recipes say, with several seeds; the notes' figures beside.

    python benchmarks/seeds.py cs20si cs20 --epochs 5 --seeds 0 1 2 --threads 2
    python benchmarks/seeds.py cs20si --epochs 50 --backend triton
    python benchmarks/seeds.py --table                   # what was kept, as Markdown
    python benchmarks/seeds.py --table --into README.md  # between its markers

Each network has a file for each backend under ``benchmarks/results/seeds``, which is
written anew whenever a seed is done; what it holds is not trained again. An interrupted
command is repeated, and goes on from the last checkpoint; so does one that asks for
more epochs than before.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

from keeping import write

from convc.backends import backend_named
from convc.cli.group import limited
from convc.conditions import conditions
from convc.data.cache import user_cache
from convc.data.choice import load_for
from convc.files import write_atomically
from convc.ir.printer import print_graph
from convc.model import Model
from convc.networks import load_network
from convc.pipeline import default_threads
from convc.runtime.history import History
from convc.runtime.trainer import CHECKPOINTS, fit

RESULTS = Path(__file__).parent / "results" / "seeds"
MARKERS = "<!-- seeds -->\n", "<!-- /seeds -->\n"
"""What the table stands between in a Markdown file."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Note:
    """A note and its figures: accuracy by epoch or at the end, seconds an epoch."""

    title: str
    accuracy: dict[int, float] = field(default_factory=dict)
    at_the_end: float | None = None
    seconds: float | None = None


CS20SI = Note(
    "CS 20SI, note 7 (2017)",
    {1: 0.9111, 2: 0.9401, 3: 0.9494, 5: 0.9549, 10: 0.9692, 25: 0.9736}
    | {40: 0.9793, 50: 0.9804},
)
CS20 = Note(
    "CS 20, note 7 (2018)",
    {1: 0.9131, 2: 0.9363, 3: 0.9478, 5: 0.9573, 10: 0.971, 25: 0.9818},
    seconds=250,
)
LTFN5 = Note("Learn TensorFlow Now, part 5", at_the_end=0.8188)
FLAT784 = Note("Explaining TensorFlow code for a ConvNet")
CSCI1470 = Note("CSCI 1470, convolution")
OTHER = Note("")

NOTES = {
    "cs20si": CS20SI,
    "cs20": CS20,
    "cs20_layers": CS20,
    "ltfn5": LTFN5,
    "ltfn5_sane": LTFN5,
    "ltfn5_average": LTFN5,
    "ltfn5_strided": LTFN5,
    "flat784": FLAT784,
    "csci1470": CSCI1470,
    "csci1470_cifar": CSCI1470,
}
"""The networks that follow a note; in the order of the table."""

BACKENDS = ("numpy", "triton")
HEADINGS = (
    *("network", "note", "its accuracy in % by epoch", "ours, NumPy", "ours, Triton"),
    *("s per epoch: NumPy / Triton / its", "parameters", "arena peak"),
    "kernels per step",
)
EPOCHS = (1, 2, 3, 5, 10, 25, 40, 50)
"""The epochs that the table shows, beside the last."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not there yet, or print the table."""
    options = _parser().parse_args(arguments)
    if options.table:
        text = table(options.out)
        if options.into is None:
            print(text, end="")
        else:
            insert(options.into, text)
        return
    try:
        for name in options.names:
            train(name, options)
    except KeyboardInterrupt as interrupt:
        raise SystemExit(f"{interrupt} (the same command again)") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a built-in network")
    parser.add_argument("--epochs", type=int, help="default: the recipe's, or 5")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backend", default="numpy", choices=BACKENDS)
    parser.add_argument("--device", help="the GPU of triton, or interpret")
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--limit", type=int, help="train on the first images alone")
    parser.add_argument("--test-limit", type=int, help="test on the first alone")
    parser.add_argument("--data", help="the folder of the data set")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results")
    parser.add_argument("--runs", type=Path, help="checkpoints; default: the cache")
    parser.add_argument("--table", action="store_true", help="print the table")
    parser.add_argument("--into", type=Path, help="put it into this Markdown file")
    return parser


def train(name: str, options: argparse.Namespace) -> None:
    """Bring a network's file up to what is asked for, seed by seed."""
    network, _ = load_network(name)
    model = Model(network, name=name)
    splits = load_for(model.image.inner, options.data)
    splits = limited(splits, options.limit, options.test_limit)
    recipe = model.recipe.but(epochs=options.epochs)
    backend = options.backend
    settings = {
        "network": name,
        "backend": backend,
        "definition": _digest(re.sub(r" +@ .*", "", print_graph(model.graph))),
        "data": splits.train.name,
        "images": len(splits.train),
        "test_images": len(splits.test),
        "batch": recipe.batch,
        "optimizer": repr(recipe.optimizer),
        "augment": repr(recipe.augment),
        "precision": model.precision,
        "threads": options.threads or default_threads(backend_named(backend)),
    }
    path = options.out / backend / f"{name}.json"
    result = _kept(path, settings)
    runs = options.runs or user_cache() / "seeds"
    run = runs / f"{name}-{_digest(json.dumps(settings))[:12]}"
    for seed in options.seeds:
        done = result["seeds"].get(str(seed), {"epochs": []})["epochs"]
        if len(done) >= recipe.epochs:
            print(f"{name}, seed {seed}: {len(done)} epochs are there")
            continue
        print(f"{name}, seed {seed}:", flush=True)
        directory = run / f"seed-{seed}"
        resumed = any((directory / CHECKPOINTS).glob("step-*.json"))
        began = perf_counter()
        history = fit(
            model,
            splits.train,
            splits.test,
            recipe.epochs,
            backend=backend,
            device=options.device,
            seed=seed,
            threads=settings["threads"],
            directory=directory,
            resume=resumed,
        )
        seconds = None if resumed else perf_counter() - began
        result = _kept(path, settings) | _facts(history)  # others may have written
        result["seeds"][str(seed)] = _seed(history, seconds) | _with(options)
        write(path, result)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _kept(path: Path, settings: Record) -> Record:
    """What the file holds, if that was trained in the same way; else it ends here."""
    if not path.exists():
        return {**settings, "seeds": {}}
    result: Record = json.loads(path.read_text("utf-8"))
    differing = [
        f"{key} was {result.get(key)!r} and is now {value!r}"
        for key, value in settings.items()
        if result.get(key) != value
    ]
    if differing:
        raise SystemExit(
            f"{path}: holds seeds that were trained otherwise: {'; '.join(differing)}. "
            "Name another folder with --out, or remove the file"
        )
    return result


def _facts(history: History) -> Record:
    """What is so with any seed."""
    program = history.program
    return {
        "parameters": sum(
            p.value.type.elements(1) for p in program.graph.parameters if p.trainable
        ),
        "arena_bytes": program.memory.arena_bytes,
        "kernels_per_step": len(program.kernels),
    }


def _seed(history: History, seconds: float | None) -> Record:
    """A run; its seconds go from the compiler to the last test, if not resumed."""
    return {
        "seconds_in_all": seconds and round(seconds, 2),
        "epochs": [epoch.as_json() for epoch in history.epochs],
        "weights_sha256": history.digest,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _with(options: argparse.Namespace) -> Record:
    """What a run was computed on and with."""
    if options.backend == "numpy":
        return conditions("convc", "numpy")
    from gpu_timing import gpu_of

    device = gpu_of(options.device or "cuda")
    return {"device": device, **conditions("convc", "numpy", "torch", "triton")}


def table(folder: Path = RESULTS) -> str:
    """The results of a folder as a Markdown table; ± is to the farthest seed."""
    found: dict[str, dict[str, Record]] = {}
    for backend in BACKENDS:
        for path in sorted((folder / backend).glob("*.json")):
            result = json.loads(path.read_text("utf-8"))
            found.setdefault(path.stem, {})[backend] = result
    names = [name for name in dict.fromkeys((*NOTES, *found)) if name in found]
    rows = [
        HEADINGS,
        ("---",) * 5 + ("--:",) * 4,
        *(_row(name, found[name]) for name in names),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(name: str, results: dict[str, Record]) -> tuple[str, ...]:
    note = NOTES.get(name, OTHER)
    theirs = [f"{n}: {100 * share:.2f}" for n, share in note.accuracy.items()]
    if note.at_the_end is not None:
        theirs.append(f"at the end: {100 * note.at_the_end:.2f}")
    ours = [results.get(backend) for backend in BACKENDS]
    seconds = [f"{_seconds(result):.3g}" if result else "–" for result in ours]
    its = f"{note.seconds:g}" if note.seconds else "–"
    return (
        f"`{name}`",
        note.title or "–",
        "<br>".join(theirs) or "–",
        *("<br>".join(_accuracies(result)) or "–" for result in ours),
        " / ".join([*seconds, its]),
        _facts_of(ours, lambda result: f"{result['parameters']:,}"),
        _facts_of(ours, lambda result: f"{result['arena_bytes'] / 2**20:.1f} MiB"),
        _facts_of(ours, lambda result: str(result["kernels_per_step"])),
    )


def _seconds(result: Record) -> float:
    """Of an epoch, the median over all epochs of all seeds."""
    records = result["seeds"].values()
    seconds = [float(e["seconds"]) for record in records for e in record["epochs"]]
    return median(seconds)


def _facts_of(results: list[Record | None], fact: Callable[[Record], str]) -> str:
    """What is so with each backend; once, if it is the same with all."""
    return " / ".join(dict.fromkeys(fact(result) for result in results if result))


def _accuracies(result: Record | None) -> list[str]:
    """Mean and spread of the test accuracy; some epochs only a few seeds have."""
    seeds = [r["epochs"] for r in result["seeds"].values()] if result else []
    lines = []
    for number in sorted({*EPOCHS, *map(len, seeds)}):
        shares = [
            100 * e[number - 1]["test_accuracy"] for e in seeds if len(e) >= number
        ]
        if not shares:
            continue
        middle = mean(shares)
        far = max(abs(share - middle) for share in shares)
        spread = f" ± {far:.2f}" if len(shares) > 1 else ""
        few = f" ({len(shares)} of {len(seeds)} seeds)" * (len(shares) < len(seeds))
        lines.append(f"{number}: {middle:.2f}{spread}{few}")
    return lines


def insert(path: Path, text: str) -> None:
    """Put the table between the markers of a Markdown file."""
    page = path.read_text("utf-8")
    if not all(marker in page for marker in MARKERS):
        raise SystemExit(
            f"{path}: has no lines {' and '.join(map(str.strip, MARKERS))}"
        )
    before, _, rest = page.partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    new = f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{after}"
    write_atomically(path, new.encode("utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
