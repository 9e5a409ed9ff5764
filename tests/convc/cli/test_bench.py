"""bench prints tables, keeps and reads results, draws them; mistakes are refused."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convc.cli import main

ONE = ("--input", "f32[N,8,8,1]", "--threads", "1", "--rounds", "2", "--training", "")
FEW = (*ONE, "--inference", "2", "--against", "numpy,torch")


def convc(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="convc")


def test_a_race_is_shown_kept_read_and_drawn(tmp_path: Path) -> None:
    kept, svg, png = (tmp_path / name for name in ("b.json", "b.svg", "b.png"))
    made = convc("bench", "strided", *FEW, "-o", str(kept), "--plot", str(svg))
    assert made.exit_code == 0, made.output
    lines = made.output.splitlines()
    assert lines[0].strip() == "strided inference, batch 2"
    assert {line.split()[0] for line in lines[3:5]} == {"numpy", "torch"}
    overview = next(x for x in lines[5:] if "strided inference, batch 2" in x)
    assert {"numpy", "torch"} <= set(overview.split())
    assert f"written: {kept}" in lines
    read = convc("bench", "--read", str(kept), "--plot", str(png))
    assert read.exit_code == 0, read.output
    assert read.output.splitlines()[:5] == lines[:5]
    assert svg.read_text("utf-8").startswith("<?xml")
    assert png.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.svg"
    convc("bench", "--read", str(kept), "--plot", str(again))
    assert again.read_bytes() == svg.read_bytes()


def test_who_is_not_installed_is_skipped_by_name() -> None:
    result = convc(
        "bench", "strided", *ONE, "--inference", "1", "--against", "triton,numpy"
    )
    assert result.exit_code == 0, result.output
    assert "skipped: triton: device cuda" in result.output


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("--against", "tvm"), "error: nobody is called 'tvm'; there are numpy,", 1),
        (("--inference", "0"), "is no list of batch sizes such as 1,128", 2),
        (("--inference", "a"), "is no list of batch sizes such as 1,128", 2),
        (("--inference", ""), "nothing to race", 2),
    ],
)
def test_mistakes_are_refused(arguments: tuple[str, str], said: str, code: int) -> None:
    result = convc("bench", "strided", *ONE, *arguments)
    assert result.exit_code == code
    assert said in result.output


def test_a_model_that_is_none_is_refused_before_the_race() -> None:
    result = convc("bench", "two_conf", *FEW)
    assert result.exit_code == 1
    assert "no network is called 'two_conf'" in result.output


def test_another_format_of_pictures_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "b.json"
    convc("bench", "strided", *FEW, "-o", str(kept))
    result = convc("bench", "--read", str(kept), "--plot", str(tmp_path / "b.docx"))
    assert result.exit_code == 1
    assert "name it .svg or .png" in result.output
