"""MNIST: where it is looked for, and the proof that it is MNIST.

The search, in this order; the first that answers wins:

1. the folder that was asked for (``data_dir``, the command line's --data);
2. the folder in ``CONVC_DATA``;
3. the user cache: ``CONVC_CACHE_DIR``, else the system's (``XDG_CACHE_HOME``);
4. a download into that cache, unless ``CONVC_OFFLINE=1``;
5. the stand-in digits of scikit-learn, with a notice that they are not MNIST.

A folder that was asked for (1, 2) must serve: if it lacks a file or holds a damaged
one, that is an error and nothing further is tried. Files may be gzipped or plain; the
hashes are of the decompressed content, since the gzip wrapper varies between mirrors.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from convc.data.batches import Dataset, Labels, Splits, unit_images
from convc.data.cache import user_cache
from convc.data.digits import load_digits
from convc.data.idx import DataError, read_idx
from convc.files import part_of

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

SHA256 = {
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The decompressed files' hashes, in hexadecimal."""

CLASSES = 10

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

# Plain, the largest file is 47 MB (a server may unzip what it sends).
_MAX_DOWNLOAD = 64 << 20
_ANSWER_SECONDS = 4
# A transfer that brings nothing for so long is given up.
_STALL_SECONDS = 10


def load_mnist(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    notify: Callable[[str], None] | None = None,
) -> Splits:
    """MNIST from the first place that has it, or the stand-in digits with a notice.

    ``notify`` is called with each thing a person should know (default: a line on
    stderr). The notice also stays with the data, as ``Splits.notice``.

    Raises DataError if a folder that was asked for cannot serve, or if nothing can.
    """
    notify = _tell if notify is None else notify
    if data_dir is not None:
        return read_folder(data_dir)
    if os.environ.get("CONVC_DATA"):
        return read_folder(os.environ["CONVC_DATA"])
    cache = cache_folder()
    absent = ""
    if cache.exists():
        try:
            return read_folder(cache)
        except DataError as error:
            absent = f"the cache does not serve ({error}); "
    if os.environ.get("CONVC_OFFLINE", "0") not in {"", "0"}:
        absent += "CONVC_OFFLINE forbids the download"
    else:
        try:
            _fill(cache, notify)
            return read_folder(cache)
        except DataError as error:
            absent += f"the download failed ({error})"
    return _stand_in(absent, notify)


def read_folder(
    folder: str | os.PathLike[str],
    *,
    name: str = "MNIST",
    sha256: Mapping[str, str] | None = SHA256,
) -> Splits:
    """The four files of a folder, each gzipped (.gz) or plain, proved to be MNIST.

    For other data in the same form, say Fashion-MNIST, give its ``name`` and its own
    hashes, or ``sha256=None`` to check the form alone.

    Raises DataError naming the file, the rule and both values.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{folder}: {name} is read from a folder of four IDX files, "
            "and this is not a folder"
        )
    return Splits(
        train=_read_pair(folder, TRAIN_IMAGES, TRAIN_LABELS, f"{name} train", sha256),
        test=_read_pair(folder, TEST_IMAGES, TEST_LABELS, f"{name} test", sha256),
    )


def cache_folder() -> Path:
    """The folder downloads are kept in; it need not exist."""
    return user_cache() / "mnist"


def _read_pair(
    folder: Path,
    images_name: str,
    labels_name: str,
    name: str,
    sha256: Mapping[str, str] | None,
) -> Dataset:
    """One half: images u8[n,28,28] and labels u8[n], checked against each other."""
    hashes = sha256 or {}
    images_path, images = _read_bytes(folder, images_name, 3, hashes)
    labels_path, labels = _read_bytes(folder, labels_name, 1, hashes)
    if images.shape[1:] != (28, 28):
        raise DataError(
            f"{images_path}: images are 28x28, "
            f"and these are {images.shape[1]}x{images.shape[2]}"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{images_path}: holds {len(images)} images, "
            f"and {labels_path} holds {len(labels)} labels; they must be as many"
        )
    if len(labels) and labels.max() >= CLASSES:
        raise DataError(
            f"{labels_path}: labels are 0 .. {CLASSES - 1}, "
            f"and the highest is {labels.max()}"
        )
    wide: Labels = labels.astype(np.int32)
    return Dataset(unit_images(images), wide, name, str(folder))


def _read_bytes(
    folder: Path, name: str, rank: int, sha256: Mapping[str, str]
) -> tuple[Path, NDArray[np.uint8]]:
    """The u8 array of the given rank in ``name`` or ``name``.gz, and its path."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            break
    else:
        raise DataError(f"{folder}: holds neither {name} nor {name}.gz; both would do")
    array = read_idx(path, sha256.get(name))
    if array.dtype != np.uint8 or array.ndim != rank:
        raise DataError(
            f"{path}: must hold uint8 of rank {rank}, "
            f"and holds {array.dtype} of rank {array.ndim}"
        )
    return path, cast("NDArray[np.uint8]", array)


def _fill(cache: Path, notify: Callable[[str], None]) -> None:
    """Download what the cache lacks or holds damaged; every file is proved first."""
    lacking = [name for name in SHA256 if not _cached(cache, name)]
    if not lacking:
        return  # another process has filled it meanwhile
    notify(f"downloading MNIST into {cache}")
    failures: list[str] = []
    for mirror in _answering(lacking[0], failures):
        try:
            while lacking:
                _fetch(mirror, lacking[0], cache)
                lacking.pop(0)
        except (OSError, ValueError, DataError) as error:
            failures.append(str(error))
            continue
        return
    raise DataError("; ".join(failures))


def _cached(cache: Path, name: str) -> bool:
    """Whether the cache already has the good file."""
    try:
        _read_bytes(cache, name, 3 if "images" in name else 1, SHA256)
    except DataError:
        return False
    return True


def _answering(name: str, failures: list[str]) -> Iterator[str]:
    """The mirrors that have the file, as they answer; ``failures`` takes the others.

    All are asked at once, on threads that are left behind if they hang: a name look-up
    without a network can take half a minute and knows no timeout of its own.
    """
    answers: queue.Queue[tuple[str, str]] = queue.Queue()

    def ask(mirror: str) -> None:
        fault = "failed"
        try:
            fault = "" if _has_file(f"{mirror}{name}.gz") else "has no such file"
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors
            fault = type(error).__name__
        finally:
            answers.put((mirror, fault))

    for mirror in MIRRORS:
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    silent = dict.fromkeys(MIRRORS, f"no answer within {_ANSWER_SECONDS} s")
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


def _has_file(url: str) -> bool:
    """Whether the mirror says it has the file; OSError if it cannot be asked."""
    import pooch

    ask = pooch.HTTPDownloader(timeout=_ANSWER_SECONDS)
    return bool(ask(url, None, None, check_only=True))


def _fetch(mirror: str, name: str, cache: Path) -> None:
    """Bring one file into the cache, whole and proved, or leave the cache as it is."""
    cache.mkdir(parents=True, exist_ok=True)
    url = f"{mirror}{name}.gz"
    with part_of(cache / name) as part:
        with part.open("xb") as file:
            _transfer(url, file, name)
            file.flush()
            os.fsync(file.fileno())
        try:
            read_idx(part, SHA256[name])
        except DataError as error:
            raise DataError(f"{url}: what came is not the file: {error}") from error
        part.replace(cache / f"{name}.gz")
    # A damaged plain file would be found before the good gzipped one.
    (cache / name).unlink(missing_ok=True)


def _transfer(url: str, file: BinaryIO, name: str) -> None:
    """Copy what the URL serves into the file, with a bar if stderr is a terminal."""
    import pooch
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        bar = _Bar(shown, shown.add_task(name, total=None), url)
        fetch = pooch.HTTPDownloader(
            progressbar=bar, chunk_size=1 << 16, timeout=_STALL_SECONDS
        )
        fetch(url, file, None)


class _Bar:
    """The progress bar pooch expects, drawn by rich; it also bounds the transfer."""

    def __init__(self, shown: Progress, task: TaskID, url: str) -> None:
        self._shown, self._task, self._url = shown, task, url
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
        if self._bytes > _MAX_DOWNLOAD:
            raise DataError(
                f"{self._url}: sends more than {_MAX_DOWNLOAD} bytes, "
                "and the largest file has fewer"
            )
        self._shown.update(self._task, advance=count)

    def reset(self) -> None:
        """Start counting anew, as pooch does before it fills the bar."""
        self._bytes = 0
        self._shown.reset(self._task)

    def close(self) -> None:
        """Leave the bar as it is; the transfer is over."""


def _stand_in(absent: str, notify: Callable[[str], None]) -> Splits:
    """The digits of scikit-learn, and why they are here."""
    try:
        splits = load_digits()
    except DataError as error:
        raise DataError(
            f"MNIST cannot be had: {absent}. And {error}. Name a folder that holds it "
            "with --data or CONVC_DATA, or allow the download"
        ) from error
    notify(f"{splits.notice}. MNIST cannot be had: {absent}")
    return splits


def _tell(text: str) -> None:
    """A line on stderr, so that output which is piped on stays clean."""
    sys.stderr.write(f"convc: {text}\n")
