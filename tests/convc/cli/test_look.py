"""summary and compile print and write what the compiler made."""

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convc.cli import main
from convc.model import Model
from convc.networks import strided


def convc(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="convc")
    assert result.exit_code in (0, 1), result.output
    return result


SMALL = ("--batch", "4", "--threads", "1")


def test_summary_prints_layers_and_totals() -> None:
    lines = convc("summary", "strided").stdout.splitlines()
    assert lines[:3] == str(Model(strided).summary()).splitlines()[:3]
    assert any(line.startswith("conv1 (conv2d)") for line in lines)


def test_summary_takes_other_images() -> None:
    result = convc("summary", "strided", "--input", "f32[N,14,14,3]")
    assert "f32[N,7,7,16]" in result.stdout


def test_sizes_are_derived_below_the_table_when_asked_for() -> None:
    plain, more = (convc("summary", "strided", *o).stdout for o in ((), ("--sizes",)))
    assert more == f"{plain}\n{Model(strided).summary().sizes()}\n"
    assert "conv1   (28 - 5 + 1 + 2)/2 + 1 = 14\n" in more


def test_summary_of_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import convc.layers as cc\n\n"
        "def net(image):\n"
        "    return cc.dense(cc.flatten(image), 10, name='out')\n"
    )
    assert "out (dense)" in convc("summary", f"{file}:net").stdout


@pytest.mark.parametrize("command", ["show", "compile"])
def test_an_unknown_backend_is_an_error(tmp_path: Path, command: str) -> None:
    output = ("-o", tmp_path / "out") if command == "compile" else ()
    result = convc(command, "strided", "--backend", "abacus", *output)
    assert result.exit_code == 1
    assert "abacus" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_compile_writes_both_programs_their_ir_and_memory(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = convc("compile", "strided", "-o", out, *SMALL)
    assert result.exit_code == 0, result.stderr
    expected = Model(strided).training_step().compile(batch=4, threads=1)
    assert (out / "training.py").read_text("utf-8") == expected.source
    for number, stage in enumerate(expected.stages):
        file = out / "training.ir" / f"{number:02d}-{stage.name}.ir"
        assert file.read_text("utf-8") == stage.text
    memory = (out / "training.memory.txt").read_text("utf-8")
    assert memory.startswith(str(expected.memory))
    assert memory.splitlines()[1] == expected.memory.peak
    assert len(memory.splitlines()) == 4 + expected.memory.buffers
    assert str(expected.memory) in result.stdout
    assert (out / "inference.py").exists()


def test_the_written_program_runs_by_itself(tmp_path: Path) -> None:
    convc("compile", "strided", "-o", tmp_path / "out", "--step", "inference", *SMALL)
    assert "Program" in runpy.run_path(str(tmp_path / "out" / "inference.py"))


def test_compile_checks_every_pass_if_asked(tmp_path: Path) -> None:
    arguments = ("--step", "evaluation", "--check")
    result = convc("compile", "strided", "-o", tmp_path / "out", *arguments, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out" / "evaluation.py").exists()
