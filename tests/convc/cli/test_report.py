"""report writes a page, whole or not at all."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convc.cli import main


def convc(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="convc")
    assert result.exit_code in (0, 1), result.output
    return result


SMALL = ("--batch", "2", "--threads", "1")


@pytest.mark.parametrize("step", ["training", "inference", "evaluation"])
def test_it_writes_one_page(tmp_path: Path, step: str) -> None:
    page = tmp_path / "report.html"
    options = ("--step", step, "--no-measure", *SMALL)
    result = convc("report", "strided", "-o", page, *options)
    assert result.exit_code == 0, result.output
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert f"<title>strided, {step}" in page.read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert result.stdout.startswith(f"{page}: ")


def test_measuring_puts_times_and_peaks_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    page = tmp_path / "report.html"
    assert convc("report", "strided", "-o", page, *SMALL).exit_code == 0
    text = page.read_text("utf-8")
    assert '"measured":null' not in text
    assert '"peaks":{"gemm"' in text


def test_a_page_is_replaced_whole(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("old")
    convc("report", "strided", "-o", page, "--no-measure", *SMALL)
    assert "old" not in page.read_text("utf-8")[:9]


def test_a_page_that_cannot_be_written_is_an_error_in_one_line(tmp_path: Path) -> None:
    page = tmp_path / "absent" / "report.html"
    result = convc("report", "strided", "-o", page, "--no-measure", *SMALL)
    assert result.exit_code == 1
    assert f"error: {page}: cannot be written: " in result.output
    assert not page.parent.exists()


def test_a_network_that_does_not_compile_leaves_the_old_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("old")
    result = convc("report", "nothing", "-o", page, "--no-measure", *SMALL)
    assert result.exit_code == 1
    assert page.read_text() == "old"
