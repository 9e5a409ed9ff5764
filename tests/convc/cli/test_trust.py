"""bisect and audit print what they found, and their exit code says it too."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convc.cli import main
from convc.ir.ops import OPS
from convc.model import Model
from convc.networks import strided

SMALL = ("--input", "f32[N,8,8,1]", "--threads", "1")
Patch = pytest.MonkeyPatch


def convc(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="convc")


@pytest.mark.parametrize("step", ["training", "evaluation", "inference"])
def test_bisect_says_what_it_compared(step: str) -> None:
    result = convc("bisect", "strided", "--batch", "4", "--step", step, *SMALL)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "no difference"
    assert ("gradient rules" in lines[1]) == (step == "training")
    assert lines[-2].endswith(" passes, each with the graph before it")
    assert " kernels with the reference, on " in lines[-1]


def test_bisect_writes_its_repro_where_it_is_told(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        type(OPS["relu"]), "gradient", lambda self, b, node, dy: [b("negate", dy)]
    )
    printed = convc("bisect", "strided", "--batch", "4", *SMALL)
    assert printed.exit_code == 1
    assert printed.output.startswith("gradient rule relu\n  op      relu\n")
    assert not list(tmp_path.iterdir())
    written = convc("bisect", "strided", "--batch", "4", *SMALL, "-o", "repro.py")
    assert written.exit_code == 1
    assert written.output.endswith("\n  repro   repro.py\n")
    assert [p.name for p in tmp_path.iterdir()] == ["repro.py"]
    assert printed.output.endswith(Path("repro.py").read_text("utf-8"))


def test_bisect_compares_two_stages(tmp_path: Path) -> None:
    text = Model(strided).inference().stages(batch=4)[-4].text
    one, other = tmp_path / "one.ir", tmp_path / "other.ir"
    one.write_text(text)
    other.write_text(text.replace("relu(", "tanh("))
    same = convc("bisect", one, one)
    assert same.exit_code == 0
    assert same.output.startswith("no difference: equal on ")
    parted = convc("bisect", one, other)
    assert parted.exit_code == 1
    assert parted.output.startswith("graph strided\n  op ")


def test_audit_prints_a_row_for_each_comparison() -> None:
    result = convc("audit", "strided", *SMALL)
    assert result.exit_code == 0
    assert "conv1/biases" in result.output
    assert result.output.endswith("comparisons, all within what rounding allows\n")
    rows = [
        json.loads(line)
        for line in convc("audit", "strided", *SMALL, "--json").output.splitlines()
    ]
    assert {row["test"] for row in rows} == {"adjoint", "differences"}
    assert all(row["ok"] and row["error"] <= row["bound"] for row in rows)


def test_audit_fails_where_a_gradient_is_wrong(monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        type(OPS["relu"]), "gradient", lambda self, b, node, dy: [b("negate", dy)]
    )
    result = convc("audit", "strided", *SMALL)
    assert result.exit_code == 1
    assert "wrong" in result.output.splitlines()[-1]
