"""Works through the sections of the benchmark on a GPU, and keeps what it finds."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_layers import DIRECTIONS, SMALL, goal_of, label, resnet50
from gpu_networks import GRAPH
from gpu_report import goals_of, tables
from gpu_rivals import COMPILED, RIVALS
from gpu_tests import run_tests
from gpu_timing import backend_for, gpu_of
from gpu_workers import Ahead, Job, Worker
from keeping import write
from rich.console import Console
from seed_networks import SEED_NETWORKS

from convc.conditions import conditions
from convc.engines.device import ready
from convc.ir.errors import CompileError
from convc.networks import NETWORKS

Row = dict[str, Any]

BATCH, LAYER_BATCH = 128, 64
OTHER_BATCHES = (1, 32, 512)
PRECISIONS = ("tf32", "bf16", "fp32")
WIDTH = 132
"""Columns of what is printed: the tables need them."""
EAGER, COMPILED_RIVAL = "torch eager", "torch.compile max-autotune"


def refused(device: str) -> str:
    """Why the device cannot be used, or nothing."""
    try:
        ready(device)
    except CompileError as error:
        return f"{error}; or try all of this without a GPU: --smoke"
    return ""


class Run:
    """One run of the benchmark; ``result`` is what the file says."""

    def __init__(self, device: str, out: Path, smoke: bool) -> None:
        self._device, self._out, self._smoke = device, out, smoke
        self._worker = Worker(device)
        self._console = Console(highlight=False, width=WIDTH)
        self._ahead = Ahead()
        self._lockfile = out.with_suffix(".lock")
        out.parent.mkdir(parents=True, exist_ok=True)
        self._lockfile.unlink(missing_ok=True)  # what is tuned is tuned here
        self.result: Row = {
            "what": "the Triton backend on a GPU"
            if not smoke
            else "a dry run in Triton's interpreter: no time in it means anything",
            "device": gpu_of(device),
            **conditions("numpy", "torch", "triton"),
            "sections": {},
            "skipped": [],
        }

    @property
    def _sections(self) -> Row:
        sections: Row = self.result["sections"]
        return sections

    def section(self, name: str, deadline: float, least: float) -> None:
        """Do the jobs of a section until the deadline; name those that are skipped."""
        self._console.print(f"{name}: {deadline - time.monotonic():.0f} s at most")
        if name == "tests":
            row = self._tests(deadline)
            self._keep(name, name, row)
            return
        for job in self.jobs(name, deadline):
            if deadline - time.monotonic() < least:
                self.result["skipped"].append(f"{name}: {job.name}")
                continue
            self._keep(name, job.name, self._worker.run(job, deadline))
        self._write()

    def begin(self, names: Sequence[str]) -> None:
        """Start the worker, and compile what the sections will need beside it."""
        self._worker.start()
        jobs = [
            job
            for name in names
            if name in ("layers", "networks")
            for job in self.jobs(name, 0.0)
        ]
        backend = "triton:sm_90" if self._smoke else backend_for(self._device)
        self._ahead.begin(jobs[:1] if self._smoke else jobs, backend)

    def finish(self) -> None:
        """End the worker, write the file, show the tables."""
        self._worker.stop()
        self.result["compiled_ahead"] = self._ahead.stop()
        self._write()
        for table in tables(self._sections, self.result["goals"]):
            self._console.print(table)
        skipped = self.result["skipped"]
        if skipped:
            self._console.print(f"skipped {len(skipped)}: {'; '.join(skipped)}")
        if self._smoke:
            self._console.print(self.result["what"])
        self._console.print(f"written: {self._out}")

    def skip_rest(self, why: str) -> None:
        """Note that the run did not come to its end."""
        self.result["skipped"].append(why)

    def _keep(self, section: str, name: str, row: Row) -> None:
        self._sections.setdefault(section, []).append({"job": name, **row})
        self._console.print(f"  {name}: {brief(row)}")
        self._write()

    def _write(self) -> None:
        self.result["goals"] = goals_of(self._sections)
        write(self._out, self.result)

    @property
    def _peaks(self) -> Row:
        return next(iter(self._sections.get("peaks", [])), {})

    def _tests(self, deadline: float) -> Row:
        count = min(12, os.cpu_count() or 1) if not self._smoke else 1
        return run_tests(self._device, count, deadline, 80 if self._smoke else 1)

    # -- what there is to do

    def jobs(self, section: str, deadline: float) -> list[Job]:
        """The jobs of a section, most important first."""
        if section == "peaks":
            return [Job("products and copies", "peaks")]
        if section in ("step", "tuned step"):
            return self._steps()
        if section == "tune":
            return [self._tuning(deadline)]
        if section == "networks":
            return self._networks()
        return self._layers(1 if section == "layers" else 2 if self._smoke else 8)

    def _steps(self) -> list[Job]:
        """The step of the goals, against each rival that takes minutes in a job."""
        plain = tuple(name for name in RIVALS if name not in COMPILED)
        jobs = []
        compiled = COMPILED[:1] if self._smoke else COMPILED
        for rivals in (plain, *((EAGER, name) for name in compiled)):
            job = self._network("two_conv", "training", BATCH, "tf32", rivals)
            jobs.append(replace(job, name=f"{job.name}: {rivals[-1]}"))
        return jobs

    def _network(
        self, name: str, kind: str, batch: int, precision: str, rivals: tuple[str, ...]
    ) -> Job:
        thin = 1
        if self._smoke:
            batch = min(batch, 3)
            name, thin = ("strided_color" if name in NETWORKS else name), 8
        arguments = {
            "name": name,
            "kind": kind,
            "batch": batch,
            "precision": precision,
            "rivals": rivals,
            "peaks": self._peaks,
            "lockfile": str(self._lockfile),
            "thin": thin,
        }
        title = f"{name} {kind}, batch {batch}, {precision}"
        return Job(title, "network", arguments)

    def _tuning(self, deadline: float) -> Job:
        seconds = 0.9 * (deadline - time.monotonic())
        job = self._network("two_conv", "training", BATCH, "tf32", ())
        drop = ("rivals", "peaks")
        kept = {k: v for k, v in job.arguments.items() if k not in drop}
        top, rounds = (2, 1) if self._smoke else (6, 5)
        more = {"top": top, "rounds": rounds, "seconds": seconds}
        return Job(job.name, "tune", {**kept, **more})

    def _networks(self) -> list[Job]:
        """All against eager PyTorch, then against torch.compile, then other batches."""
        names = [*NETWORKS, *SEED_NETWORKS]
        plans = [
            *((BATCH, p, (EAGER,)) for p in PRECISIONS),
            *((BATCH, p, (EAGER, COMPILED_RIVAL)) for p in PRECISIONS),
            *((batch, "tf32", (EAGER,)) for batch in OTHER_BATCHES),
        ]
        if self._smoke:
            names, plans = ["normalized"], [(BATCH, "bf16", (EAGER, COMPILED_RIVAL))]
        return [
            self._network(name, kind, *plan)
            for plan in plans
            for kind in ("training", "inference")
            for name in names
        ]

    def _layers(self, top: int) -> list[Job]:
        """Those that a goal is about first; all the others after them.

        With several schedules to try, those farthest from cuDNN come first.
        """
        every = [
            (shape, direction, precision)
            for precision in ("bf16", "tf32")
            for direction in DIRECTIONS
            for shape in (SMALL if self._smoke else resnet50())
        ]
        rows = self._sections.get("layers", [])
        done = {r["job"]: r.get("cudnn_share", 0.0) for r in rows}
        every.sort(key=lambda x: not goal_of(*x))
        jobs = [self._layer(*found, top) for found in every]
        if top > 1:
            jobs.sort(key=lambda job: done.get(job.name, 0.0))
        return jobs

    def _layer(self, shape: Any, direction: str, precision: str, top: int) -> Job:
        arguments = {
            "shape": shape,
            "direction": direction,
            "batch": 2 if self._smoke else LAYER_BATCH,
            "precision": precision,
            "top": top,
            "peaks": self._peaks,
            "lockfile": str(self._lockfile),
        }
        return Job(f"{label(shape)}, {direction}, {precision}", "layer", arguments)


def brief(row: Row) -> str:
    """A row on one line."""
    if "error" in row:
        return f"failed: {row['error']}"
    if "cudnn_share" in row:
        return f"{row['cudnn_share']:.2f} of cuDNN's speed"
    if "passed" in row:
        counts = ("passed", "failed", "skipped", "not_run")
        return ", ".join(f"{row[c]} {c.replace('_', ' ')}" for c in counts)
    if "kernels" in row:
        return f"{len(row['kernels'])} tuned, {len(row['not_tuned'])} left"
    if "speedup" in row:
        ours = row["contestants"][GRAPH]["median_us"]
        rivals = ", ".join(f"{v:.2f}x {k}" for k, v in row["speedup"].items())
        return f"{ours:.1f} µs, {rivals}"
    if "bandwidth" in row:
        return ", ".join(f"{k} {v:.3g}" for k, v in row.items() if isinstance(v, float))
    return "done"
