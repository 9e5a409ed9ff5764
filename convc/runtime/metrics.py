"""The curves of a run, one JSON line per point, and TensorBoard's events beside them.

A line reads ``{"tag": "loss/train", "step": 120, "value": 0.31, "time": 1.7e9}``: the
step counts training steps from 0, the time is in seconds since 1970. JSON has no
number for what is not finite, so such a value is the text "nan", "inf" or "-inf".
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from convc.files import write_atomically
from convc.ir.errors import ConvcError

FILE_NAME = "metrics.jsonl"


class MetricsError(ConvcError):
    """A curve file that cannot be read or written, or a missing TensorBoard writer."""


@dataclass(frozen=True)
class Point:
    """One point of a curve: ``value`` of ``tag`` at ``step``; ``time`` in seconds."""

    tag: str
    step: int
    value: float
    time: float


class MetricsLog:
    """Appends points to ``directory``/metrics.jsonl; every line is flushed at once.

    ``tensorboard`` True asks for TensorBoard events too (tensorboardX, else torch's
    writer; MetricsError if neither is there), False refuses them. None writes them if
    that is free of cost: tensorboardX imports torch where there is one, which takes
    seconds, so then only if torch has been imported already.

    A last line torn by a crash is dropped on opening. A context manager; MetricsError
    where the disk refuses.
    """

    def __init__(
        self, directory: str | os.PathLike[str], tensorboard: bool | None = None
    ) -> None:
        self.directory = Path(directory)
        self.path = self.directory / FILE_NAME
        module = _writer_module(tensorboard)
        self._writer_class = module and importlib.import_module(module).SummaryWriter
        self._writer: Any = None
        self._purge_step: int | None = None
        self._file: IO[str] | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise MetricsError(f"{self.path}: cannot be written: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, tag: str, value: float, step: int) -> None:
        """Append one point, now; MetricsError if the log is closed or the disk full."""
        if self._file is None:
            raise MetricsError(f"{self.path}: {tag} cannot be logged, it is closed")
        point = Point(tag, int(step), float(value), time.time())
        try:
            self._file.write(_line(point))
            self._file.flush()
        except OSError as error:
            raise MetricsError(f"{self.path}: cannot be written: {error}") from error
        if self._writer_class:
            if self._writer is None:
                # TensorBoard then hides the events of an earlier run from that step.
                self._writer = self._writer_class(
                    str(self.directory), purge_step=self._purge_step
                )
            self._writer.add_scalar(tag, point.value, point.step, point.time)

    def truncate_after(self, step: int) -> None:
        """Drop every point later than ``step``, so that a resumed curve does not fork.

        The file is replaced as a whole. MetricsError if a line of it is damaged.
        """
        if self._file is None:
            raise MetricsError(f"{self.path}: cannot be truncated, it is closed")
        kept = [point for point in read_metrics(self.path) if point.step <= step]
        self.close()
        try:
            write_atomically(self.path, "".join(map(_line, kept)).encode("utf-8"))
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise MetricsError(f"{self.path}: cannot be written: {error}") from error
        self._purge_step = step + 1

    def close(self) -> None:
        """Close the files; closing again does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_metrics(path: str | os.PathLike[str]) -> list[Point]:
    """The points of a curve file, or of the one in a folder, as they were logged.

    A torn last line is left out; any other line that is no point is a MetricsError
    with its number.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise MetricsError(f"{path}: cannot be read: {error}") from error
    # What follows the last newline was not written to its end.
    return [_point(path, number, line) for number, line in enumerate(lines[:-1], 1)]


def _line(point: Point) -> str:
    """A point as its line, newline included."""
    value = point.value if math.isfinite(point.value) else str(point.value)
    fields = {"tag": point.tag, "step": point.step, "value": value, "time": point.time}
    return json.dumps(fields, allow_nan=False) + "\n"


def _point(path: Path, number: int, line: bytes) -> Point:
    """The point of a line, or a MetricsError that quotes it."""
    try:
        fields = json.loads(line)
        return Point(
            str(fields["tag"]),
            int(fields["step"]),
            float(fields["value"]),
            float(fields["time"]),
        )
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        shown = line[:60].decode("utf-8", "replace")
        raise MetricsError(
            f"{path}:{number}: a line must be a point with tag, step, value and time, "
            f"and is {shown!r}"
        ) from error


def _drop_torn_line(path: Path) -> None:
    """Cut off what follows the last newline, or the next line would continue it."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)


def _writer_module(asked: bool | None) -> str | None:
    """The module whose SummaryWriter is to be used, if any; see MetricsLog."""
    if asked is False:
        return None
    has_torch = _installed("torch")
    torch_is_free = "torch" in sys.modules or not has_torch
    if _installed("tensorboardX") and (asked or torch_is_free):
        return "tensorboardX"
    if has_torch and _installed("tensorboard") and (asked or torch_is_free):
        return "torch.utils.tensorboard"
    if asked:
        raise MetricsError(
            "TensorBoard events were asked for, and neither tensorboardX nor torch "
            'with tensorboard is installed; pip install "convc[tensorboard]"'
        )
    return None


def _installed(name: str) -> bool:
    """Whether a regular package of that name is there, without importing it.

    A bare folder of that name in the working directory is none: it has no loader.
    """
    if name in sys.modules:
        return sys.modules[name] is not None
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None
