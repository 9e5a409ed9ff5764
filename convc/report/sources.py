"""The user's lines that a program comes from, read for people who look at it."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

from convc.places import files_called

Excerpt = list[tuple[int, str]]
"""Lines with their numbers from 1; a gap in the numbers is a gap in the text."""

_AROUND = 2


def excerpts(
    used: Mapping[str, Iterable[int]], first: Path | None = None
) -> dict[str, Excerpt]:
    """The functions around the lines that are used of each file.

    Files are named as locations name them. Only files that were run as Python are
    read: ``first`` and those of the modules that are loaded. One that is not among
    them, cannot be read or is shorter than its lines say has an empty excerpt.
    """
    return {file: _excerpt(file, set(lines), first) for file, lines in used.items()}


def _excerpt(file: str, lines: set[int], first: Path | None) -> Excerpt:
    for path in files_called(file, first):
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        rows = text.splitlines()
        if max(lines) <= len(rows):
            shown = sorted(_around(text, lines) & set(range(1, len(rows) + 1)))
            return [(number, rows[number - 1]) for number in shown]
    return []


def _around(text: str, lines: set[int]) -> set[int]:
    """The lines of the outermost functions that hold ``lines``, else a few around."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        body = []
    spans = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    shown: set[int] = set()
    for line in lines:
        near = (line - _AROUND, line + _AROUND)
        first, last = next((s for s in spans if s[0] <= line <= s[1]), near)
        shown.update(range(first, last + 1))
    return shown
