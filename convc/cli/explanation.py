"""The explanation of a layer as text, in colour where there is any."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from convc.cli.colour import columns
from convc.plan_table import amount, digits, duration
from convc.summary import title

if TYPE_CHECKING:
    from rich.text import Text

    from convc.explain import Alternative, Explanation, KernelFacts, Touch

MOST_ALTERNATIVES = 6
"""Schedules that are shown of a kernel besides its own; the others are counted."""

_ORIGINS = {
    "cost model": "chosen by the cost model",
    "lockfile": "measured the fastest, from the lockfile",
    "compiled": "best by its compiled code, from the lockfile",
    "given": "given by hand",
}


class _Page:
    """Text with headings and labelled entries, wrapped."""

    def __init__(self) -> None:
        from rich.text import Text

        self.text = Text()
        self.columns = columns()

    def heading(self, text: str) -> None:
        if self.text:
            self.text.append("\n")
        self.text.append(f"{text}\n", "bold")

    def line(self, text: str, style: str = "") -> None:
        self.text.append(f"{text}\n", style)

    def entry(self, label: str, texts: Iterable[str], width: int) -> None:
        """A label and what belongs to it, on as many lines as that takes."""
        for text in texts:
            head = f"  {label:<{width}}  "
            room = max(self.columns - len(head), 20)
            for part in textwrap.wrap(text, room, break_on_hyphens=False) or [""]:
                self.text.append(head, "cyan")
                self.text.append(f"{part}\n")
                head = " " * len(head)
            label = ""


def explanation_text(e: Explanation) -> Text:
    """The page: the line, the ops, the passes, then each kernel with its code."""
    page = _Page()
    page.heading(f"{title(e.layer, e.kind)} {e.output}".rstrip())
    for line in e.lines:
        page.line(f"  {line.file}:{line.line}  {line.text}".rstrip())
    for name, texts in (("ops as traced", e.ops), ("parameters", e.parameters)):
        if texts:
            page.heading(name)
        for text in texts:
            page.line(textwrap.indent(text, "  "))
    if e.passes:
        page.heading("passes")
    width = max((len(touch.stage) for touch in e.passes), default=0)
    for touch in e.passes:
        page.entry(touch.stage, _said(touch), width)
    if not e.kernels:
        page.heading("no kernel runs any of it")
    for kernel in e.kernels:
        _kernel(page, e.layer, kernel)
    return page.text


def _said(touch: Touch) -> list[str]:
    refused = [f"refused: {subject}: {reason}" for subject, reason in touch.refused]
    return [*touch.did, *refused]


def _kernel(page: _Page, layer: str, kernel: KernelFacts) -> None:
    page.heading(f"kernel {kernel.row.name}")
    entries = {
        "ops": [_ops(layer, kernel)],
        "schedule": [kernel.schedule, *_reasons(kernel)],
        "work": [_work(kernel)],
        "time": [_time(kernel)],
        "memory": [_memory(kernel)],
        "code": [f"{kernel.code.function}, from line {kernel.code.first}"],
    }
    for label, texts in entries.items():
        page.entry(label, texts, 8)
        if label == "schedule":
            _alternatives(page, kernel.alternatives)
    for number, line in enumerate(kernel.code.lines, kernel.code.first):
        page.line(f"  {number:5}  {line}".rstrip())


def _ops(layer: str, kernel: KernelFacts) -> str:
    parts = []
    for name, ops in kernel.ops:
        counts = Counter(ops).items()
        said = ", ".join(op if n == 1 else f"{op} x{n}" for op, n in counts)
        parts.append(said if name == layer else f"{said} of {name or 'the step'}")
    return "; ".join(parts)


def _reasons(kernel: KernelFacts) -> list[str]:
    origin = _ORIGINS.get(kernel.origin, kernel.origin)
    others = len(kernel.alternatives) - 1
    return [f"{origin}, of {others + 1}" if others else f"{origin}, the only one"]


def _alternatives(page: _Page, found: Sequence[Alternative]) -> None:
    """The best schedules that were rejected, beside the one that was chosen."""
    if len(found) < 2:
        return
    rejected = [a for a in found if not a.chosen][:MOST_ALTERNATIVES]
    shown = [a for a in found if a.chosen or a in rejected]
    columns = [("predicted", [duration(a.predicted) for a in shown])]
    if any(a.measured is not None for a in shown):
        columns.append(("measured", [duration(a.measured) for a in shown]))
    indent = " " * 12
    page.line(indent + "  ".join(f"{name:>9}" for name, _ in columns), "dim")
    for i, a in enumerate(shown):
        times = "  ".join(f"{texts[i]:>9}" for _, texts in columns)
        mark, style = ("  <- chosen", "green") if a.chosen else ("", "")
        page.line(f"{indent}{times}  {a.schedule}{mark}", style)
    if left := len(found) - len(shown):
        page.line(f"{indent}and {left} more (--json has all)", "dim")


def _work(kernel: KernelFacts) -> str:
    work, cost = kernel.row.work, kernel.cost
    flops, moved = amount(work.flops, "FLOP"), amount(work.nbytes, "B")
    said = f"{flops} by definition, {moved} in and out, {digits(work.intensity)} FLOP/B"
    if cost is None:
        return said
    flops, local = amount(cost.flops, "FLOP"), amount(cost.local, "B")
    calls = "1 call" if cost.calls == 1 else f"{amount(cost.calls)} calls"
    return (
        f"{said}; predicted for this algorithm: {flops}, {local} more through the "
        f"caches, {calls} of each worker"
    )


def _time(kernel: KernelFacts) -> str:
    work = kernel.row.work
    parts = [f"predicted {duration(work.predicted) or 'by nobody'}"]
    if work.measured is not None:
        ratio = f" (ratio {digits(work.ratio)})" if work.ratio is not None else ""
        parts.append(f"measured {duration(work.measured)}{ratio}")
    if work.roof is not None:
        parts.append(f"{work.roof:.0%} of the roofline")
    if kernel.share is not None:
        of = "predicted " if work.measured is None else ""
        parts.append(f"{kernel.share:.1%} of the step's {of}time")
    return ", ".join(parts)


def _memory(kernel: KernelFacts) -> str:
    memory = kernel.memory
    values, scratch = amount(memory.values, "B"), amount(memory.scratch, "B")
    share = f"{memory.share:.1%} of the arena"
    return f"{values} of values and {scratch} of scratch, {share}"
