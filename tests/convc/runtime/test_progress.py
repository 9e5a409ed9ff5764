"""Progress: a bar where it can be redrawn, few plain lines where it cannot."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from convc.runtime.progress import EpochProgress, KernelProgress

ROOT = Path(__file__).parents[3]
ESCAPE = "\x1b"


@pytest.fixture(autouse=True)
def colour_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the variables of the surrounding terminal say does not matter."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


class Clock:
    """A clock that is moved by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def run_epoch(console: Console, images: int = 1000, batch: int = 20) -> list[str]:
    clock = Clock()
    with EpochProgress(2, 5, images, console, clock=clock) as progress:
        for done in range(0, images, batch):
            clock.now += 0.5
            progress.update(min(batch, images - done), loss=1.5, accuracy=0.25)
    return text_of(console).splitlines()


def test_piped_output_is_a_line_per_tenth() -> None:
    lines = run_epoch(plain())
    assert len(lines) == 9
    assert lines[0] == (
        "epoch 2/5   10 %  loss 1.5000  accuracy 25.00 %  40 images/s  22 s left"
    )
    assert [line.split()[2] for line in lines] == [
        str(share) for share in range(10, 100, 10)
    ]


@pytest.mark.parametrize(("images", "batch", "count"), [(10, 4, 2), (3, 5, 0)])
def test_few_batches_give_few_lines(images: int, batch: int, count: int) -> None:
    assert len(run_epoch(plain(), images, batch)) == count


def test_means_are_weighted_by_images() -> None:
    """A partial last batch counts for what it holds."""
    console = plain()
    with EpochProgress(1, 1, 8, console, clock=Clock()) as progress:
        progress.update(3, loss=1.0, accuracy=1.0)
        progress.update(1, loss=5.0, accuracy=0.0)
    assert "loss 2.0000  accuracy 75.00 %" in text_of(console).splitlines()[-1]


def test_without_accuracy_none_is_shown_and_a_still_clock_does_no_harm() -> None:
    console = plain()
    with EpochProgress(1, 1, 4, console, clock=Clock()) as progress:
        progress.update(2, loss=float("nan"))
    assert text_of(console) == "epoch 1/1   50 %  loss nan  0 images/s\n"


def test_a_resumed_epoch_counts_its_own_images_for_the_rate_and_the_means() -> None:
    console, clock = plain(), Clock()
    with EpochProgress(1, 1, 100, console, done=80, clock=clock) as progress:
        clock.now += 1.0
        progress.update(10, loss=2.0)
    assert text_of(console) == (
        "epoch 1/1   90 %  loss 2.0000  10 images/s  1 s left\n"
    )


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end() -> None:
    console = terminal()
    run_epoch(console)
    shown = text_of(console)
    assert "━" in shown
    assert f"{ESCAPE}[?25h" in shown, "the cursor is shown again"
    bar, last = shown.rsplit(f"{ESCAPE}[2K", 1)
    assert "loss 1.5000  accuracy 25.00 %  40 images/s" in bar
    assert last == ""


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colour codes (ESC [ 30 .. 49 m); moving the cursor is no colour."""
    colour = re.compile(rf"{ESCAPE}\[(?:\d+;)*(?:3\d|4\d|9\d)[;m]")
    coloured = terminal()
    run_epoch(coloured)
    assert colour.search(text_of(coloured))
    monkeypatch.setenv("NO_COLOR", "1")
    without = terminal()
    run_epoch(without)
    assert not colour.search(text_of(without))


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = terminal()
    assert len(run_epoch(console)) == 9
    assert ESCAPE not in text_of(console)


def test_an_error_takes_the_bar_away_and_prints_no_line() -> None:
    console = terminal()

    def interrupted() -> None:
        with EpochProgress(1, 1, 4, console) as progress:
            progress.update(1, loss=1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    shown = text_of(console)
    assert f"{ESCAPE}[?25h" in shown
    assert shown.endswith(f"{ESCAPE}[2K")


def test_piped_progress_goes_to_stderr_without_loading_rich() -> None:
    code = (
        "import sys\n"
        "from convc.runtime.progress import EpochProgress\n"
        "with EpochProgress(1, 1, 2) as p:\n"
        "    p.update(1, 0.5); p.update(1, 0.5)\n"
        "print('rich' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "False\n"
    assert [line[:9] for line in result.stderr.splitlines()] == ["epoch 1/1"]


@pytest.mark.parametrize("where", [terminal, plain])
def test_kernels_are_counted_on_a_terminal_only(where: Callable[[], Console]) -> None:
    console = where()
    with KernelProgress(console) as progress:
        progress(1, 12, "conv1")
        progress(2, 12, "conv2")
    drawn = console.file.getvalue()
    assert ("compiling kernels: conv2" in drawn) == console.is_terminal
    assert console.is_terminal or not drawn


def test_where_nothing_had_to_be_compiled_nothing_is_drawn() -> None:
    console = terminal()
    with KernelProgress(console):
        pass
    assert console.file.getvalue() == ""
