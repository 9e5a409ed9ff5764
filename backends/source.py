"""What all emitters share: a writer of lines, and names that are safe in source."""

import re
from collections.abc import Sequence

from convc.ir.graph import Loc

LINE = 88


class Writer:
    """Collects indented lines of source."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, *lines: str) -> None:
        """Append lines at the present depth (an empty one stays empty)."""
        for line in lines:
            self.lines.append("    " * self.depth + line if line else "")

    def block(self, *lines: str) -> None:
        """Append lines that are already indented relative to the present depth."""
        for text in lines:
            for line in text.strip("\n").split("\n"):
                self(line.rstrip()) if line.strip() else self("")

    def steps(self, *calls: str) -> None:
        """Append calls ``f(x, out=y)`` as parts of a step: ``yield call(f, x, out=y)``.

        Lines that open a loop or are comments are taken as they are.
        """
        for line in calls:
            text = line.lstrip()
            indent = line[: len(line) - len(text)]
            if text.startswith(("for ", "#")):
                self(line)
                continue
            function, _, arguments = text.partition("(")
            parts = split_arguments(arguments.removesuffix(")"))
            self.call(f"{indent}yield call(", [function, *parts])

    def call(self, head: str, arguments: list[str], tail: str = ")") -> None:
        """``head`` followed by arguments, one a line where a line is too short."""
        flat = head + ", ".join(arguments) + tail
        if len(flat) + 4 * self.depth <= LINE:
            self(flat)
            return
        indent = " " * (len(head) - len(head.lstrip()))
        inside = f"{indent}    {', '.join(arguments)}"
        self(head)
        if len(inside) + 4 * self.depth <= LINE:
            self(inside)
        else:
            self(*(f"{indent}    {argument}," for argument in arguments))
        self(indent + tail)


def split_arguments(text: str) -> list[str]:
    """The arguments in ``text``, cut at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def comment(text: str) -> str:
    """``text`` made safe for a comment or docstring: one line of plain characters."""
    return re.sub(r"[^A-Za-z0-9_ .,:;/()\[\]{}=+*@<>%-]", "?", text)


def listed(locs: Sequence[Loc]) -> str:
    """``model.py:4 conv1, 5 pool1``: a file is named once."""
    parts, file = [], None
    for loc in locs:
        line = f"{loc.line} {loc.layer}".strip()
        parts.append(line if loc.file == file else f"{loc.file}:{line}")
        file = loc.file
    return ", ".join(parts)


def identifier(text: str) -> str:
    """``text`` as part of a Python name: letters, digits and underscores, short."""
    return re.sub(r"[^A-Za-z0-9_]", "_", text)[:60]


def wrapped(line: str, width: int = LINE) -> list[str]:
    """A statement as lines no wider than may be, cut at the commas of its last call."""
    indent = line[: len(line) - len(line.lstrip())]
    if len(line) <= width or line.lstrip().startswith("#") or "(" not in line:
        return [line]
    name, _, terms = line.strip().partition(" = ")
    if " & " in terms and _closing(terms, terms.index("(")) < len(terms) - 1:
        first, *rest = terms.split(" & ")
        listed = [first, *(f"& {term}" for term in rest)]
        return [
            f"{indent}{name} = (",
            *(f"{indent}    {term}" for term in listed),
            f"{indent})",
        ]
    opening = line.index("(")
    closing = _closing(line, opening)
    head, inside, tail = (
        line[: opening + 1],
        line[opening + 1 : closing],
        line[closing:],
    )
    together = f"{indent}    {inside.strip()}"
    if len(together) <= width:
        return [head, together, indent + tail]
    parts = split_arguments(inside)
    if len(parts) == 1:
        return [head, *wrapped(together, width), indent + tail]
    lines = [row for part in parts for row in wrapped(f"{indent}    {part},", width)]
    return [head, *lines, indent + tail]


def _closing(line: str, opening: int) -> int:
    """Where the bracket at ``opening`` is closed."""
    depth = 0
    for at in range(opening, len(line)):
        depth += (line[at] in "([{") - (line[at] in ")]}")
        if not depth:
            return at
    return len(line)
