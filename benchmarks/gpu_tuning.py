"""The tuner on a network's kernels, as long as there is time."""

import time
from pathlib import Path

from gpu_networks import model_named, step_of
from gpu_timing import Row, backend_for

from convc.lockfile import read_lockfile, update_lockfile
from convc.tuning import Outcome, recalled, tasks_of, tune


def tune_network(
    device: str,
    name: str,
    kind: str,
    batch: int,
    precision: str,
    top: int,
    rounds: int,
    seconds: float,
    lockfile: str,
    thin: int = 1,
) -> Row:
    """Tune kernel by kernel for ``seconds``; each is kept as soon as it is measured."""
    end, backend = time.monotonic() + seconds, backend_for(device)
    step = step_of(model_named(name, thin), kind, precision)
    tasks, _ = tasks_of(step, backend, batch, 1)
    known = read_lockfile(lockfile) if Path(lockfile).exists() else {}
    kernels: list[Row] = []
    left = []
    for task in tasks:
        if time.monotonic() >= end:
            left.append(task.name)
            continue
        outcome = recalled(task, known.get(task.key), top, rounds)
        outcome = outcome or tune(task, top, rounds)
        if outcome.entry is not None:
            update_lockfile(lockfile, [outcome.entry])
        kernels.append(row_of(outcome))
    return {"network": name, "step": kind, "kernels": kernels, "not_tuned": left}


def row_of(outcome: Outcome) -> Row:
    """What came of each schedule of a kernel, the cost model's choice first."""
    return {
        "kernel": outcome.task.name,
        "ratio": outcome.ratio,
        "trials": [
            {
                "schedule": dict(t.candidate.schedule),
                "predicted_us": round(1e6 * t.candidate.cost.seconds, 3),
                "measured_us": t.seconds and round(1e6 * t.seconds, 3),
                "fault": t.fault,
            }
            for t in outcome.trials
        ],
    }
