"""What the pages of docs/ show is what their commands print.

A page's Python blocks that begin with ``# name.py`` are files in an empty folder, and
its blocks that begin with ``$`` are typed there in order. An ellipsis alone on a line
stands for any lines, one within a line for any characters; ``$ echo $?`` shows the exit
code of a command that fails.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from convc.cli import main

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"\$ (?:[A-Z_]+=\S+ )*convc (\w+)")
"""A line in which a page runs a command of convc."""


def blocks_of(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page with their kinds."""
    return FENCE.findall((DOCS / page).read_text("utf-8"))


PAGES = sorted(
    path.name
    for path in DOCS.glob("*.md")
    if any(block.startswith("$ ") for _, block in blocks_of(path.name))
)


class Shell:
    """Does what a page types, as far as pages do."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.code = 0

    def type(self, line: str) -> str:
        """What a line prints."""
        if line == "echo $?":
            said, self.code = f"{self.code}\n", 0  # the echo itself succeeds
            return said
        words = shlex.split(line)
        with self.patch.context() as patch:
            while re.fullmatch(r"[A-Z_]+=.*", words[0]):
                patch.setenv(*words.pop(0).split("=", 1))
            return self._run(words)

    def _run(self, words: list[str]) -> str:
        program, *rest = words
        if program == "cat":
            return "".join(Path(name).read_text("utf-8") for name in rest)
        if program == "ls":
            return "".join(f"{p.name}\n" for p in sorted(Path(*rest).iterdir()))
        if program == "python":
            done = subprocess.run(
                [sys.executable, *rest], capture_output=True, text=True, check=False
            )
            self.code = done.returncode
            return done.stdout + done.stderr
        assert program == "convc", f"a page cannot type {program}"
        result = CliRunner().invoke(main, rest, catch_exceptions=False)
        self.code = result.exit_code
        return result.output


def pattern_of(shown: str) -> str:
    """A regular expression for the output that a page shows."""
    parts = re.split(r"^ *…\n", shown, flags=re.MULTILINE)
    lines = (".*?".join(map(re.escape, part.split("…"))) for part in parts)
    return "(?:.*\n)*?".join(lines)


@pytest.mark.parametrize("page", PAGES)
def test_commands_print_what_is_shown(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("CONVC_DATA", "CONVC_CIFAR10"):  # the pages are written without
        monkeypatch.delenv(variable, raising=False)
    shell = Shell(monkeypatch)
    for kind, block in blocks_of(page):
        named = re.match(r"# (\S+\.py)\n", block)
        if kind == "python" and named:
            Path(named.group(1)).write_text(block, "utf-8")
        elif block.startswith("$ "):
            _type_all(shell, block)


def _type_all(shell: Shell, block: str) -> None:
    """Type each command of a block and compare what it prints with what follows it."""
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.M):
        output = shell.type(command)
        said = f"$ {command}\n{output}"
        if shown or command.startswith("echo"):
            assert re.fullmatch(pattern_of(shown), output), said
        explained = re.search(rf"\$ {re.escape(command)}\n[^$]*\$ echo \$\?", block)
        assert shell.code == 0 or explained, said


def test_every_command_is_typed_on_a_page() -> None:
    lines = [
        line
        for page in PAGES
        for _, block in blocks_of(page)
        for line in block.splitlines()
    ]
    typed = {m.group(1) for line in lines if (m := TYPED.match(line))}
    assert typed == set(main.commands)


def test_there_are_pages_and_an_ellipsis_is_no_licence() -> None:
    assert "architecture.md" in PAGES
    pattern = pattern_of("a …\n  …\nb 1\n")
    assert re.fullmatch(pattern, "a 12 ms\nmore\nb 1\n")
    assert not re.fullmatch(pattern, "a 12 ms\nmore\nb 2\n")
