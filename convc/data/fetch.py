"""Where a data set is looked for, and downloads into the user's cache.

Every data set is searched in this order; the first place that answers wins:

1. the folder that was asked for (``data_dir``, the command line's --data);
2. the folder in the data set's environment variable;
3. the user cache: ``CONVC_CACHE_DIR``, else the system's (``XDG_CACHE_HOME``);
4. a download into that cache, unless ``CONVC_OFFLINE=1``;
5. what the data set has in place of itself: other images, or an error.

A folder that was asked for (1, 2) must serve: if it lacks a file or holds a damaged
one, that is an error and nothing further is tried.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from convc.data.batches import Splits
from convc.data.idx import DataError
from convc.files import part_of

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Notify = Callable[[str], None]

_ANSWER_SECONDS = 4
# A transfer that brings nothing for so long is given up.
_STALL_SECONDS = 10


def search(
    data_dir: str | os.PathLike[str] | None,
    variable: str,
    cache: Path,
    read: Callable[[str | os.PathLike[str]], Splits],
    fill: Callable[[], None],
    otherwise: Callable[[str], Splits],
) -> Splits:
    """The data set from the first place that has it.

    ``read`` gives what a folder holds, ``fill`` downloads into the cache what that
    lacks, ``otherwise`` is called with the reason why there is nothing. DataError if
    a folder that was asked for cannot serve, or from ``otherwise``.
    """
    asked = data_dir if data_dir is not None else os.environ.get(variable) or None
    if asked is not None:
        return read(asked)
    absent = ""
    if cache.exists():
        try:
            return read(cache)
        except DataError as error:
            absent = f"the cache does not serve ({error}); "
    if os.environ.get("CONVC_OFFLINE", "0") not in {"", "0"}:
        return otherwise(f"{absent}CONVC_OFFLINE forbids the download")
    try:
        fill()
        return read(cache)
    except DataError as error:
        absent += f"the download failed ({error})"
    return otherwise(absent)


def tell(text: str) -> None:
    """A line on stderr, so that output which is piped on stays clean."""
    sys.stderr.write(f"convc: {text}\n")


def answering(mirrors: Sequence[str], name: str, failures: list[str]) -> Iterator[str]:
    """The mirrors that have the file, as they answer; ``failures`` takes the others.

    All are asked at once, on threads that are left behind if they hang: a name look-up
    without a network can take half a minute and knows no timeout of its own.
    """
    answers: queue.Queue[tuple[str, str]] = queue.Queue()

    def ask(mirror: str) -> None:
        fault = "failed"
        try:
            fault = "" if _has_file(f"{mirror}{name}") else "has no such file"
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors
            fault = type(error).__name__
        finally:
            answers.put((mirror, fault))

    for mirror in mirrors:
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    silent = dict.fromkeys(mirrors, f"no answer within {_ANSWER_SECONDS} s")
    deadline = time.monotonic() + _ANSWER_SECONDS
    while silent:
        try:
            mirror, fault = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        del silent[mirror]
        if fault:
            failures.append(f"{mirror}: {fault}")
        else:
            yield mirror
    failures.extend(f"{mirror}: {fault}" for mirror, fault in silent.items())


def fetch(url: str, place: Path, most: int, prove: Callable[[Path], object]) -> None:
    """Bring a file to its place, whole and proved, or leave the folder as it is.

    ``prove`` raises DataError for a file that is not the one meant. DataError for
    that and for more than ``most`` bytes; OSError or ValueError if the transfer fails.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with part_of(place) as part:
        with part.open("xb") as file:
            _transfer(url, file, place.name, most)
            file.flush()
            os.fsync(file.fileno())
        try:
            prove(part)
        except DataError as error:
            raise DataError(f"{url}: what came is not the file: {error}") from error
        part.replace(place)


def _has_file(url: str) -> bool:
    """Whether the mirror says it has the file; OSError if it cannot be asked."""
    import pooch

    ask = pooch.HTTPDownloader(timeout=_ANSWER_SECONDS)
    return bool(ask(url, None, None, check_only=True))


def _transfer(url: str, file: BinaryIO, name: str, most: int) -> None:
    """Copy what the URL serves into the file, with a bar if stderr is a terminal."""
    import pooch
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        bar = _Bar(shown, shown.add_task(name, total=None), url, most)
        fetch = pooch.HTTPDownloader(
            progressbar=bar, chunk_size=1 << 16, timeout=_STALL_SECONDS
        )
        fetch(url, file, None)


class _Bar:
    """The progress bar pooch expects, drawn by rich; it also bounds the transfer."""

    def __init__(self, shown: Progress, task: TaskID, url: str, most: int) -> None:
        self._shown, self._task, self._url, self._most = shown, task, url, most
        self._bytes = 0

    @property
    def total(self) -> float | None:
        """The bytes the server announces; pooch sets it, 0 when there is no telling."""
        return self._shown.tasks[0].total

    @total.setter
    def total(self, size: int) -> None:
        self._shown.update(self._task, total=size or None)

    def update(self, count: int) -> None:
        """Count bytes that came; DataError if they are more than any file has."""
        self._bytes += count
        if self._bytes > self._most:
            raise DataError(
                f"{self._url}: sends more than {self._most} bytes, "
                "and the largest file has fewer"
            )
        self._shown.update(self._task, advance=count)

    def reset(self) -> None:
        """Start counting anew, as pooch does before it fills the bar."""
        self._bytes = 0
        self._shown.reset(self._task)

    def close(self) -> None:
        """Leave the bar as it is; the transfer is over."""
