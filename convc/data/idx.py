"""Arrays in the IDX format, plain or gzipped, read with suspicion.

The format (LeCun, Cortes and Burges, "The MNIST database of handwritten digits")::

    file  := 0x00 0x00 dtype rank size{rank} payload
    dtype := 0x08 u8 | 0x09 i8 | 0x0b i16 | 0x0c i32 | 0x0d f32 | 0x0e f64
    size  := u32, big-endian; the payload is big-endian too, in C order

A header is believed only as far as the file can bear it out: what it declares is
held against the file's size before anything is allocated.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from convc.ir.errors import ConvcError

DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
MAX_RANK = 8
MAX_BYTES = 1 << 31
"""The largest payload that is read, 2 GiB; larger data needs another format."""

_GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot expand further than this (zlib, "Maximum Expansion Factor").
_DEFLATE_RATIO = 1032


class DataError(ConvcError):
    """Data that is missing, damaged, or not what was asked for."""


def read_idx(path: Path, sha256: str | None = None) -> NDArray[np.generic]:
    """The array in an IDX file, in native byte order; it may be read-only.

    ``sha256`` is the hexadecimal hash of the decompressed file, checked if given.
    Raises DataError naming the file, the rule and both values.
    """
    if not path.is_file():
        raise DataError(f"{path}: is not a file")
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not zipped:
                return _read(path, raw, size, sha256)
            with gzip.GzipFile(fileobj=raw, mode="rb") as unzipped:
                return _read(path, unzipped, size * _DEFLATE_RATIO, sha256)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _read(
    path: Path, stream: BinaryIO | gzip.GzipFile, most: int, sha256: str | None
) -> NDArray[np.generic]:
    """The array in a decompressed stream of at most ``most`` bytes."""
    start = _exactly(path, stream, 4, "the magic number")
    if start[:2] != b"\0\0":
        raise DataError(
            f"{path}: an IDX file begins with bytes 00 00, this one with "
            f"{start[:2].hex(' ')}"
        )
    if start[2] not in DTYPES:
        known = ", ".join(f"{code:02x}" for code in DTYPES)
        raise DataError(
            f"{path}: the IDX element type must be one of {known}, "
            f"and the file says {start[2]:02x}"
        )
    if start[3] > MAX_RANK:
        raise DataError(
            f"{path}: an IDX array has at most {MAX_RANK} dimensions here, "
            f"and the file says {start[3]}"
        )
    sizes = _exactly(path, stream, 4 * start[3], "the sizes")
    dtype = DTYPES[start[2]]
    shape = tuple(int(n) for n in np.frombuffer(sizes, dtype=">u4"))
    declared = math.prod(shape) * dtype.itemsize
    header = len(start) + len(sizes)
    _check_declared(path, shape, declared, header, most)
    payload = _exactly(path, stream, declared, f"the payload of shape {list(shape)}")
    if stream.read(1):
        raise DataError(
            f"{path}: shape {list(shape)} needs {header + declared} bytes, "
            "and the file goes on after them"
        )
    _check_hash(path, sha256, start + sizes, payload)
    array: NDArray[np.generic] = np.frombuffer(payload, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _check_declared(
    path: Path, shape: tuple[int, ...], declared: int, header: int, most: int
) -> None:
    """Refuse a header that promises more than the file can hold or we will read."""
    if declared > MAX_BYTES:
        raise DataError(
            f"{path}: a payload is at most {MAX_BYTES} bytes, "
            f"and shape {list(shape)} needs {declared}"
        )
    if header + declared > most:
        raise DataError(
            f"{path}: shape {list(shape)} needs {header + declared} bytes, "
            f"and the file holds at most {most}; it is cut short or damaged"
        )


def _exactly(
    path: Path, stream: BinaryIO | gzip.GzipFile, count: int, what: str
) -> bytes:
    """``count`` bytes of the stream; DataError if it ends before."""
    data = stream.read(count)
    if len(data) != count:
        raise DataError(
            f"{path}: {what} takes {count} bytes, and the file ends after {len(data)} "
            "of them; it is cut short"
        )
    return data


def _check_hash(path: Path, sha256: str | None, header: bytes, payload: bytes) -> None:
    """Compare the decompressed file with the hash it should have."""
    if sha256 is None:
        return
    digest = hashlib.sha256(header)
    digest.update(payload)
    if digest.hexdigest() != sha256:
        raise DataError(
            f"{path}: the decompressed file must have sha256 {sha256}, "
            f"and has {digest.hexdigest()}"
        )
