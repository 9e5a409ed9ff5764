"""Tokens of IR text, with their places for error messages."""

import re
from typing import NamedTuple

from convc.ir.errors import IRSyntaxError

MAX_TEXT = 4 * 2**20
"""Longest accepted text in characters."""
MAX_DIGITS = 18

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*)
    |(?P<value>%[A-Za-z0-9_.][A-Za-z0-9_./!-]{0,250})
    |(?P<arrow>->)
    |(?P<float>-?[0-9]+(?:\.[0-9]*(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+))
    |(?P<int>-?[0-9]+)
    |(?P<string>"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+")
    |(?P<word>[A-Za-z_./][A-Za-z0-9_./-]*)
    |(?P<punct>[(){}\[\],:;=@])""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A piece of text: its kind, its spelling, and where it starts (from 1)."""

    kind: str
    text: str
    line: int
    column: int


def tokenize(source: str) -> list[Token]:
    """The tokens of ``source`` and a final ``end``.

    IRSyntaxError at the first character that starts none.
    """
    if len(source) > MAX_TEXT:
        reason = f"IR text has at most {MAX_TEXT} characters, this has {len(source)}"
        raise IRSyntaxError(reason, "", 1, 1)
    tokens: list[Token] = []
    line, start, position = 1, 0, 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        column = position - start + 1
        if match is None or match.lastgroup is None:
            reason = f"unexpected character {source[position]!r}"
            if source[position] == '"':
                reason = "a quoted string must end on its line"
            raise IRSyntaxError(reason, source, line, column)
        text = match.group()
        if match.lastgroup == "int" and len(text) > MAX_DIGITS:
            reason = f"an integer has at most {MAX_DIGITS} digits"
            raise IRSyntaxError(reason, source, line, column)
        if match.lastgroup != "space":
            tokens.append(Token(match.lastgroup, text, line, column))
        elif "\n" in text:
            line += text.count("\n")
            start = match.start() + text.rindex("\n") + 1
        position = match.end()
    tokens.append(Token("end", "end of text", line, position - start + 1))
    return tokens
