"""The folder that ``convc compile`` writes: whole or not at all.

::

    manifest.json             what convc wrote here: every other file with its sha256
    training.py               the emitted program
    training.memory.txt       its arena, buffer by buffer
    training.ir/00-trace.ir   the IR after each pass

A folder with a manifest may be replaced, any other that is not empty is refused.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from convc.dump import memory_table, stage_files, write_files
from convc.ir.errors import CompileError

if TYPE_CHECKING:
    from convc.program import Program

MANIFEST = "manifest.json"
FORMAT = "convc programs 1"


def program_files(name: str, program: Program) -> dict[str, str]:
    """The files of one program, as text by their path in the folder."""
    memory = memory_table(program.graph)
    files = {f"{name}.py": program.source, f"{name}.memory.txt": memory}
    stages = stage_files(program.stages)
    return files | {f"{name}.ir/{file}": text for file, text in stages.items()}


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Make ``folder`` hold exactly these files and a manifest of them.

    They are written beside it first. CompileError if the folder holds anything that
    convc has not written, or if the disk refuses; the folder is as it was then.
    """
    folder = folder.resolve()
    if Path.cwd().is_relative_to(folder):
        raise CompileError(
            f"{folder}: is the current folder or around it; name another one"
        )
    hashes = {name: _sha256(text.encode("utf-8")) for name, text in files.items()}
    manifest = json.dumps({"format": FORMAT, "files": hashes}, indent=1) + "\n"
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        _refuse_foreign(folder)
        write_files(part, {**files, MANIFEST: manifest})
        _swap(folder, part)
    except OSError as error:
        raise CompileError(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _swap(folder: Path, part: Path) -> None:
    """Put the new folder in the place of the old."""
    if not folder.exists():
        part.rename(folder)
        return
    former = folder.with_name(f"{part.name}.old")
    folder.rename(former)
    try:
        part.rename(folder)
    except OSError:
        former.rename(folder)
        raise
    shutil.rmtree(former)


def _refuse_foreign(folder: Path) -> None:
    """CompileError unless the folder is absent, empty, or what convc wrote."""
    if not folder.exists():
        return
    found = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if not path.is_dir() and "__pycache__" not in path.parts
    }
    ours = _ours(folder / MANIFEST)
    foreign = [
        name
        for name, path in sorted(found.items())
        if not (ours and name == MANIFEST)
        and ours.get(name) != _sha256(path.read_bytes())
    ]
    if foreign:
        rest = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise CompileError(
            f"{folder}: holds what convc has not written ({', '.join(foreign[:3])}"
            f"{rest}); move it away, or name another folder"
        )


def _ours(manifest: Path) -> dict[str, str]:
    """The files that a manifest names, with their hashes; none if it is no manifest."""
    try:
        body = json.loads(manifest.read_bytes())
        return dict(body["files"]) if body["format"] == FORMAT else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
