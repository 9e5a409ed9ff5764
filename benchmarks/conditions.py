"""What a result was measured with, and where it is kept."""

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from convc.files import write_atomically


def conditions(*packages: str) -> dict[str, object]:
    """The command, the machine and the installed versions of ``packages``."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "machine": _machine(),
        "versions": {name: _version(name) for name in packages},
    }


def keep(path: Path, result: Mapping[str, object]) -> None:
    """Write a result as JSON and say where."""
    write(path, result)
    click.echo(f"written: {path}")


def write(path: Path, result: Mapping[str, object]) -> None:
    """Write a result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(result, indent=2) + "\n").encode("utf-8"))


def _machine() -> dict[str, str]:
    """The processor's name as the system gives it."""
    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text("utf-8").splitlines()
        models = [
            line.split(":", 1)[1] for line in lines if line.startswith("model name")
        ]
        name = models[0].strip() if models else name
    return {
        "cpu": name,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
