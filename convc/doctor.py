"""What each backend finds on this machine, and how to get what is missing.

Nothing is believed that can be tried: a program is compiled and run with NumPy, a
kernel is run by Triton's interpreter and compiled for each of its two vendors.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convc.backends.gpu import cache
from convc.backends.gpu.compiling import compile_source
from convc.backends.gpu.targets import TARGETS
from convc.backends.gpu.workers import Workers
from convc.ir.errors import ConvcError

EXTRA = "pip install 'convc[triton]'"
_OLDEST = (3, 6)
_NVIDIA = "nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version"

PROBE = """
import torch
import triton
import triton.language as tl


@triton.jit
def double(images, v_x, v_y):
    i = tl.arange(0, 32)
    tl.store(v_y + i, tl.load(v_x + i) * tl.load(images))


LAUNCHES = [(double, 1, ("!images", "x", "y"), 1, 1)]
PLACES = {
    "!images": ("int32", 0, 1),
    "x": ("float32", 16, 32),
    "y": ("float32", 144, 32),
}

if __name__ == "__main__":
    two, x = torch.full((1,), 2, dtype=torch.int32), torch.arange(32.0)
    double[(1,)](two, x, y := torch.empty(32))
    assert torch.equal(y, 2 * x)
"""
"""A small emitted file: it is compiled, or run to be interpreted."""


@dataclass(frozen=True)
class Finding:
    """One thing that a backend needs or can use.

    ``says`` is for people, ``facts`` are the same as plain values; ``remedy`` is how to
    get what is missing, and empty where nothing is.
    """

    name: str
    says: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Whether nothing is missing."""
        return not self.remedy


@dataclass(frozen=True)
class Report:
    """The findings of each backend by its name, and those that concern all."""

    findings: dict[str, list[Finding]]

    @property
    def works(self) -> bool:
        """Whether the backend that needs nothing but NumPy works."""
        return all(finding.fine for finding in self.findings["numpy"])


def examine() -> Report:
    """Look at everything; takes some seconds, most of them for torch and Triton."""
    return Report(
        {
            "machine": [_python(), _cache()],
            "numpy": [_numpy(), _blas(), _tried("program", _run_a_program)],
            "triton": _triton_backend(),
        }
    )


def _python() -> Finding:
    where = f"{platform.system()} {platform.machine()}"
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1)
    )
    return Finding(
        "Python",
        f"{platform.python_version()}, {where}, {_count(cores, 'core')}",
        facts={
            "version": platform.python_version(),
            "executable": sys.executable,
            "system": where,
            "cores": cores,
        },
    )


def _cache() -> Finding:
    """The folder of machine code: what is in it, and whether it can be trusted."""
    folder = cache.cache_folder()
    if not folder.is_dir():
        facts = {"folder": str(folder), "entries": 0}
        return Finding("cache", f"no machine code yet in {folder}", facts=facts)
    entries = [p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."]
    nbytes = sum(f.stat().st_size for p in entries for f in p.iterdir())
    damaged = sum(not cache.is_sound(entry) for entry in entries)
    wrong = cache.objection(folder)
    says = f"{_count(len(entries), 'compiled file')}, {nbytes:,} bytes in {folder}"
    if damaged:
        says += f"; {damaged} damaged, to be compiled anew when needed"
    if wrong:
        says += f"; it {wrong}"
    return Finding(
        "cache",
        says,
        f"chmod 700 {folder}, or set CONVC_CACHE_DIR" if wrong else "",
        {
            "folder": str(folder),
            "entries": len(entries),
            "bytes": nbytes,
            "damaged": damaged,
        },
    )


def _numpy() -> Finding:
    return Finding("NumPy", np.__version__, facts={"version": np.__version__})


def _blas() -> Finding:
    from threadpoolctl import threadpool_info

    found = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    says = [
        f"{pool['internal_api']} {pool['version']}, "
        f"{_count(pool['num_threads'], 'thread')}"
        for pool in found
    ]
    return Finding(
        "BLAS",
        "; ".join(says) or "none that can be told its threads; --threads 1 is safe",
        facts={"libraries": found},
    )


def _run_a_program() -> str:
    from convc.layers import dense, flatten
    from convc.model import Model

    model = Model(lambda image: dense(flatten(image), 3), image="f32[N,2,2,1]")
    program = model.inference().compile(batch=2, threads=1)
    found = program(image=np.ones((2, 2, 2, 1), np.float32))["output"]
    if found.shape != (2, 3) or not np.isfinite(found).all():
        raise ConvcError(f"gives {found.tolist()}")
    return "compiles and runs (tried)"


def _triton_backend() -> list[Finding]:
    torch, triton = _torch(), _triton()
    findings = [torch, triton]
    if triton.fine:
        findings.append(_tried("compiler", _compile_a_kernel))
    if triton.fine and torch.fine:
        findings.append(_tried("interpreter", _interpret_a_kernel))
    gpus = _gpus(torch)
    findings.append(gpus)
    if gpus.fine:
        findings.append(_c_compiler())
    return findings


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken torch may fail in any way
        return _missing("torch", error)
    cuda, hip = torch.version.cuda, torch.version.hip
    built = f"for CUDA {cuda}" if cuda else f"for ROCm {hip}" if hip else "for CPUs"
    return Finding(
        "torch",
        f"{torch.__version__}, built {built}",
        facts={"version": str(torch.__version__), "cuda": cuda, "rocm": hip},
    )


def _triton() -> Finding:
    try:
        import triton
    except Exception as error:  # noqa: BLE001 - a broken Triton may fail in any way
        return _missing("triton", error)
    version = str(triton.__version__)
    parts = version.split(".")
    old = tuple(int(p) for p in parts[:2] if p.isdigit()) < _OLDEST
    return Finding(
        "triton",
        f"{version}, too old" if old else version,
        "pip install --upgrade 'triton>=3.6'" if old else "",
        {"version": version},
    )


def _missing(name: str, error: Exception) -> Finding:
    if isinstance(error, ImportError) and error.name in (None, name):
        return Finding(name, "not installed", EXTRA, {"version": None})
    return Finding(name, f"cannot be imported: {error}", EXTRA, {"version": None})


def _compile_a_kernel() -> str:
    """For one target of each vendor: a process, a compiler and an assembler each."""
    workers, tried = Workers(1, seconds=60), ("sm_90", "gfx942")
    try:
        with tempfile.TemporaryDirectory() as folder:
            for target in tried:
                path = Path(folder) / "cache"
                compile_source(PROBE, target, workers=workers, folder=path)
    finally:
        workers.close()
    return f"compiles without a GPU (tried for {' and '.join(tried)})"


def _interpret_a_kernel() -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe.py"
        file.write_text(PROBE, "utf-8")
        environment = {
            **os.environ,
            "TRITON_INTERPRET": "1",
            "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-P", file],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConvcError(said[-1])
    return "runs kernels without a GPU (tried)"


def _tried(name: str, attempt: Callable[[], str]) -> Finding:
    """What came of an attempt."""
    try:
        return Finding(name, attempt(), facts={"works": True})
    except Exception as error:  # noqa: BLE001 - what is examined may fail in any way
        says = f"fails: {str(error) or type(error).__name__}"
        remedy = "pip install --force-reinstall what it names; else please report it"
        return Finding(name, says, remedy, {"works": False})


def _gpus(torch: Finding) -> Finding:
    """The GPUs that torch can use, or why it can use none."""
    found = _gpus_of_torch() if torch.fine else []
    if found:
        says = "; ".join(
            f"{gpu['name']}, {gpu['target']}, {gpu['bytes'] / 2**30:.0f} GiB, "
            f"driver {gpu['driver']}"
            for gpu in found
        )
        return Finding("GPU", says, facts={"gpus": found})
    seen = _seen_by_driver()
    if seen:
        return Finding(
            "GPU",
            f"{'; '.join(seen)}: torch cannot use it",
            "install a torch that is built for it (torch says for what it is built)",
            {"gpus": [], "seen": seen},
        )
    return Finding(
        "GPU",
        "none",
        "a driver, if there is a GPU; without one: --interpret, or a named target",
        {"gpus": []},
    )


def _gpus_of_torch() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    drivers = [line.rpartition(", ")[2] for line in _seen_by_driver()]
    found = []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        amd = getattr(properties, "gcnArchName", "").split(":")[0]
        name = amd or f"sm_{properties.major}{properties.minor}"
        found.append(
            {
                "name": properties.name,
                "target": name,
                "known": name in TARGETS,
                "bytes": properties.total_memory,
                "driver": drivers[i] if i < len(drivers) else "unknown",
            }
        )
    return found


def _seen_by_driver() -> list[str]:
    """What NVIDIA's driver says of each GPU."""
    program, *options = _NVIDIA.split()
    path = shutil.which(program)
    if path is None:
        return []
    try:
        done = subprocess.run(
            [path, *options, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if not done.returncode else []


def _c_compiler() -> Finding:
    """Triton builds the function that launches a kernel with the C compiler."""
    path = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    remedy = "apt install gcc python3-dev, or what your system calls them"
    if path is None:
        return Finding("C compiler", "none; Triton launches with one", remedy)
    if not header.exists():
        return Finding("C compiler", f"{path}, but there is no {header}", remedy)
    return Finding("C compiler", path, facts={"path": path})


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
