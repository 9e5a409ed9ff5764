"""What README.md shows is so."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from convc.cli import main
from convc.model import Model
from convc.networks import two_conv
from convc.pipeline import Step

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a kind, "" for those without one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for found, text in fenced if found == kind]


def bare(line: str) -> str:
    """A line without the folder in which the networks' file lies."""
    return re.sub(r"[^\s(]*networks", "networks", line)


def test_the_model_compiles_as_it_stands() -> None:
    (source,) = (block for block in blocks("python") if "import convc" in block)
    names: dict[str, object] = {}
    exec(compile(source, "README.md", "exec"), names)
    assert hasattr(names["program"], "source")


@pytest.mark.parametrize(
    ("opening", "step"),
    [("graph two_conv", "training"), ("  %4 = kernel conv1", "inference")],
)
def test_the_ir_is_what_the_compiler_prints(opening: str, step: str) -> None:
    """But for the lines left out, and for where the kernels lie in the file."""
    (shown,) = (block for block in blocks("") if block.startswith(opening))
    model = Model(two_conv)
    chosen: Step = model.training_step() if step == "training" else model.inference()
    stages = chosen.stages(batch=128, threads=2)
    printed = stages[0 if step == "training" else -1].text
    code = re.compile(r"   @ .*")
    known = {code.sub("", line) for line in printed.splitlines()}
    lines = [code.sub("", x) for x in shown.splitlines() if x.strip() != "…"]
    assert [line for line in lines if line not in known] == []


def test_the_emitted_kernel_is_shown_whole() -> None:
    (shown,) = (block for block in blocks("python") if block.startswith("def conv1"))
    program = Model(two_conv).inference().compile(batch=128, threads=2)
    (place,) = (k for k in program.kernels if k.function.startswith("conv1"))
    lines = program.source.splitlines()[place.first - 1 : place.last]
    assert shown.splitlines() == [bare(line) for line in lines]


def test_training_prints_the_memory_that_is_shown() -> None:
    (block,) = (b for b in blocks("") if b.startswith("$ convc train"))
    model = Model(two_conv)
    steps = {"training": model.training_step(), "testing": model.evaluation_step()}
    printed = [
        f"{name} {step.compile(batch=128, threads=2).memory}"
        for name, step in steps.items()
    ]
    assert block.splitlines()[1:3] == printed


def test_a_layer_is_explained_as_shown() -> None:
    """Line by line, but for those left out and where the network's file lies."""
    (block,) = (b for b in blocks("") if b.startswith("$ convc explain"))
    command, *shown = block.splitlines()
    words = [*command.split()[2:], "--no-measure"]
    printed = CliRunner().invoke(main, words).output.splitlines()
    known = {bare(line) for line in printed}
    assert [line for line in shown if line != "…" and line not in known] == []


def test_recorded_races_are_shown_as_they_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The table of each result, and the picture that its command draws."""
    monkeypatch.chdir(ROOT)
    shown = [b for b in blocks("") if b.startswith("$ convc bench --read")]
    assert shown
    for block in shown:
        command, *lines = block.splitlines()
        words = shlex.split(command.removeprefix("$ convc "))
        if "--plot" in words:
            at = words.index("--plot") + 1
            picture, words[at] = ROOT / words[at], str(tmp_path / "bench.svg")
            assert picture.is_file()
            assert f"]({picture.relative_to(ROOT).as_posix()})" in README
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 0
        printed = [line.rstrip() for line in result.output.splitlines()]
        assert [x for x in lines if x != "…" and x.rstrip() not in printed] == []


def test_every_command_and_option_exists() -> None:
    text = "".join(blocks(""))
    shown = re.findall(r"^(?:\$ )?convc (\w+)", text, re.MULTILINE)
    assert set(shown) == set(main.commands)
    options = {
        option
        for command in main.commands.values()
        for parameter in command.params
        for option in parameter.opts
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= options | {"--help"}
