"""IR text and diffs for a terminal, in colour where there is any."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.text import Text

    from convc.diff import Change
    from convc.ir.graph import Loc
    from convc.ir.lexer import Token

KEYWORDS = frozenset(
    {"graph", "param", "state", "update", "kernel", "yield", "schedule", "arena"}
)
WIDTH = 88
"""The columns that wrapped text takes at the most."""
MOST_BUFFERS = 20
"""Lines that a diff spends on buffers; the others are counted."""


def print_text(text: Text) -> None:
    """Print with styles on a terminal, without anywhere else or with NO_COLOR."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal and not os.environ.get("NO_COLOR"):
        console.print(text, soft_wrap=True, end="")
    else:
        click.echo(text.plain, nl=False)


def columns() -> int:
    """The columns that wrapped text may take: fewer than ``WIDTH`` on a terminal."""
    from rich.console import Console

    console = Console()
    return min(WIDTH, console.width) if console.is_terminal else WIDTH


# -- IR


def ir_text(source: str) -> Text:
    """IR text with its values, ops, types, keywords and locations told apart.

    ``source`` must be IR, or several with comments between them.
    """
    from rich.text import Text

    from convc.ir.lexer import tokenize

    text = Text(source)
    starts = [0]
    for line in source.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
        mark = line.find("#" if line.startswith("#") else "   @ ")
        if mark >= 0:
            text.stylize("dim", starts[-2] + mark, starts[-1] - 1)
    at_line = 0
    tokens = tokenize(source)
    for token, following in pairwise(tokens):
        if token.text == "@":
            at_line = token.line
        style = _style(token, following.text) if token.line != at_line else ""
        if style:
            start = starts[token.line - 1] + token.column - 1
            text.stylize(style, start, start + len(token.text))
    return text


def _style(token: Token, following: str) -> str:
    if token.kind == "value":
        return "cyan"
    if token.kind != "word":
        return ""
    if token.text in KEYWORDS:
        return "magenta"
    return {"(": "bold", "[": "green"}.get(following, "")


# -- diffs

_ABOUT = ("attribute", "operand", "type", "layout")
_HEADS = {
    "input": ("inputs", "yellow"),
    "parameter": ("parameters and state", "yellow"),
    "output": ("outputs", "yellow"),
    "update": ("updates", "yellow"),
    "unfused": ("taken out of kernels", "cyan"),
    "deleted": ("deleted", "red"),
    "added": ("added", "green"),
    "copied": ("computed once more", "green"),
    "moved": ("moved", "yellow"),
    "renamed": ("kernels renamed", "yellow"),
    "schedule": ("schedules", "magenta"),
    "arena": ("memory", "blue"),
    "buffer": ("buffers", "blue"),
}


def diff_text(changes: Sequence[Change]) -> Text:
    """The changes in groups, each with its line of the user's file."""
    from rich.text import Text

    text = Text()
    for kind, members in groupby(changes, key=_group):
        for line, style in _section(kind, list(members)):
            body, mark, loc = line.partition("   @ ")
            text.append(f"  {body}", style)
            text.append(f"{mark}{loc}\n", "dim")
    return text


def _group(change: Change) -> str:
    return "changed" if change.kind in _ABOUT else change.kind


def _section(kind: str, changes: list[Change]) -> Iterator[tuple[str, str]]:
    """The lines of one group with their styles."""
    if kind == "stage":
        yield f"stage: {_sides(changes[0])}", "yellow"
    elif kind == "fused":
        yield from _fused(changes)
    elif kind == "changed":
        yield "changed", "yellow"
        for about in _by(changes, lambda change: change.subject):
            yield from _changed(about)
    else:
        head, style = _HEADS[kind]
        yield head, style
        shown = MOST_BUFFERS if kind == "buffer" else len(changes)
        for change in changes[:shown]:
            yield f"  {_line(change)}{_where(change.locs)}", ""
        if changes[shown:]:
            yield f"  and {len(changes) - shown} more (--json has all)", ""


def _fused(changes: list[Change]) -> Iterator[tuple[str, str]]:
    width = columns() - 4
    for members in _by(changes, lambda change: change.new):
        locs = dict.fromkeys(loc for change in members for loc in change.locs)
        yield f"fused into {members[0].new}{_where(locs)}", "cyan"
        said = ", ".join(
            f"{c.subject} (from {c.old})" if c.old else c.subject for c in members
        )
        glued = said.replace(" ", "\0").replace(
            ",\0", ", "
        )  # keep op and name together
        for line in textwrap.wrap(glued, width):
            yield f"  {line}".replace("\0", " "), ""


def _by(changes: list[Change], key: Callable[[Change], str]) -> list[list[Change]]:
    """The changes grouped, groups in the order in which they begin."""
    groups: dict[str, list[Change]] = {}
    for change in changes:
        groups.setdefault(key(change), []).append(change)
    return list(groups.values())


def _changed(changes: list[Change]) -> Iterator[tuple[str, str]]:
    first = changes[0]
    yield f"  {first.subject}{_inside(first)}{_where(first.locs)}", ""
    for change in changes:
        key = f" {change.key}" if change.kind == "operand" else change.key
        kind = "" if change.kind == "attribute" else change.kind
        yield f"    {kind}{key}: {_sides(change)}", ""


def _line(change: Change) -> str:
    if change.kind == "deleted":
        still = f"; there is {change.new}" if change.new else ""
        return f"{change.subject}{_inside(change)}{still}"
    if change.kind == "added":
        return f"{change.subject}{_inside(change)}"
    if change.kind == "copied":
        return f"{change.old} as {change.new}"
    if change.kind == "unfused":
        return f"{change.subject} from {change.old}"
    if change.kind == "moved":
        return f"{change.subject} {change.new}"
    if change.kind == "schedule":
        key = f" {change.key}" if change.key else ""
        return f"{change.kernel}{key}: {_sides(change)}"
    if change.kind in ("renamed", "arena"):
        return _sides(change)
    return f"{change.subject}: {_sides(change)}"


def _inside(change: Change) -> str:
    said = not change.kernel or change.subject.endswith(f" of {change.kernel}")
    return "" if said else f" in {change.kernel}"


def _sides(change: Change) -> str:
    if change.old and change.new:
        return f"{change.old} -> {change.new}"
    return change.new or f"{change.old} -> nothing"


def _where(locs: Iterable[Loc]) -> str:
    found = "; ".join(str(loc) for loc in locs)
    return f"   @ {found}" if found else ""
