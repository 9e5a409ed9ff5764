"""Where a result is kept."""

import json
from collections.abc import Mapping
from pathlib import Path

import click

from convc.files import write_atomically


def keep(path: Path, result: Mapping[str, object]) -> None:
    """Write a result as JSON and say where."""
    write(path, result)
    click.echo(f"written: {path}")


def write(path: Path, result: Mapping[str, object]) -> None:
    """Write a result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(result, indent=2) + "\n").encode("utf-8"))
