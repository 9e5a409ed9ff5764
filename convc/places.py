"""Where in the user's code something happens, for locations and error messages."""

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from convc.ir.errors import ModelError

# Frames of these modules are never the user's line, even when called by the user.
_MACHINERY = {"convc", "click", "contextlib", "functools", "importlib", "runpy"}


@dataclass(frozen=True)
class Place:
    """A line of the user's code: the file's full path and the line."""

    file: str
    line: int

    @property
    def short(self) -> str:
        """The file relative to the current folder, or its base name."""
        path = Path(self.file)
        if path.is_relative_to(Path.cwd()):
            return path.relative_to(Path.cwd()).as_posix()
        return path.name

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def place_of(code: CodeType, line: int) -> Place:
    """The place of a line of ``code``; what was typed in has a name like <stdin>."""
    file = code.co_filename
    return Place(file if file.startswith("<") else str(Path(file).absolute()), line)


def file_of(function: Callable[..., Any]) -> Path | None:
    """Where a function was written; None for what is no Python function."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return Path(code.co_filename) if code else None


def files_called(name: str, first: Path | None = None) -> Iterator[Path]:
    """The Python files that a location calls ``name``, the likeliest first.

    Only files that were run are looked at: ``first`` and those of loaded modules.
    """
    modules = list(sys.modules.values())  # to ask one may load another
    loaded = [getattr(module, "__file__", None) for module in modules]
    paths = [first, *(Path(file) for file in reversed(loaded) if file)]
    for path in paths:
        if path and path.suffix == ".py" and path.name == Path(name).name:
            full = path.absolute()
            if Place(str(full), 1).short == name:
                yield full


def here(until: CodeType | None = None) -> Place | None:
    """The innermost line of the user's code that is being run.

    With ``until`` only the calls made by that code count. None if there is no line.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not until:
        if _users(frame):
            return place_of(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return None


def _users(frame: FrameType) -> bool:
    """Whether a frame runs code of the user: what is built in counts as theirs."""
    module = str(frame.f_globals.get("__name__"))
    if module == "convc.networks" or module.startswith("convc.examples."):
        return True
    names = {module, str(frame.f_globals.get("__package__"))}
    roots = {name.partition(".")[0] for name in names}
    program = module == "__main__" and Path(frame.f_code.co_filename).stem == "convc"
    return not program and not roots & _MACHINERY


def mistake(message: str, layer: str = "", place: Place | None = None) -> ModelError:
    """A ModelError for ``message`` that names the layer and the user's line."""
    lines = [message]
    if layer:
        lines.append(f"in layer {layer}")
    if place := place or here():
        lines.append(f"at {place}")
    return ModelError("\n  ".join(lines))
