"""report writes a page, whole or not at all."""

import os
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


def test_a_page_that_has_no_place_is_refused_before_any_work(tmp_path: Path) -> None:
    absent = tmp_path / "absent" / "report.html"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for page, why in (
        (absent, f"there is no folder {absent.parent}"),
        (pipe, "what is there is not a file"),
        (Path(), "what is there is not a file"),
    ):
        given = "" if page == Path() else page
        result = convc("report", "nothing", "-o", given, "--no-measure", *SMALL)
        assert result.exit_code == 1
        assert result.output == f"error: {page}: cannot be written: {why}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]
    assert pipe.is_fifo()


def test_a_folder_that_may_not_be_written_to_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    page = tmp_path / "report.html"
    result = convc("report", "nothing", "-o", page, "--no-measure", *SMALL)
    assert f"the folder {tmp_path} may not be written to" in result.output


def test_a_disk_that_is_full_leaves_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    page = tmp_path / "report.html"
    page.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    result = convc("report", "strided", "-o", page, "--no-measure", *SMALL)
    assert (
        result.output == f"error: {page}: cannot be written: No space left on device\n"
    )
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [
        ("report.html", b"old")
    ]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    page, link = tmp_path / "page.html", tmp_path / "latest.html"
    link.symlink_to(page)
    convc("report", "strided", "-o", link, "--no-measure", *SMALL)
    assert link.is_symlink()
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_a_network_that_does_not_compile_leaves_the_old_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("old")
    result = convc("report", "nothing", "-o", page, "--no-measure", *SMALL)
    assert result.exit_code == 1
    assert page.read_text() == "old"
