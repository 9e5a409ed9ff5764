"""MNIST: where it is found, and the proof that it is MNIST.

The search is that of ``fetch.py``, with the variable ``CONVC_DATA``; at its end the
digits of scikit-learn stand in, with a notice that they are not MNIST. Files may be
gzipped or plain; the hashes are of the decompressed content, since the gzip wrapper
varies between mirrors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from convc.data.batches import Dataset, Labels, Splits, unit_images
from convc.data.cache import user_cache
from convc.data.digits import load_digits
from convc.data.fetch import Notify, answering, fetch, search, tell
from convc.data.idx import DataError, read_idx

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


def load_mnist(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    notify: Notify | None = None,
) -> Splits:
    """MNIST from the first place that has it, or the stand-in digits with a notice.

    ``notify`` is called with each thing a person should know (default: a line on
    stderr). The notice also stays with the data, as ``Splits.notice``.

    Raises DataError if a folder that was asked for cannot serve, or if nothing can.
    """
    said = tell if notify is None else notify
    cache = cache_folder()
    return search(
        data_dir,
        "CONVC_DATA",
        cache,
        read_folder,
        lambda: _fill(cache, said),
        lambda absent: _stand_in(absent, said),
    )


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


def _fill(cache: Path, notify: Notify) -> None:
    """Download what the cache lacks or holds damaged; every file is proved first."""
    lacking = [name for name in SHA256 if not _cached(cache, name)]
    if not lacking:
        return  # another process has filled it meanwhile
    notify(f"downloading MNIST into {cache}")
    failures: list[str] = []
    for mirror in answering(MIRRORS, f"{lacking[0]}.gz", failures):
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


def _fetch(mirror: str, name: str, cache: Path) -> None:
    """Bring one file into the cache, whole and proved, or leave the cache as it is."""
    place = cache / f"{name}.gz"
    fetch(
        f"{mirror}{name}.gz",
        place,
        _MAX_DOWNLOAD,
        lambda part: read_idx(part, SHA256[name]),
    )
    # A damaged plain file would be found before the good gzipped one.
    (cache / name).unlink(missing_ok=True)


def _stand_in(absent: str, notify: Notify) -> Splits:
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
