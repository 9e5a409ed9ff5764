"""Writes the page: template, style, scripts and record in one file that needs no other.

Nothing of the record is markup. It lies in a script element of type application/json,
in which no character remains that could end it, and the scripts put text into the page
as text. Beyond that the page's own policy lets no other script or style run and
nothing be fetched.
"""

import json
from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files

from convc.report.data import Record

SCRIPTS = ("base", "layout", "graph", "dock", "memory", "kernels", "page")
"""The page's scripts in the order in which they are read; each may use those before."""


def render(record: Record) -> str:
    """The page that shows a record."""
    style = _part("page.css")
    script = '"use strict";\n' + "\n".join(_part(f"{name}.js") for name in SCRIPTS)
    head = record["head"]
    title = escape(f"{head['model']}, {head['step']}: convc report")
    slots = {
        "title": title,
        "policy": _policy(style, script),
        "style": style,
        "record": embedded(record),
        "script": script,
    }
    page = _part("page.html")
    parts = page.split("{{")
    filled = [
        slots[name] + rest for name, rest in (p.split("}}", 1) for p in parts[1:])
    ]
    return parts[0] + "".join(filled)


def embedded(record: Record) -> str:
    """A record as JSON that may stand in a script element.

    Only the characters <, > and & can end or open anything in HTML; written as
    escapes they mean the same to JSON.
    """
    text = json.dumps(record, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(style: str, script: str) -> str:
    """Only this style and this script, and nothing from anywhere else."""
    rules = (
        "default-src 'none'",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(script)}'",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode("utf-8")).digest()).decode("ascii")


def _part(name: str) -> str:
    return files("convc.report").joinpath(name).read_text("utf-8")
