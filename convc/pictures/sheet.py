"""Sheets of small pictures: enlarged without smoothing, divided by thin lines."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convc.ir.errors import ConvcError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
"""A picture [height, width], gray, or [height, width, 3]."""

LINE = (38, 70, 110)
"""The colour between tiles, which no gray can be taken for."""
INK, PAPER = (25, 25, 25), (255, 255, 255)

TILE, WIDTH = 64, 800
"""How wide a tile and a sheet are at most, in pixels, unless they hold more of them."""
_FONT, _MARGIN = 13, 6


class PictureError(ConvcError):
    """A picture that cannot be drawn, or Pillow, which draws, is missing."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to be written: its file's path in a folder, what it shows, itself."""

    name: str
    caption: str
    image: Image

    def png(self) -> bytes:
        """The picture as a PNG file."""
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG", optimize=True)
        return buffer.getvalue()


def pillow() -> Any:
    """The modules Image, ImageDraw and ImageFont; PictureError without Pillow."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise PictureError(
            "pictures are drawn with pillow, which is not installed; "
            'pip install "convc[images]"'
        ) from error
    return Image, ImageDraw, ImageFont


def signed(values: NDArray[Any], limit: float) -> Pixels:
    """Numbers in [-limit, limit] as grays: 0 is 128, -limit black, limit white."""
    unit = np.asarray(values, np.float64) / (limit or 1.0)
    gray: Pixels = np.clip(np.rint(128 + 127.5 * unit), 0, 255).astype(np.uint8)
    return gray


def positive(values: NDArray[Any], limit: float) -> Pixels:
    """Numbers in [0, limit] as grays: 0 is black, limit white."""
    unit = np.asarray(values, np.float64) / (limit or 1.0)
    gray: Pixels = np.clip(np.rint(255 * unit), 0, 255).astype(np.uint8)
    return gray


def enlarged(tile: Pixels, factor: int) -> Pixels:
    """Each pixel as a square of ``factor`` by ``factor`` of its colour."""
    return tile.repeat(factor, axis=0).repeat(factor, axis=1)


def columns_for(tiles: int) -> int:
    """The power of two that makes a sheet of so many tiles square or wide."""
    return int(2 ** ceil(np.log2(sqrt(tiles)))) if tiles > 1 else 1


def tiled(tiles: Sequence[Pixels], columns: int, factor: int | None = None) -> Pixels:
    """Tiles of one size as rows of a sheet [height, width, 3], with lines around each.

    They are enlarged by ``factor``; without it, as ``TILE`` and ``WIDTH`` allow.
    """
    height, width = tiles[0].shape[:2]
    if factor is None:
        factor = max(1, min(TILE, WIDTH // columns - 1) // width)
    height, width = height * factor, width * factor
    line = 2 if width > TILE // 2 else 1
    pitch = (height + line, width + line)
    rows = ceil(len(tiles) / columns)
    sheet = np.empty((rows * pitch[0] + line, columns * pitch[1] + line, 3), np.uint8)
    sheet[:] = LINE
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top, left = row * pitch[0] + line, column * pitch[1] + line
        shown = enlarged(tile, factor)
        colours = shown if shown.ndim == 3 else shown[..., None]
        sheet[top : top + height, left : left + width] = colours
    return sheet


def captioned(pixels: Pixels, caption: str) -> Image:
    """A sheet on paper, its caption below, which wraps where the sheet ends."""
    image, draw, fonts = pillow()
    font = fonts.load_default(_FONT)
    height, width = pixels.shape[:2]
    room = max(width, 320)
    lines = textwrap.wrap(caption, int(room / font.getlength("n")))
    pitch = _FONT + 4
    size = (room + 2 * _MARGIN, height + 3 * _MARGIN + pitch * len(lines))
    page = image.new("RGB", size, PAPER)
    page.paste(image.fromarray(pixels), (_MARGIN, _MARGIN))
    pen = draw.Draw(page)
    for number, line in enumerate(lines):
        place = (_MARGIN, height + 2 * _MARGIN + pitch * number)
        pen.text(place, line, fill=INK, font=font)
    drawn: Image = page
    return drawn


def labelled(tiles: Sequence[tuple[str, Pixels]], columns: int) -> Image:
    """A contact sheet: tiles of one size, each with its label above, not enlarged."""
    image, draw, fonts = pillow()
    font = fonts.load_default(_FONT)
    height, width = tiles[0][1].shape[:2]
    head = _FONT + 2 * _MARGIN
    rows = ceil(len(tiles) / columns)
    size = (columns * (width + _MARGIN) + _MARGIN, rows * (height + head) + _MARGIN)
    page = image.new("RGB", size, PAPER)
    pen = draw.Draw(page)
    for number, (label, tile) in enumerate(tiles):
        row, column = divmod(number, columns)
        left, top = _MARGIN + column * (width + _MARGIN), row * (height + head)
        pen.text((left, top + _MARGIN // 2), label, fill=INK, font=font)
        page.paste(image.fromarray(tile).convert("RGB"), (left, top + head))
    drawn: Image = page
    return drawn
