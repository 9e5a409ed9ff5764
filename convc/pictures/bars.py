"""The results of ``convc bench`` as a picture: bars of time, and the roofline.

Drawn with matplotlib, which is an extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convc.ir.errors import RunError

OURS, RIVAL = "#2563eb", "#94a3b8"
"""The colors of what is ours, and of the rest."""
_INK = "#334155"
_THOUSAND = 1000
_WIDE, _HIGH = 3.4, 0.34
"""Inches of a group of bars, and of a bar."""


@dataclass(frozen=True)
class Bars:
    """A task: its title, seconds and work; ``base`` is whose time is 1.0."""

    title: str
    seconds: Mapping[str, float]
    base: str
    flops: int
    nbytes: int


@dataclass(frozen=True)
class Roof:
    """The peaks in operations and bytes a second."""

    gemm: float
    memory: float


def draw(tasks: Sequence[Bars], roof: Roof, ours: Sequence[str], path: Path) -> None:
    """Write a picture in the format that the file's suffix says, SVG or PNG.

    RunError if matplotlib is not installed, or knows no such format.
    """
    figures = _matplotlib()
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    most = max(len(task.seconds) for task in tasks)
    size = _WIDE * columns + 0.6, (_HIGH * most + 0.8) * rows + 3.2
    figure = figures.Figure(figsize=size, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[size[1] - 3.2, 3.2])
    axes = above.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    for axis, task in zip(axes.flat, tasks, strict=False):
        _bars(axis, task, ours)
    _roofline(below.subplots(), tasks, roof, ours)
    try:
        figure.savefig(path, dpi=110, metadata=_dateless(path))
    except ValueError as error:
        raise RunError(f"{path}: {error}; name it .svg or .png") from None


def _dateless(path: Path) -> dict[str, Any]:
    """Nothing that changes from run to run: the same result, the same file."""
    return {"Date": None} if path.suffix == ".svg" else {}


def _matplotlib() -> Any:
    try:
        import matplotlib as mpl
        from matplotlib import figure
    except ImportError:
        raise RunError(
            "pictures of a bench are drawn with matplotlib; pip install 'convc[plot]'"
        ) from None
    mpl.rcParams["svg.hashsalt"] = "convc"
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    mpl.rcParams["font.size"] = 8
    return figure


def _bars(axis: Any, task: Bars, ours: Sequence[str]) -> None:
    """A bar for each contestant, the fastest on top, with its ratio to the base."""
    names = sorted(task.seconds, key=lambda name: task.seconds[name], reverse=True)
    times = [1e3 * task.seconds[name] for name in names]
    colors = [OURS if name in ours else RIVAL for name in names]
    axis.barh(names, times, color=colors, height=0.7)
    base = task.seconds.get(task.base)
    for at, name in enumerate(names):
        ratio = f"  ({task.seconds[name] / base:.2f})" if base else ""
        text = f" {_number(1e3 * task.seconds[name])}{ratio}"
        axis.text(times[at], at, text, va="center", color=_INK, fontsize=7)
    axis.set_xlim(0, 1.45 * max(times))
    axis.set_title(task.title, fontsize=8, color=_INK)
    axis.set_xlabel(f"ms (share of {task.base}'s)" if base else "ms")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _number(number: float) -> str:
    """Three digits, or more before the point."""
    return f"{number:,.0f}" if number >= _THOUSAND else f"{number:.3g}"


def _roofline(
    axis: Any, tasks: Sequence[Bars], roof: Roof, ours: Sequence[str]
) -> None:
    """FLOPs a second over FLOPs per byte, below what the machine can do at most.

    Work is counted by definition, so that an algorithm of less arithmetic may lie
    above the roof.
    """
    marks = "osD^v<>ph*XPd8H"
    densities = [task.flops / task.nbytes for task in tasks]
    left, right = 0.5 * min(densities), 2.0 * max(densities)
    knee = roof.gemm / roof.memory
    line = [left, *([knee] if left < knee < right else []), right]
    peak = [min(roof.gemm, roof.memory * x) / 1e9 for x in line]
    axis.plot(line, peak, color=_INK, linewidth=1.2)
    for at, task in enumerate(tasks):
        first = next((name for name in task.seconds if name in ours), "")
        for name, seconds in task.seconds.items():
            color = OURS if name in ours else RIVAL
            axis.plot(
                *(densities[at], task.flops / seconds / 1e9, marks[at % len(marks)]),
                color=color,
                markersize=6 if name in ours else 4,
                zorder=3 if name in ours else 2,
                label=task.title if name == first else None,
            )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("FLOPs per byte of operands and results")
    axis.set_ylabel("GFLOP/s, by definition")
    axis.legend(fontsize=6.5, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
