"""The user's cache of machine code: private, checked when read, written whole.

An entry is a folder named after what it was made from. Its ``manifest.json`` says that
again and has the SHA-256 of every other file; an entry whose files differ from it is
made anew. While an entry is looked at or made its lock is held, so that of several
processes that want the same one makes it; the system frees the lock of one that dies.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from convc.ir.errors import CompileError

FORMAT = "convc machine code 1"
MANIFEST = "manifest.json"


def cache_folder() -> Path:
    """The folder ``triton`` in the user's cache; it need not exist.

    That is ``CONVC_CACHE_DIR``, else ``convc`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    named = os.environ.get("CONVC_CACHE_DIR")
    if named:
        return Path(named).expanduser() / "triton"
    base = os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    return Path(base).expanduser() / "convc" / "triton"


def entry(
    folder: Path, made_from: Mapping[str, str], make: Callable[[Path], None]
) -> Path:
    """The entry of what was made from this; ``make`` fills its folder if needed.

    CompileError if others could write to ``folder``, OSError if it cannot be used.
    """
    _make_private(folder)
    text = json.dumps(made_from, sort_keys=True)
    name = hashlib.sha256(text.encode("utf-8")).hexdigest()
    path, part = folder / name, folder / f".{name}.part"
    with _locked(folder / f"{name}.lock"):
        if not is_sound(path, made_from):
            for leftover in (path, part):
                shutil.rmtree(leftover, ignore_errors=True)
            part.mkdir(mode=0o700)
            try:
                make(part)
                _seal(part, made_from)
                part.rename(path)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return path


def is_sound(path: Path, made_from: Mapping[str, str] | None = None) -> bool:
    """Whether an entry's files are those that were written, and made from this."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        wanted = manifest["made from"] if made_from is None else dict(made_from)
        return bool(
            manifest
            == {"format": FORMAT, "made from": wanted, "files": _checksums(path)}
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def objection(folder: Path) -> str:
    """Why a folder must not be trusted with machine code, or nothing."""
    found = folder.stat()
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to you ({os.geteuid()})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {found.st_mode & 0o777:o})"
    return ""


def _make_private(folder: Path) -> None:
    """Make the folder for this user alone, or see that it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if wrong := objection(folder):
        raise CompileError(
            f"the cache of machine code must be yours alone: {folder} {wrong}; "
            "chmod 700 it, or name another folder in CONVC_CACHE_DIR"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock."""
    import fcntl  # not on Windows, where only this backend's compiler is missing

    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _seal(path: Path, made_from: Mapping[str, str]) -> None:
    manifest = {
        "format": FORMAT,
        "made from": dict(made_from),
        "files": _checksums(path),
    }
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")


def _checksums(path: Path) -> dict[str, str]:
    """The SHA-256 of every file but the manifest, by name."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.iterdir()
        if file.name != MANIFEST
    }
