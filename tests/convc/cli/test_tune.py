"""``convc tune`` measures, tells, and writes down what the other commands then use."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convc import tuning
from convc.backends.cpu.dense import Dense
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.cli import main
from convc.lockfile import VARIABLE, read_lockfile
from convc.program import Program

NET = """
import convc as cc


def net(image):
    x = cc.dense(cc.flatten(image), 6, activation="relu", name="one")
    return cc.dense(x, 3, name="two")
"""
SMALL = ("--input", "f32[N,4,4,1]", "--batch", "8", "--threads", "2")


def convc(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="convc")


def tune(*arguments: str | Path) -> Result:
    return convc("tune", "net.py", "--step", "inference", *SMALL, *arguments)


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A folder with a network, and a clock to which later candidates are faster."""
    asked: list[str] = []

    def fake(programs: Sequence[Program], node: str, rounds: int) -> list[float]:
        asked.append(programs[0].graph.name)
        return [0.1 / (i + 1) for i in range(len(programs))]

    monkeypatch.setattr(tuning, "measure", fake)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET, "utf-8")
    return asked


def test_the_table_has_every_candidate_and_the_file_every_winner(
    asked: list[str],
) -> None:
    result = tune()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if "one_dense_bias_relu" in line)
    first, second = lines[at + 1 : at + 3]
    assert first.split()[-4:] == ["100.000", "ms", "predicted", "fastest"]
    assert second.split()[-3:] == ["50.000", "ms", "fastest"]
    assert {line.split()[0] for line in (first, second)} == {
        "gemm_rows",
        "gemm_columns",
    }
    counts, choice, written = lines[-3:]
    assert counts.startswith("2 kernels measured, 0 known from convc.lock, ")
    assert choice == (
        "the cost model's choice is the fastest of 0 of 2 kernels, at worst 2.00 times "
        "the fastest"
    )
    assert written == "written: convc.lock"
    assert asked == ["one_dense_bias_relu", "two_dense_bias"]
    found = read_lockfile("convc.lock").values()
    assert {m.seconds for e in found for m in e.measured} == {0.1, 0.05}
    assert {e.rounds for e in found} == {7}


def test_what_is_known_is_not_measured_again_unless_asked_for(
    asked: list[str],
) -> None:
    tune("--rounds", "3")
    before = Path("convc.lock").read_bytes()
    del asked[:]
    result = tune("--rounds", "3")
    assert "0 kernels measured, 2 known from convc.lock" in result.stdout
    assert "written" not in result.stdout
    assert asked == []
    assert Path("convc.lock").read_bytes() == before
    assert "2 kernels measured" in tune("--rounds", "4").stdout
    assert "2 kernels measured" in tune("--rounds", "1", "--again").stdout
    assert {e.rounds for e in read_lockfile("convc.lock").values()} == {1}


def test_the_other_commands_take_the_measured_schedules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def schedules(*arguments: str) -> list[str]:
        show = ("show", "net.py", "--step", "inference", "--after", "choose-schedule")
        result = convc(*show, *SMALL, *arguments)
        assert result.exit_code == 0, result.output
        return [s for s in ("gemm_rows", "gemm_columns") if s in result.stdout]

    predicted = schedules()
    tune("--lockfile", "other.lock")
    assert schedules() == predicted
    measured = schedules("--lockfile", "other.lock")
    assert measured != predicted
    monkeypatch.setenv(VARIABLE, "other.lock")
    assert schedules() == measured
    monkeypatch.delenv(VARIABLE)
    tune()
    assert schedules() == measured
    monkeypatch.setenv(VARIABLE, "")
    assert schedules() == predicted


def test_a_named_lockfile_must_exist_to_be_read_but_not_to_be_tuned() -> None:
    result = convc("show", "net.py", *SMALL, "--lockfile", "nowhere")
    assert result.exit_code == 1
    assert "there is no lockfile nowhere; convc tune --lockfile" in result.stderr
    assert tune("--lockfile", "nowhere").exit_code == 0
    assert Path("nowhere").exists()


def test_a_damaged_lockfile_is_reported_before_anything_is_measured(
    asked: list[str],
) -> None:
    Path("convc.lock").write_text("oops\n")
    result = tune()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: convc.lock:1: not an entry")
    assert asked == []
    assert Path("convc.lock").read_text() == "oops\n"


def test_a_lockfile_that_cannot_be_kept_stops_before_anything_is_measured(
    asked: list[str],
) -> None:
    Path("convc.lock").write_text("oops\n")
    assert "convc.lock:1: not an entry" in tune("--again").stderr
    Path(".other.guard").mkdir()
    result = tune("--lockfile", "other")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: other: cannot be written: ")
    assert asked == []


def test_after_an_interruption_what_was_measured_is_kept(
    monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    measure = tuning.measure

    def interrupted(programs: Sequence[Program], node: str, rounds: int) -> list[float]:
        if asked:
            raise KeyboardInterrupt
        return measure(programs, node, rounds)

    monkeypatch.setattr(tuning, "measure", interrupted)
    result = tune()
    assert result.exit_code == 130
    assert "interrupted; 1 of 2 kernels were not measured" in result.stderr
    assert "1 kernel measured" in result.stdout
    assert len(read_lockfile("convc.lock")) == 1


def test_a_wrong_schedule_is_shown_and_does_not_win(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emit = Dense.emit

    def wrong(self: Dense, w: Writer, kernel: Kernel) -> None:
        emit(self, w, kernel)
        if kernel.schedule["algorithm"] == "gemm_rows":
            w.lines[:] = [line.replace("bias, out", "ZERO, out") for line in w.lines]

    monkeypatch.setattr(Dense, "emit", wrong)
    result = tune()
    rows = [line for line in result.stdout.splitlines() if "gemm_rows" in line]
    assert len(rows) == 2
    assert all("wrong: " in row and "out of bounds" in row for row in rows)
    assert "2 schedules gave wrong results and cannot win" in result.stdout
    for entry in read_lockfile("convc.lock").values():
        assert [m.schedule["algorithm"] for m in entry.measured] == ["gemm_columns"]
