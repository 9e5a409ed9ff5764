"""What docs/architecture.md shows is what its commands print."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from convc.cli import main

TEXT = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
(MODEL,) = (block for kind, block in BLOCKS if kind == "python")
SHOWN = [block for _, block in BLOCKS if block.startswith("$ ")]


def printed(command: str) -> str:
    """What a command of the page prints; it must succeed."""
    program, *words = command.split()
    if program == "cat":
        return Path(*words).read_text("utf-8")
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.split("\n")[0])
def test_a_command_prints_what_is_shown(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line by line in this order; an ellipsis stands for any number of lines."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL, "utf-8")
    *_, output = map(printed, re.findall(r"^\$ (.*)", block, re.MULTILINE))
    shown = re.sub(r"^\$ .*\n", "", block, flags=re.MULTILINE)
    parts = re.split(r"^ *…\n", shown, flags=re.MULTILINE)
    pattern = "(?:.*\n)*?".join(map(re.escape, parts))
    assert re.fullmatch(pattern, output), output
