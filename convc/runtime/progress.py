"""How an epoch is going: a bar on a terminal, a few plain lines anywhere else.

Everything goes to stderr, so that what a command prints can be piped on. Loss and
accuracy are means over the epoch's images so far. rich, which draws the bar and
honours NO_COLOR, is imported only where a bar is drawn. The line that ends an epoch is
the caller's: it follows the test, when the bar is gone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_PARTS = 10
# The bar is redrawn by a thread that takes turns with the training.
_REDRAWS_PER_SECOND = 5


class EpochProgress:
    """Reports one epoch: a bar on a terminal, else a line per tenth of the epoch.

    ``epoch`` counts from 1 up to ``epochs``; ``images`` is the size of the whole epoch
    and ``done`` how many of them an interrupted run had seen already. ``console`` is
    where to write (default: stderr); ``clock`` gives seconds.
    """

    def __init__(
        self,
        epoch: int,
        epochs: int,
        images: int,
        console: Console | None = None,
        *,
        done: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._label = f"epoch {epoch}/{epochs}"
        self._images, self._skipped, self._done = images, done, done
        self._console, self._clock = console, clock
        self._loss_sum = self._accuracy_sum = 0.0
        self._has_accuracy = False
        self._began = clock()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._began = self._clock()
        if _is_terminal(self._console):
            self._bar, self._task = self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def update(self, images: int, loss: float, accuracy: float | None = None) -> None:
        """Count ``images`` more with their mean loss and accuracy (of 1, or None)."""
        part = self._part()
        self._done += images
        self._loss_sum += images * loss
        if accuracy is not None:
            self._has_accuracy = True
            self._accuracy_sum += images * accuracy
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, state=self._state())
        elif part < self._part() < _PARTS:
            share = f"{100 * self._done // self._images:3d} %"
            self._write(f"{self._label}  {share}  {self._state()}{self._left()}")

    def _part(self) -> int:
        """How many tenths of the epoch are done."""
        return _PARTS * self._done // max(self._images, 1)

    def _seen(self) -> int:
        """How many images this process has shown."""
        return self._done - self._skipped

    def _rate(self) -> float:
        """Images per second, 0 as long as there is no telling."""
        elapsed = self._clock() - self._began
        return self._seen() / elapsed if elapsed > 0 else 0.0

    def _state(self) -> str:
        """Mean loss, mean accuracy if there is one, and the rate."""
        seen = max(self._seen(), 1)
        shown = [f"loss {self._loss_sum / seen:.4f}"]
        if self._has_accuracy:
            shown.append(f"accuracy {100 * self._accuracy_sum / seen:.2f} %")
        shown.append(f"{self._rate():,.0f} images/s")
        return "  ".join(shown)

    def _left(self) -> str:
        """The time left, if there is telling."""
        rate = self._rate()
        return f"  {(self._images - self._done) / rate:.0f} s left" if rate else ""

    def _draw(self) -> tuple[Progress, TaskID]:
        """Start the bar; it vanishes when it stops, for the epoch's line to follow."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        console = self._console or Console(stderr=True)
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=_REDRAWS_PER_SECOND,
        )
        bar.start()
        task = bar.add_task(
            self._label, total=self._images, completed=self._done, state=""
        )
        return bar, task

    def _stop(self) -> None:
        """Take the bar away, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _write(self, line: str) -> None:
        """A plain line; what a user's text holds is not taken for markup."""
        if self._console is not None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


class KernelProgress:
    """Reports which kernels are compiled: a bar on a terminal, else nothing.

    Inside a ``with`` it is called with how many are done, how many there are, and the
    name of the latest. Nothing is drawn where nothing had to be compiled.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, name: str) -> None:
        """Draw that ``done`` of ``total`` kernels are compiled, ``name`` the latest."""
        if self._bar is None and _is_terminal(self._console):
            from rich.console import Console
            from rich.progress import Progress

            console = self._console or Console(stderr=True)
            self._bar = Progress(console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=total)
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, completed=done, description=f"compiling kernels: {name}"
            )


def _is_terminal(console: Console | None) -> bool:
    """Whether a bar can be redrawn in place there."""
    if console is not None:
        return console.is_terminal and not console.is_dumb_terminal
    if not sys.stderr.isatty():
        return False
    from rich.console import Console

    return not Console(stderr=True).is_dumb_terminal
