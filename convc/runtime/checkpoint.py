"""Checkpoints that survive a killed process, and strict weight files.

A checkpoint is two files in one folder::

    step-00001200-3f9a61c2.safetensors   the tensors; named after their hash
    step-00001200.json                   the manifest, written last: the commit point

Each is written beside its place, flushed to the disk, and renamed over it. A tensor
file counts only if a manifest names it, with its size and sha256; the manifest holds a
hash of itself. A crash at any moment therefore leaves every earlier checkpoint whole,
also when a step is saved again: the new tensors have another name than the old.

One process writes to a folder at a time; any number may read.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from convc.files import write_atomically
from convc.ir.errors import ConvcError

Tensors = dict[str, NDArray[Any]]
Which = Literal["latest", "best"]

FORMAT = "convc checkpoint 1"
SCORE = "score"
"""The key of ``meta`` that "best" goes by: a number, the greater the better."""

_MANIFEST = re.compile(r"step-(\d{8,})\.json")
_TENSORS = re.compile(r"step-\d{8,}-[0-9a-f]{8}\.safetensors")
_PART = re.compile(r"\.step-.*\.part")
# Unfinished files this old belong to no writer that still lives.
_STALE_SECONDS = 3600.0
_FIELDS = {"step": int, "file": str, "bytes": int, "sha256": str, "meta": dict}
_SHOWN = 8


class CheckpointError(ConvcError):
    """A checkpoint or weight file that is missing, damaged, or does not fit."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What was saved at a step; the arrays may be read-only.

    ``path`` is the manifest. ``skipped`` says of each newer (or better) checkpoint of
    the folder that was passed over, which and why: show it to the person.
    """

    step: int
    tensors: Tensors
    meta: dict[str, Any]
    path: Path
    skipped: tuple[str, ...] = ()


def save_checkpoint(
    directory: str | os.PathLike[str],
    step: int,
    tensors: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any],
    keep_last: int = 3,
) -> Path:
    """Save a step so that a crash loses nothing; the path of its manifest.

    ``meta`` is JSON: the generator's state (seed, epoch, batch), and under "score" what
    "best" goes by. The ``keep_last`` newest checkpoints and the best one are kept,
    the others removed; 0 keeps all. Raises CheckpointError if something cannot be
    saved, before anything is written, or if the disk refuses.
    """
    folder = Path(directory)
    step = _step(step)
    data = _serialized(f"step {step}", tensors)
    digest = hashlib.sha256(data).hexdigest()
    file = f"step-{step:08d}-{digest[:8]}.safetensors"
    body = {
        "format": FORMAT,
        "step": step,
        "file": file,
        "bytes": len(data),
        "sha256": digest,
        "tensors": {
            name: {"dtype": array.dtype.name, "shape": list(array.shape)}
            for name, array in tensors.items()
        },
        "meta": dict(meta),
    }
    score = meta.get(SCORE)
    if score is not None and not _is_number(score):
        raise CheckpointError(
            f"checkpoint of step {step}: the score must be a finite number, "
            f"and is {score!r}; leave it out where there is none"
        )
    manifest = _sealed(step, body)
    path = folder / f"step-{step:08d}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / file, data)
        write_atomically(path, manifest)
        _prune(folder, path, keep_last)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be saved: {error}") from error
    return path


def load_checkpoint(
    path: str | os.PathLike[str], which: Which = "latest"
) -> Checkpoint:
    """The checkpoint of a manifest, or the latest or best valid one of a folder.

    Of a folder, damaged checkpoints are passed over and listed in ``skipped``; a
    manifest named outright must be whole. Raises CheckpointError with the reason.
    """
    path = Path(path)
    if not path.is_dir():
        return _load(path)
    skipped: list[str] = []
    for manifest in _candidates(path, which, skipped):
        try:
            return replace(_load(manifest), skipped=tuple(skipped))
        except CheckpointError as error:
            skipped.append(str(error))
    reasons = "; ".join(skipped[:_SHOWN])
    raise CheckpointError(
        f"{path}: holds no checkpoint that can be loaded ({reasons})"
        if skipped
        else f"{path}: holds no checkpoint"
    )


def save_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    network: str = "",
) -> Path:
    """Write named tensors to a safetensors file, whole or not at all; its path.

    The file's metadata holds a sha256 of the content and, where it is given, which
    ``network`` they belong to. Raises CheckpointError.
    """
    path = Path(path)
    arrays = _contiguous(str(path), tensors)
    metadata = {"sha256": weights_digest(arrays)}
    if network:
        metadata["network"] = network
    data = _serialized(str(path), arrays, metadata)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be saved: {error}") from error
    return path


def load_weights(
    path: str | os.PathLike[str],
    expected: Mapping[str, tuple[Sequence[int], DTypeLike]],
) -> Tensors:
    """The tensors of a weight file, exactly those expected as name: (shape, dtype).

    A hash in the file's metadata is checked; a file from elsewhere may have none.
    Raises CheckpointError naming what is missing, what is unexpected, and both sides
    of every shape or dtype that differs.
    """
    path = Path(path)
    data = _read(path)
    tensors = _deserialized(path, data)
    stored = _metadata(data).get("sha256")
    found = weights_digest(tensors)
    if stored is not None and stored != found:
        raise CheckpointError(
            f"{path}: the content must have sha256 {stored}, and has {found}; "
            "the file is damaged"
        )
    _require(path, tensors, expected)
    return tensors


def weights_network(path: str | os.PathLike[str]) -> str:
    """The network that a weight file says it belongs to, "" if it does not say.

    Raises CheckpointError if the file cannot be read or is no weight file.
    """
    path = Path(path)
    data = _read(path)
    _deserialized(path, data)
    return _metadata(data).get("network", "")


def weights_digest(weights: Mapping[str, NDArray[Any]]) -> str:
    """The sha256, in hexadecimal, over the weights in the order of their names.

    Names, dtypes, shapes and bytes count, the order in memory or in a file does not:
    equal digests are equal bits.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name]
        label = json.dumps([name, array.dtype.name, list(array.shape)])
        digest.update(label.encode("utf-8"))
        digest.update(array.tobytes())
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    """The bytes of a file, or a CheckpointError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _step(step: int) -> int:
    """The step as a whole number, or a CheckpointError."""
    try:
        whole = operator.index(step)
    except TypeError:
        whole = -1
    if whole < 0:
        raise CheckpointError(
            f"checkpoint: the step must be a whole number from 0, and is {step!r}"
        )
    return whole


def _is_number(value: object) -> bool:
    """Whether a JSON value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _sealed(step: int, body: dict[str, Any]) -> bytes:
    """The manifest as text, with a hash over its own body."""
    try:
        seal = _seal(body)
        text = json.dumps({"seal": seal, "checkpoint": body}, indent=1, allow_nan=False)
        if json.loads(text)["checkpoint"] != body:
            raise ValueError("it would come back changed (tuple, or a key not a str)")
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"checkpoint of step {step}: meta must be plain JSON: {error}"
        ) from error
    return text.encode("utf-8")


def _seal(body: Any) -> str:
    """The sha256 of a manifest's body in canonical form."""
    canonical = json.dumps(body, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    """The body of a manifest, as it was sealed."""
    try:
        whole = json.loads(path.read_bytes())
        body: dict[str, Any] = whole["checkpoint"]
        sound = whole["seal"] == _seal(body)
        form = body["format"]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not a checkpoint's manifest") from error
    if not sound:
        raise CheckpointError(f"{path}: the manifest is damaged: its seal is broken")
    if form != FORMAT or any(type(body.get(k)) is not t for k, t in _FIELDS.items()):
        raise CheckpointError(f"{path}: must have format {FORMAT!r}, and has {form!r}")
    return body


def _load(path: Path) -> Checkpoint:
    """The checkpoint of one manifest, checked to the last byte."""
    body = _manifest(path)
    if not _TENSORS.fullmatch(body["file"]):
        raise CheckpointError(f"{path}: names {body['file']!r}, no tensor file's name")
    file = path.parent / body["file"]
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: its tensors cannot be read: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    if (len(data), digest) != (body["bytes"], body["sha256"]):
        raise CheckpointError(
            f"{file}: must have {body['bytes']} bytes and sha256 {body['sha256']}, "
            f"and has {len(data)} bytes and {digest}; it is damaged"
        )
    return Checkpoint(body["step"], _deserialized(file, data), body["meta"], path)


def _manifests(folder: Path) -> list[Path]:
    """The manifests of a folder, newest step first."""
    found = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := _MANIFEST.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def _candidates(folder: Path, which: Which, skipped: list[str]) -> list[Path]:
    """The manifests in the order they are to be tried.

    For "best", those with a score, best first and the newer of equals first; the
    unreadable ones go to ``skipped``.
    """
    if which not in ("latest", "best"):
        raise CheckpointError(f"checkpoint: which is 'latest' or 'best', not {which!r}")
    manifests = _manifests(folder)
    if which == "latest":
        return manifests
    scored = []
    for age, path in enumerate(manifests):
        try:
            score = _manifest(path)["meta"].get(SCORE)
        except CheckpointError as error:
            skipped.append(str(error))
            continue
        if _is_number(score):
            scored.append((-score, age, path))
    return [path for *_, path in sorted(scored)]


def _prune(folder: Path, saved: Path, keep_last: int) -> None:
    """Remove checkpoints past their time, and what a crash or a re-save left over.

    A manifest goes before its tensors, so that none is ever left without them. One
    that cannot be read is left, with its step's tensors, for a person to look at.
    """
    manifests = _manifests(folder)
    newest = manifests[:keep_last] if keep_last > 0 else manifests
    kept = {saved, *newest, *_candidates(folder, "best", [])[:1]}
    in_use = []
    for path in manifests:
        try:
            file = _manifest(path)["file"]
        except CheckpointError:
            in_use.append(f"{path.stem}-")
            continue
        if path in kept:
            in_use.append(file)
        else:
            path.unlink()
    now = time.time()
    for path in folder.iterdir():
        orphan = _TENSORS.fullmatch(path.name) and not path.name.startswith(
            tuple(in_use)
        )
        part = _PART.fullmatch(path.name)
        if orphan or (part and now - path.stat().st_mtime > _STALE_SECONDS):
            path.unlink()


def _contiguous(what: str, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """The tensors in C order and little-endian, with their names checked."""
    arrays = {}
    for name, array in tensors.items():
        if not isinstance(name, str) or not name or name == "__metadata__":
            raise CheckpointError(
                f"{what}: a tensor's name is a non-empty text other than "
                f"'__metadata__', not {name!r}"
            )
        # safetensors writes the memory as it lies: a transposed view would be
        # stored untransposed. (ascontiguousarray would make a scalar rank 1.)
        ordered = np.asarray(array, order="C")
        arrays[name] = ordered.astype(ordered.dtype.newbyteorder("<"), copy=False)
    return arrays


def _serialized(
    what: str,
    tensors: Mapping[str, NDArray[Any]],
    metadata: dict[str, str] | None = None,
) -> bytes:
    """The tensors as a safetensors file."""
    import safetensors
    import safetensors.numpy

    arrays = _contiguous(what, tensors)
    try:
        return safetensors.numpy.save(arrays, metadata)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        kinds = sorted({array.dtype.name for array in arrays.values()})
        raise CheckpointError(
            f"{what}: the tensors cannot be stored (dtypes {', '.join(kinds)}): {error}"
        ) from error


def _deserialized(path: Path, data: bytes) -> Tensors:
    """The tensors of a safetensors file, or a CheckpointError."""
    import safetensors
    import safetensors.numpy

    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: is not a safetensors file for NumPy: {error}"
        ) from error


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a file that has been read: 8 bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header.get("__metadata__") or {}


def _require(
    path: Path,
    tensors: Tensors,
    expected: Mapping[str, tuple[Sequence[int], DTypeLike]],
) -> None:
    """Refuse tensors that are not exactly the expected ones."""
    wrong = []
    if missing := [name for name in expected if name not in tensors]:
        wrong.append(f"missing: {_listed(missing)}")
    if unexpected := [name for name in tensors if name not in expected]:
        wrong.append(f"unexpected: {_listed(unexpected)}")
    differing = []
    for name, (shape, dtype) in expected.items():
        array = tensors.get(name)
        wanted = (tuple(shape), np.dtype(dtype))
        if array is not None and (array.shape, array.dtype) != wanted:
            differing.append(
                f"{name} is {array.dtype.name}{list(array.shape)} in the file, "
                f"expected {wanted[1].name}{list(shape)}"
            )
    if differing:
        wrong.append(_listed(differing))
    if wrong:
        raise CheckpointError(
            f"{path}: does not fit the model; {'; '.join(wrong)}. "
            "Load it into the model it was saved from"
        )


def _listed(names: Sequence[str]) -> str:
    """The first few names and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
