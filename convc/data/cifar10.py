"""CIFAR-10: its binary form, where it is found, and the proof that it is CIFAR-10.

60,000 images of 32x32 pixels in ten classes (Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009). The binary version is five files of training images
and one of test images, each a row of records::

    record := label{1} red{1024} green{1024} blue{1024}

in bytes, each plane row by row. A folder may hold the files themselves, the folder
``cifar-10-batches-bin`` that they come in, or the archive, which is read as it is and
never unpacked. The search is that of ``fetch.py``, with the variable
``CONVC_CIFAR10``. Nothing stands in for the images.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, cast

import numpy as np

from convc.data.batches import Dataset, Splits
from convc.data.cache import user_cache
from convc.data.fetch import Notify, answering, fetch, search, tell
from convc.data.idx import MAX_BYTES, DataError

TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"

SHA256 = {
    TRAIN[0]: "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    TRAIN[1]: "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    TRAIN[2]: "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    TRAIN[3]: "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    TRAIN[4]: "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    TEST: "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
"""The files' hashes, in hexadecimal."""

RECORDS = 10_000
"""Images in each file."""
CLASSES = 10
SHAPE = (32, 32, 3)
RECORD_BYTES = 1 + 32 * 32 * 3

HOME = "https://www.cs.toronto.edu/~kriz/"
MIRRORS = (
    HOME,
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
)
# The archive is 162 MB.
_MAX_DOWNLOAD = 512 << 20
# What an archive may hold beside the files: headers, the names of the classes.
_BESIDE = 1 << 20

Contents = Mapping[str, tuple[str, bytes]]
"""Of each file: where it was read, and what it holds."""


def load_cifar10(
    data_dir: str | os.PathLike[str] | None = None, *, notify: Notify | None = None
) -> Splits:
    """CIFAR-10 from the first place that has it: images f32[n,32,32,3] in [0,1].

    ``notify`` is called with each thing a person should know (default: a line on
    stderr). DataError if a folder that was asked for cannot serve, or if nothing can.
    """
    said = tell if notify is None else notify
    cache = cache_folder()

    def read(folder: str | os.PathLike[str]) -> Splits:
        return read_folder(folder, records=RECORDS)

    return search(
        data_dir, "CONVC_CIFAR10", cache, read, lambda: _fill(cache, said), _nowhere
    )


def read_folder(
    folder: str | os.PathLike[str],
    *,
    name: str = "CIFAR-10",
    sha256: Mapping[str, str] | None = SHA256,
    records: int | None = None,
) -> Splits:
    """The six files of a folder or of the archive in it, proved to be CIFAR-10.

    For other data in the same form give its ``name`` and its own hashes, or
    ``sha256=None`` to check the form alone. ``records`` is how many images each file
    must hold, if that is known.

    DataError naming the file, the rule and both values.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{folder}: {name} is read from a folder that holds {FOLDER} or {ARCHIVE}, "
            "and this is not a folder"
        )
    contents = _contents(folder, name, records)
    _prove(contents, sha256 or {})
    train = [contents[file] for file in TRAIN]
    return Splits(
        train=_dataset(train, f"{name} train", folder),
        test=_dataset([contents[TEST]], f"{name} test", folder),
    )


def cache_folder() -> Path:
    """The folder the archive is kept in; it need not exist."""
    return user_cache() / "cifar10"


def _contents(folder: Path, name: str, records: int | None) -> Contents:
    """What the six files hold, from the first of the three forms that is there."""
    for place in (folder, folder / FOLDER):
        there = [file for file in SHA256 if (place / file).is_file()]
        lacking = [file for file in SHA256 if file not in there]
        if there and lacking:
            raise DataError(
                f"{place}: {name} is the six files {', '.join(SHA256)}, "
                f"and {', '.join(lacking)} is not there"
            )
        if there:
            return {file: _plain(place / file, records) for file in SHA256}
    if (folder / ARCHIVE).is_file():
        return _archived(folder / ARCHIVE, records)
    raise DataError(
        f"{folder}: holds neither {TRAIN[0]} nor {FOLDER} nor {ARCHIVE}; "
        f"any of them would do: {HOME}cifar.html has the binary version"
    )


def _plain(path: Path, records: int | None) -> tuple[str, bytes]:
    """A file's path and content."""
    try:
        _check_size(str(path), path.stat().st_size, records)
        return str(path), path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _archived(path: Path, records: int | None) -> Contents:
    """The six files in an archive; nothing that it says becomes a path."""
    most = len(SHA256) * RECORD_BYTES * records + _BESIDE if records else MAX_BYTES
    found: dict[str, tuple[str, bytes]] = {}
    try:
        with gzip.open(path, "rb") as unzipped:
            bounded = cast("IO[bytes]", _Bounded(path, unzipped, most))
            with tarfile.open(fileobj=bounded, mode="r|") as archive:
                for file, where, held in _members(path, archive, records):
                    found[file] = where, held
                    if len(found) == len(SHA256):
                        break
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    lacking = [file for file in SHA256 if file not in found]
    if lacking:
        raise DataError(
            f"{path}: must hold {len(SHA256)} files {FOLDER}/*.bin, "
            f"and holds no {', '.join(lacking)}"
        )
    return found


def _members(
    path: Path, archive: tarfile.TarFile, records: int | None
) -> Iterator[tuple[str, str, bytes]]:
    """Of each of the files in an archive its name, where it is, and its content."""
    for member in archive:
        folder, _, file = member.name.rpartition("/")
        if not member.isreg() or folder != FOLDER or file not in SHA256:
            continue
        where = f"{path}: {member.name}"
        _check_size(where, member.size, records)
        stream = archive.extractfile(member)
        assert stream is not None
        yield file, where, stream.read()


def _prove(contents: Contents, sha256: Mapping[str, str]) -> None:
    """DataError unless each file has the hash it should have."""
    for file, digest in sha256.items():
        where, held = contents[file]
        found = hashlib.sha256(held).hexdigest()
        if found != digest:
            raise DataError(f"{where}: must have sha256 {digest}, and has {found}")


class _Bounded:
    """A stream that refuses to give more than it should; an archive may swell."""

    def __init__(self, path: Path, stream: gzip.GzipFile, most: int) -> None:
        self._path, self._stream, self._most = path, stream, most
        self._given = 0

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; DataError once they are too many."""
        data = self._stream.read(size)
        self._given += len(data)
        if self._given > self._most:
            raise DataError(
                f"{self._path}: unpacks to more than {self._most} bytes, "
                "and CIFAR-10 has fewer"
            )
        return data


def _check_size(where: str, size: int, records: int | None) -> None:
    """DataError unless a file of that size holds whole records, as many as it must."""
    if records is not None and size != records * RECORD_BYTES:
        raise DataError(
            f"{where}: {records} records of {RECORD_BYTES} bytes are "
            f"{records * RECORD_BYTES} bytes, and the file has {size}"
        )
    if size % RECORD_BYTES or not 0 < size <= MAX_BYTES:
        raise DataError(
            f"{where}: a record is {RECORD_BYTES} bytes, and the file has {size}, "
            f"which are {size / RECORD_BYTES:.6g} records"
        )


def _dataset(parts: Iterable[tuple[str, bytes]], name: str, folder: Path) -> Dataset:
    """The records of several files, one after the other."""
    rows = [(w, np.frombuffer(b, np.uint8).reshape(-1, RECORD_BYTES)) for w, b in parts]
    count = sum(len(records) for _, records in rows)
    images, labels = np.empty((count, *SHAPE), np.float32), np.empty(count, np.int32)
    at = 0
    for where, records in rows:
        highest = int(records[:, 0].max())
        if highest >= CLASSES:
            raise DataError(
                f"{where}: labels are 0 .. {CLASSES - 1}, and the highest is {highest}"
            )
        here = slice(at, at := at + len(records))
        labels[here] = records[:, 0]
        planes = records[:, 1:].reshape(-1, 3, 32, 32)
        np.divide(planes.transpose(0, 2, 3, 1), np.float32(255), out=images[here])
    return Dataset(images, labels, name, str(folder))


def _fill(cache: Path, notify: Notify) -> None:
    """Download the archive, proved by the hashes of what it holds."""
    notify(f"downloading CIFAR-10 into {cache}")

    def prove(part: Path) -> None:
        _prove(_archived(part, RECORDS), SHA256)

    failures: list[str] = []
    for mirror in answering(MIRRORS, ARCHIVE, failures):
        try:
            fetch(f"{mirror}{ARCHIVE}", cache / ARCHIVE, _MAX_DOWNLOAD, prove)
        except (OSError, ValueError, DataError) as error:
            failures.append(str(error))
            continue
        return
    raise DataError("; ".join(failures))


def _nowhere(absent: str) -> Splits:
    """DataError that says what to do."""
    raise DataError(
        f"CIFAR-10 cannot be had: {absent}. Name a folder that holds {FOLDER} or "
        f"{ARCHIVE} (from {HOME}cifar.html) with --data or CONVC_CIFAR10, or allow "
        "the download"
    )
