"""The curves of a run: loss and accuracy by epoch, of training and of test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convc.pictures.sheet import INK, PAPER, Picture, PictureError, pillow
from convc.runtime.metrics import Point

Curve = list[tuple[int, float]]
"""Epochs from 1, each with its value; epochs without a finite one are left out."""

COLOURS = {"train": (31, 94, 168), "test": (212, 98, 22)}
GRID = (222, 222, 222)
_TITLES = {"loss": "loss", "accuracy": "accuracy, %"}
# Everything is drawn twice as large and then halved, which smooths the lines.
_FINE = 2
_PANEL, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 440, 300, 58, 16, 34, 40


def by_epoch(points: Sequence[Point]) -> dict[str, Curve]:
    """The curves ``loss/train``, ``loss/test``, ``accuracy/train``, ``accuracy/test``.

    An epoch ends at the step for which ``accuracy/train`` is logged. Its training loss
    is the mean over its steps; accuracies are in percent. PictureError if no epoch
    has ended.
    """
    ends = sorted({p.step for p in points if p.tag == "accuracy/train"})
    if not ends:
        raise PictureError(
            f"curves are drawn by epoch, and none of the {len(points)} points ends "
            "one (accuracy/train); let the run finish an epoch"
        )
    number = {step: epoch for epoch, step in enumerate(ends, 1)}
    curves: dict[str, Curve] = {"loss/train": _mean_loss(points, ends)}
    for tag in ("loss/test", "accuracy/train", "accuracy/test"):
        factor = 100 if tag.startswith("accuracy") else 1
        last = {p.step: factor * p.value for p in points if p.tag == tag}
        curves[tag] = [(number[s], v) for s, v in sorted(last.items()) if s in number]
    return {tag: _finite(curve) for tag, curve in curves.items()}


def _mean_loss(points: Sequence[Point], ends: Sequence[int]) -> Curve:
    loss = {p.step: p.value for p in points if p.tag == "loss/train"}
    curve: Curve = []
    start = 0
    for epoch, end in enumerate(ends, 1):
        steps = [loss[s] for s in range(start, end + 1) if s in loss]
        if steps:
            curve.append((epoch, math.fsum(steps) / len(steps)))
        start = end + 1
    return curve


def _finite(curve: Curve) -> Curve:
    return [(epoch, value) for epoch, value in curve if math.isfinite(value)]


def curve_picture(points: Sequence[Point], run: str) -> Picture:
    """Loss on the left, accuracy on the right; PictureError as ``by_epoch``."""
    image, draw, fonts = pillow()
    curves = by_epoch(points)
    size = (2 * _PANEL * _FINE, _HEIGHT * _FINE)
    page = image.new("RGB", size, PAPER)
    pen = draw.Draw(page)
    font = fonts.load_default(13 * _FINE)
    for column, (kind, heading) in enumerate(_TITLES.items()):
        own = {side: curves[f"{kind}/{side}"] for side in COLOURS}
        Panel(pen, font, column * _PANEL, heading, own).draw()
    epochs = max(epoch for curve in curves.values() for epoch, _ in curve)
    page = page.resize((2 * _PANEL, _HEIGHT), image.Resampling.LANCZOS)
    many = f"{epochs} epochs" if epochs > 1 else "1 epoch"
    return Picture("curves.png", f"{run}: loss and accuracy of {many}", page)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, evenly spaced."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power * most >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


@dataclass
class Panel:
    """One diagram of the picture, ``left`` pixels from its edge."""

    pen: Any
    font: Any
    left: int
    heading: str
    curves: Mapping[str, Curve]
    rows: list[float] = field(init=False)
    last: int = field(init=False)

    def __post_init__(self) -> None:
        values = [v for curve in self.curves.values() for _, v in curve] or [0.0, 1.0]
        self.rows = ticks(min(values), max(values))
        epochs = [e for curve in self.curves.values() for e, _ in curve]
        self.last = max(epochs, default=1)

    def draw(self) -> None:
        """Grid, numbers, lines and their names."""
        self._grid()
        for number, (side, curve) in enumerate(self.curves.items()):
            places = [self._place(epoch, value) for epoch, value in curve]
            if len(places) > 1:
                self.pen.line(places, COLOURS[side], 2 * _FINE, joint="curve")
            for x, y in places:
                r = 3 * _FINE
                self.pen.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[side])
            if curve:
                x = self.left + _PANEL - _RIGHT - 44 * (len(self.curves) - number)
                self._text((x, 16), side, "lm", COLOURS[side])

    def _grid(self) -> None:
        low, high = self._place(1, self.rows[0]), self._place(self.last, self.rows[-1])
        self._text((self.left + _LEFT, 16), self.heading, "lm")
        for value in self.rows:
            _, y = self._place(1, value)
            self.pen.line([(low[0], y), (high[0], y)], GRID, _FINE)
            self._text((self.left + _LEFT - 8, y / _FINE), f"{value:g}", "rm")
        every = max(1, math.ceil(self.last / 10))
        for epoch in range(1, self.last + 1, every):
            x, y = self._place(epoch, self.rows[0])
            self.pen.line([(x, y), (x, y + 4 * _FINE)], INK, _FINE)
            self._text((x / _FINE, y / _FINE + 14), f"{epoch}", "mm")
        middle = self.left + (_LEFT + _PANEL - _RIGHT) / 2
        self._text((middle, _HEIGHT - 9), "epoch", "mm")

    def _place(self, epoch: int, value: float) -> tuple[float, float]:
        across = (epoch - 1) / max(self.last - 1, 1)
        up = (value - self.rows[0]) / (self.rows[-1] - self.rows[0])
        width, height = _PANEL - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        x = self.left + _LEFT + across * width
        y = _TOP + (1 - up) * height
        return x * _FINE, y * _FINE

    def _text(
        self,
        place: tuple[float, float],
        text: str,
        anchor: str,
        colour: tuple[int, int, int] = INK,
    ) -> None:
        where = (place[0] * _FINE, place[1] * _FINE)
        self.pen.text(where, text, fill=colour, font=self.font, anchor=anchor)
