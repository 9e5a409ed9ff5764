"""compare prints a table or JSON lines, and its exit code says whether all is well."""

import json

import pytest
from click.testing import CliRunner, Result

from convc import comparing
from convc.cli import main
from convc.comparing import Cell, Row

SMALL = ("--input", "f32[N,8,8,1]", "--threads", "1", "--batch", "4", "--rounds", "1")


def convc(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="convc")


def test_a_table_with_totals_and_who_is_not_there() -> None:
    result = convc("compare", "strided", *SMALL)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "strided, batch 4, 1 thread of the CPU" in lines[0]
    rows = [line.split() for line in lines if "gradient" in line or "forward" in line]
    assert [r[0] for r in rows] == ["conv1", "weight", "logits", "input", "weight"]
    assert any(line.strip().startswith("total") for line in lines)
    assert lines[-1].startswith("not compared: triton: device cuda ")


def test_json_has_a_line_for_each_row_and_one_for_the_end() -> None:
    result = convc("compare", "strided", "--backends", "numpy,torch", "--json", *SMALL)
    assert result.exit_code == 0, result.output
    *rows, last = map(json.loads, result.output.splitlines())
    assert [r["direction"] for r in rows if r["layer"] == "logits"] == [
        "forward",
        "input gradient",
        "weight gradient",
    ]
    assert rows[0]["cells"]["numpy"]["choice"].startswith("im2col")
    assert rows[0]["cells"]["torch"]["units"] <= 1
    assert set(last["totals"]) == {"numpy", "torch"}


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (Cell(1.5, 1e-3), "conv1, forward on numpy: the error is 1.5 times what"),
        (Cell(fault="conv2d is too wide"), "conv1 on numpy failed: conv2d is too wide"),
    ],
)
def test_what_is_wrong_makes_the_exit_code_1(
    cell: Cell, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("conv1", (), "forward", 1, 1, {"numpy": cell}, {}, 0.5)
    monkeypatch.setattr(comparing.Comparison, "rows", lambda self, tell: iter([row]))
    result = convc("compare", "strided", "--backends", "numpy", *SMALL)
    assert result.exit_code == 1
    assert said in result.output


def test_no_backend_at_all_makes_the_exit_code_1() -> None:
    result = convc("compare", "strided", "--backends", "triton", *SMALL)
    assert result.exit_code == 1
    assert "not compared: triton" in result.output


@pytest.mark.parametrize("name", ["tvm", "torch:fast", ""])
def test_an_unknown_backend_is_refused_before_any_work(name: str) -> None:
    result = convc("compare", "strided", "--backends", f"numpy,{name}", *SMALL)
    assert result.exit_code == 1
    assert f"error: unknown backend {name!r}, known: numpy, triton, " in result.output


def test_other_commands_say_where_torch_serves() -> None:
    result = convc("train", "strided", "--backend", "torch")
    assert result.exit_code == 1
    assert "convc compile writes its file, convc compare" in result.output


def test_compile_writes_the_file_for_pytorch(tmp_path) -> None:
    folder = tmp_path / "out"
    result = convc("compile", "two_conv", "--backend", "torch", "-o", str(folder))
    assert result.exit_code == 0, result.output
    training = (folder / "training.py").read_text("utf-8")
    assert "below(" in training  # dropout, with the bits that every backend draws
    assert "below(" not in (folder / "inference.py").read_text("utf-8")
