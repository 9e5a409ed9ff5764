"""The lockfile: the schedules that were measured to be the fastest, one kernel a line.

::

    # convc lockfile 1
    {"kernel": "a = conv2d(0, 1); … yield b", "types": "f32[N,28,28,1], … -> …",
     "batch": 128, "target": "numpy 2.4 x86_64 threads=2", "rounds": 7,
     "measured": [{"seconds": 0.0012, "schedule": {"algorithm": …}}, …]}

(each entry on one line). What a kernel computes, the types of its operands and
results, the batch and the target are its key; the names of layers and values are not.
``measured`` begins with the fastest. An entry of 0 rounds was judged by compiled code,
its seconds are predictions; any that was measured counts for more.

Lines may stand in any order and the same kernel on several: the better measured one
counts, by a total order, so that files merge by putting their lines together. Writers
take turns at a file lock, read, merge, and rename a whole new file over the old one.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convc.files import part_of, write_atomically
from convc.ir.errors import ConvcError
from convc.ir.graph import Attr, Attrs, Node, Value, substitute
from convc.ir.printer import node_lines

NAME = "convc.lock"
"""The lockfile of a folder."""
VARIABLE = "CONVC_LOCKFILE"
"""The environment's lockfile; where it is set and empty, none is read."""
HEADER = "# convc lockfile 1"

_FIELDS = {
    "kernel": str,
    "types": str,
    "batch": int,
    "target": str,
    "rounds": int,
    "measured": list,
}
_PATIENCE = 60.0  # seconds for other writers, who take milliseconds each


class LockfileError(ConvcError):
    """A lockfile that is missing, damaged, or cannot be written."""


@dataclass(frozen=True, order=True)
class Key:
    """What a measurement is valid for.

    ``kernel`` is the body as text, ``types`` those of operands and results as stored.
    """

    kernel: str
    types: str
    batch: int
    target: str


@dataclass(frozen=True)
class Measured:
    """A schedule and its median time in seconds."""

    schedule: Attrs
    seconds: float

    def __post_init__(self) -> None:
        # What a file keeps is what is compared, before it is written and after.
        object.__setattr__(self, "seconds", float(f"{self.seconds:.4g}"))


@dataclass(frozen=True)
class Entry:
    """What was measured for a kernel: its schedules, fastest first."""

    key: Key
    rounds: int
    measured: tuple[Measured, ...]

    @property
    def fastest(self) -> Measured:
        """The schedule that won."""
        return self.measured[0]

    def seconds(self, schedule: Attrs) -> float | None:
        """The measured time of a schedule, None if it was not measured."""
        return next((m.seconds for m in self.measured if m.schedule == schedule), None)

    @property
    def line(self) -> str:
        """The entry's line in a file."""
        measured = [
            {"seconds": m.seconds, "schedule": dict(sorted(m.schedule.items()))}
            for m in self.measured
        ]
        key = self.key
        fields = (key.kernel, key.types, key.batch, key.target, self.rounds, measured)
        return json.dumps(dict(zip(_FIELDS, fields, strict=True)), ensure_ascii=False)


Tuned = Mapping[Key, Entry]
"""What a lockfile says."""


def key_of(kernel: Node, batch: int, target: str) -> Key:
    """The key of a kernel node whose layouts are chosen."""
    region = kernel.region
    assert region is not None
    table = {v.name: replace(v, name=str(i)) for i, v in enumerate(region.inputs)}
    lines = []
    for node in region.nodes:
        inner = substitute(node, table)
        for value in node.results:
            count = len(table) - len(region.inputs)
            table[value.name] = replace(value, name=f"t{count}")
        results = tuple(table[v.name] for v in node.results)
        attrs = dict(sorted(node.attrs.items()))
        (line,) = node_lines(replace(inner, results=results, attrs=attrs, locs=()))
        lines.append(line.rpartition(" : ")[0].replace("%", ""))
    lines.append("yield " + ", ".join(table[v.name].name for v in region.yields))
    types = f"{_types(kernel.operands)} -> {_types(kernel.results)}"
    return Key("; ".join(lines), types, batch, target)


def _types(values: Iterable[Value]) -> str:
    return ", ".join(str(v.type) for v in values)


def merged(*files: Iterable[Entry]) -> dict[Key, Entry]:
    """All entries, of several for one kernel the better measured one.

    That is the one of more rounds, then of more schedules, then the faster; the order
    of the files does not matter.
    """
    best: dict[Key, Entry] = {}
    for entry in (e for file in files for e in file):
        known = best.get(entry.key)
        if known is None or _rank(entry) > _rank(known):
            best[entry.key] = entry
    return best


def _rank(entry: Entry) -> tuple[int, int, float, str]:
    seconds = -entry.fastest.seconds
    return entry.rounds, len(entry.measured), seconds, entry.line


def read_lockfile(path: str | os.PathLike[str]) -> dict[Key, Entry]:
    """The entries of a file by their keys.

    LockfileError, with the file and the line, for anything that is no entry.
    """
    path = Path(path)
    try:
        lines = path.read_text("utf-8").split("\n")
    except FileNotFoundError:
        raise LockfileError(
            f"there is no lockfile {path}; convc tune --lockfile {path} writes it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LockfileError(f"{path}: cannot be read: {error}") from error
    return merged(_entries(path, lines))


def _entries(path: Path, lines: list[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.rstrip() == HEADER:
            continue
        try:
            yield _entry(line)
        except (ValueError, RecursionError) as error:
            raise LockfileError(f"{path}:{number}: {error}") from None


def _entry(line: str) -> Entry:
    """The entry on a line; ValueError that says what is wrong with it."""
    if line.startswith("#"):
        raise ValueError(f"the header is {line.strip()!r}, this convc knows {HEADER!r}")
    if line.startswith(("<<<<<<<", "|||||||", "=======", ">>>>>>>")):
        raise ValueError("an unsettled merge; keep the entries of both sides")
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"not an entry ({error}); restore or delete the line"
        ) from None
    if not isinstance(fields, dict) or fields.keys() != _FIELDS.keys():
        raise ValueError(
            f"an entry has {', '.join(_FIELDS)}; restore or delete the line"
        )
    for name, kind in _FIELDS.items():
        wrong = type(fields[name]) is not kind or fields[name] == []
        if wrong or (kind is int and fields[name] < (name == "batch")):
            raise ValueError(f"{name} is no {kind.__name__} that an entry may have")
    measured = tuple(_measured(item) for item in fields.pop("measured"))
    rounds = fields.pop("rounds")
    fastest_first = sorted(measured, key=lambda m: (m.seconds, str(m.schedule)))
    return Entry(Key(**fields), rounds, tuple(fastest_first))


def _measured(item: Any) -> Measured:
    match item:
        case {"seconds": float() | int() as seconds, "schedule": dict() as schedule}:
            if 0 < seconds < float("inf"):
                return Measured({k: _attr(v) for k, v in schedule.items()}, seconds)
    raise ValueError(f"measured has {json.dumps(item)}, not a schedule and its seconds")


def _attr(value: Any) -> Attr:
    """An attribute as JSON gives it: lists become tuples."""
    if isinstance(value, list):
        return tuple(_attr(v) for v in value)
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a schedule cannot hold {json.dumps(value)}")


def update_lockfile(
    path: str | os.PathLike[str], entries: Iterable[Entry], replacing: bool = False
) -> None:
    """Merge ``entries`` into a file, or put them there ``replacing`` what is known.

    Safe beside other writers, and against being killed: the file is the old or the new
    one, whole. LockfileError if it is damaged (nothing is written then) or cannot be
    written.
    """
    new = list(entries)
    with _only_writer(Path(path)) as real:
        known = read_lockfile(real) if real.exists() else {}
        if replacing:
            known = {k: e for k, e in known.items() if k not in {n.key for n in new}}
        _write(real, merged(known.values(), new).values())


def check_writable(path: str | os.PathLike[str]) -> None:
    """LockfileError unless ``update_lockfile`` can write there; the file stays."""
    with _only_writer(Path(path)) as real, part_of(real) as part:
        part.touch()


@contextlib.contextmanager
def _only_writer(path: Path) -> Iterator[Path]:
    """Where the file really lies; nobody else writes it meanwhile."""
    from filelock import FileLock, Timeout

    real = path.resolve()  # all that link to a file wait for each other
    if not real.parent.is_dir():
        raise LockfileError(f"{path}: cannot be written: no folder {real.parent}")
    if real.exists() and not real.is_file():
        raise LockfileError(f"{path}: cannot be written: it is no regular file")
    guard = real.with_name(f".{real.name}.guard")
    try:
        with FileLock(guard, timeout=_PATIENCE):
            for left in real.parent.glob(f".{glob.escape(real.name)}.*.part"):
                left.unlink()  # of a writer that was killed
            yield real
    except Timeout:
        raise LockfileError(
            f"{path}: another process has held {guard} for {_PATIENCE:.0f} s"
        ) from None
    except OSError as error:
        raise LockfileError(f"{path}: cannot be written: {error}") from error


def _write(path: Path, entries: Iterable[Entry]) -> None:
    """Put a whole new file in the place of the old; only the guard's holder may."""
    text = "".join(f"{line}\n" for line in [HEADER, *sorted(e.line for e in entries)])
    write_atomically(path, text.encode("utf-8"))


_chosen: ContextVar[Path | None] = ContextVar("lockfile", default=None)


@contextlib.contextmanager
def using(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within it, programs are compiled with this lockfile."""
    token = _chosen.set(Path(path))
    try:
        yield
    finally:
        _chosen.reset(token)


def lockfile_path() -> Path | None:
    """The file that was asked for, by ``using`` or else the environment."""
    variable = os.environ.get(VARIABLE)
    return _chosen.get() or (Path(variable) if variable else None)


def tuned() -> Tuned:
    """What the lockfile in force says: nothing where there is none.

    In force is the file that ``using`` names, else the environment's CONVC_LOCKFILE
    (none where it is empty), else convc.lock in the current folder if there is one.
    LockfileError if the file is damaged, or was named and does not exist.
    """
    path = lockfile_path()
    if path is None:
        if VARIABLE in os.environ or not Path(NAME).exists():
            return {}
        path = Path(NAME)
    return read_lockfile(path)
