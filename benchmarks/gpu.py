"""Tests, tunes and times the Triton backend on a GPU, against PyTorch and cuDNN.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json

It runs from a bare checkout, whether or not convc is installed. What a machine without
a network lacks is said at once, with the command that fetches it as wheels elsewhere
and ``--wheels``, which unpacks them. Sections come in the order of their importance,
each with its share of ``--minutes``; what there was no time for is listed by name. The
file is written whole after every job, so that a run that is cut off keeps all it has.

``--smoke`` does the same with small shapes in Triton's interpreter: no GPU is needed.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpu_packages import ROOT, prepare

SECTIONS = {
    "peaks": 0.05,
    "step": 0.22,
    "layers": 0.26,
    "tests": 0.14,
    "tune": 0.10,
    "tuned step": 0.08,
    "networks": 0.12,
    "schedules": 0.03,
}
"""What is done, most important first, and its share of the time."""
LEAST_SECONDS = 3.0
"""A job is not begun when less is left of its section."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Check what is there, then work through the sections."""
    options = _options().parse_args(arguments)
    prepare(options.wheels)
    if options.smoke:
        options.device = "interpret"
        os.environ["TRITON_INTERPRET"] = "1"
    from gpu_run import Run, refused

    complaint = refused(options.device)
    if complaint:
        raise SystemExit(f"error: {complaint}")
    only = options.only.split(",") if options.only else [*SECTIONS]
    unknown = [name for name in only if name not in SECTIONS]
    if unknown:
        known = ", ".join(SECTIONS)
        raise SystemExit(f"error: no section {unknown[0]!r}; there are {known}")
    run = Run(options.device, options.out, options.smoke)
    try:
        run.begin(only)
        for name, deadline in deadlines(only, 60 * options.minutes):
            run.section(name, deadline, LEAST_SECONDS)
    except KeyboardInterrupt:
        run.skip_rest("interrupted")
    finally:
        run.finish()


def deadlines(names: Sequence[str], seconds: float) -> Iterator[tuple[str, float]]:
    """Each section with the time at which it must end.

    What a section leaves over is shared by those that follow.
    """
    end = time.monotonic() + seconds
    for at, name in enumerate(names):
        rest = sum(SECTIONS[n] for n in names[at:])
        now = time.monotonic()
        yield name, now + max(0.0, end - now) * SECTIONS[name] / rest


def _options() -> argparse.ArgumentParser:
    """Standard library only: click may be what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = ROOT / "build" / "gpu.json"
    parser.add_argument("--out", type=Path, default=out, help="where the JSON goes")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of it")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, …")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to unpack")
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--smoke", action="store_true", help="small, without a GPU")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
