"""The user's functions are read from the files that were run, and from no others."""

import sys
from pathlib import Path

import pytest

from convc import networks
from convc.report.sources import excerpts

TEXT = '''import convc as cc

RATE = 0.5


def other():
    return 1


def net(image):
    """A network."""
    return cc.dense(image, 10)
'''


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.py"
    path.write_text(TEXT)
    return path


def test_the_function_around_a_line_is_shown_with_its_numbers(file: Path) -> None:
    shown = excerpts({"net.py": [12]}, file)["net.py"]
    assert shown == list(enumerate(TEXT.splitlines(), start=1))[9:]


def test_a_line_outside_of_functions_is_shown_with_its_neighbours(file: Path) -> None:
    assert [n for n, _ in excerpts({"net.py": [3]}, file)["net.py"]] == [1, 2, 3, 4, 5]


def test_a_gap_between_functions_is_a_gap_in_the_numbers(file: Path) -> None:
    shown = excerpts({"net.py": [7, 12]}, file)["net.py"]
    assert [n for n, _ in shown] == [6, 7, 10, 11, 12]


def test_files_of_loaded_modules_are_found() -> None:
    used = {f"{Path(networks.__file__).name}": [20]}
    if Path(networks.__file__).is_relative_to(Path.cwd()):
        used = {Path(networks.__file__).relative_to(Path.cwd()).as_posix(): [20]}
    (shown,) = excerpts(used).values()
    assert shown[0][1].startswith("def ")


@pytest.mark.parametrize("name", ["other.py", "../net.py", "/etc/passwd", "notes.txt"])
def test_a_file_that_was_not_run_is_not_read(file: Path, name: str) -> None:
    (file.parent / "other.py").write_text(TEXT)
    (file.parent / "notes.txt").write_text(TEXT)
    assert excerpts({name: [1]}, file) == {name: []}


def test_a_file_that_is_gone_or_too_short_has_no_lines(file: Path) -> None:
    assert excerpts({"net.py": [99]}, file) == {"net.py": []}
    file.unlink()
    assert excerpts({"net.py": [12]}, file) == {"net.py": []}


def test_what_is_no_python_any_more_is_shown_by_lines(file: Path) -> None:
    file.write_text("def net(:\n" * 9)
    assert [n for n, _ in excerpts({"net.py": [1]}, file)["net.py"]] == [1, 2, 3]


def test_a_module_whose_file_is_none_does_no_harm(file: Path) -> None:
    assert any(getattr(m, "__file__", None) is None for m in sys.modules.values())
    assert excerpts({"net.py": [12]}, file)["net.py"]
