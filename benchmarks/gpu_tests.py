"""The tests of emitted kernels, run on the device by several processes.

These are the files that take their programs from ``emitted_programs``, which runs them
where CONVC_TEST_DEVICE says.
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpu_packages import ROOT

Row = dict[str, Any]

MARK = "from emitted_programs import"
COMMAND = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore")
RESULT = re.compile(r"^(tests/\S.*?) (PASSED|FAILED|SKIPPED|ERROR)\b", re.M)


def device_tests() -> list[str]:
    """The files of tests that run on any device."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    found = [f for f in files if MARK in f.read_text("utf-8")]
    return [str(f.relative_to(ROOT)) for f in found]


def run_tests(device: str, processes: int, deadline: float, every: int = 1) -> Row:
    """How many passed, failed and were skipped, and what came of the failed ones.

    Tests that had not come to an end at the deadline count as ``not_run``; ``every``
    takes each so many-th test only.
    """
    environment = {**os.environ, "CONVC_TEST_DEVICE": device}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    if device != "interpret":
        environment.pop("TRITON_INTERPRET", None)
    wanted, complaint = _collected(environment, deadline)
    if complaint:
        return {"error": complaint}
    chosen = wanted[::every]
    shares = [chosen[i::processes] for i in range(min(processes, len(chosen)))]
    with TemporaryDirectory() as folder:
        outputs = _run(shares, environment, Path(folder), deadline)
    results = dict(pair for text in outputs for pair in RESULT.findall(text))
    counted = Counter(results.values())
    return {
        "files": device_tests(),
        "passed": counted["PASSED"],
        "failed": counted["FAILED"] + counted["ERROR"],
        "skipped": counted["SKIPPED"],
        "not_run": len(chosen) - len(results),
        "of": len(wanted),
        "failures": [n for n, v in results.items() if v in ("FAILED", "ERROR")],
        "messages": [line for text in outputs for line in _complaints(text)][:40],
    }


def _collected(environment: dict[str, str], deadline: float) -> tuple[list[str], str]:
    """The tests by their names, or why there are none."""
    command = [*COMMAND, "--collect-only", "-q", *device_tests()]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=False,  # what is wrong is reported
            text=True,
            timeout=max(1.0, deadline - time.monotonic()),
        )
    except subprocess.TimeoutExpired:
        return [], "the tests could not be collected in time"
    names = [line for line in done.stdout.splitlines() if "::" in line]
    return names, "" if names else (done.stdout + done.stderr)[-2000:]


def _run(
    shares: Sequence[Sequence[str]],
    environment: dict[str, str],
    folder: Path,
    deadline: float,
) -> list[str]:
    """What each process printed until it ended or the deadline came."""
    running, logs = [], []
    for number, share in enumerate(shares):
        names = folder / f"{number}.txt"
        names.write_text("\n".join(share), "utf-8")
        logs.append(folder / f"{number}.log")
        with logs[-1].open("w", encoding="utf-8") as log:
            command = [*COMMAND, "-v", "--tb=short", f"@{names}"]
            running.append(
                subprocess.Popen(
                    [*command, f"--basetemp={folder / str(number)}"],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return [log.read_text("utf-8", errors="replace") for log in logs]


def _complaints(text: str) -> list[str]:
    """The lines of a log that say what failed."""
    return [line[:400] for line in text.splitlines() if line.startswith("E   ")]
