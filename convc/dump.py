"""What a compilation made, as files; with ``CONVC_DUMP=DIR`` every compilation's.

::

    DIR/01-two_conv-training/       one folder a program, numbered as they come
        00-trace.ir … NN-plan-memory.ir   the IR after each pass
        NN-schedule.txt                   how each kernel is run
        NN-memory.txt                     the arena, buffer by buffer
        NN-program.py                     the emitted source
        certificates.jsonl                a line for each pass, if check mode was on
        error.txt                         why the compilation failed, if it did

When a pass fails, the stages before it are there, and as ``NN-PASS.failed.ir`` the
graph that it left, if it left one. A folder appears whole, under a name that was free.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.printer import attr_text, print_graph
from convc.memory import MemoryPlan
from convc.passes.manager import Stage, Trail

VARIABLE = "CONVC_DUMP"


@dataclass
class Record:
    """What is known so far of a compilation: its stages, and its source in the end."""

    trail: Trail = field(default_factory=Trail)
    source: str = ""


@contextmanager
def dumped(label: str) -> Iterator[Record]:
    """A record that becomes files when the block ends, with or without an error.

    It does where CONVC_DUMP names a folder. CompileError if that cannot be written; an
    error of the block itself goes first and gets a note.
    """
    record, folder = Record(), os.environ.get(VARIABLE)
    try:
        yield record
    except BaseException as error:
        if folder:
            try:
                _write(
                    Path(folder), label, {**_files(record), "error.txt": f"{error}\n"}
                )
            except CompileError as problem:
                error.add_note(str(problem))
        raise
    if folder:
        _write(Path(folder), label, _files(record))


def _files(record: Record) -> dict[str, str]:
    stages, rejected = record.trail.stages, record.trail.rejected
    files = stage_files(stages)
    if rejected is not None:
        name, graph = rejected
        files[f"{len(stages):02d}-{name}.failed.ir"] = print_graph(graph)
    last = stages[-1].graph if stages else None
    more = {}
    if last is not None and any(n.schedule is not None for n in last.nodes):
        more["schedule.txt"] = schedule_table(last)
    if last is not None and last.arena is not None:
        more["memory.txt"] = memory_table(last)
    if record.source:
        more["program.py"] = record.source
    for number, (name, text) in enumerate(more.items(), start=len(files)):
        files[f"{number:02d}-{name}"] = text
    checked = [stage.certificate.record() for stage in stages if stage.checked]
    if checked:
        lines = (json.dumps(line) + "\n" for line in checked)
        files["certificates.jsonl"] = "".join(lines)
    return files


def stage_files(stages: Sequence[Stage]) -> dict[str, str]:
    """The IR after each pass, as ``NN-PASS.ir``."""
    return {f"{n:02d}-{stage.name}.ir": stage.text for n, stage in enumerate(stages)}


def schedule_table(graph: Graph) -> str:
    """A line for each kernel: its name, its schedule, the lines it comes from."""
    rows = [
        (
            str(node.attrs["name"]),
            ", ".join(f"{k}={attr_text(v)}" for k, v in (node.schedule or {}).items()),
            "; ".join(map(str, node.locs)),
        )
        for node in graph.nodes
        if node.region is not None
    ]
    widths = [max((len(row[at]) for row in rows), default=0) for at in (0, 1)]
    lines = (f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows)
    return "".join(f"{line}\n" for line in lines)


def memory_table(graph: Graph) -> str:
    """The memory plan: a line for each buffer, by its offset."""
    head = f"{'offset':>12} {'bytes':>12}  launches  buffer"
    plan = MemoryPlan.of(graph)
    lines = [str(plan), plan.peak, "", head]
    buffers = graph.arena.buffers if graph.arena else ()
    for buffer in sorted(buffers, key=lambda b: (b.offset, b.first)):
        alive = f"{buffer.first}-{buffer.last}"
        lines.append(
            f"{buffer.offset:12d} {buffer.size:12d}  {alive:>8}  {buffer.name}"
        )
    return "\n".join(lines) + "\n"


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Fill a new folder; OSError as the disk raises it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def _write(root: Path, label: str, files: Mapping[str, str]) -> None:
    """A new folder in ``root`` with these files, under the next number."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", label)[:80]
    part = root / f".{secrets.token_hex(4)}.part"
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_files(part, files)
        while not _publish(part, root / f"{_next(root):02d}-{name}"):
            pass
    except OSError as error:
        raise CompileError(f"{VARIABLE}: {root} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _next(root: Path) -> int:
    numbers = (re.match(r"\d+(?=-)", path.name) for path in root.iterdir())
    return 1 + max((int(number.group()) for number in numbers if number), default=0)


def _publish(part: Path, folder: Path) -> bool:
    """Give the folder its name; False if another process has just taken it."""
    try:
        part.rename(folder)
    except OSError:
        if folder.exists():
            return False
        raise
    return True
