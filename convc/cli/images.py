"""Pictures as the network wants them, and its answer as a table."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convc.data.batches import Images
from convc.data.idx import DataError

if TYPE_CHECKING:
    from rich.table import Table

    from convc.ir.types import TensorType
    from convc.runtime.evaluation import Prediction

SIDE = 28
"""Images are SIDE pixels high and wide."""

_LIGHT = 128


def read_images(paths: Sequence[Path]) -> tuple[list[str], Images]:
    """The images of some files, f32[n,28,28,1] in [0,1], and a name for each.

    A .npy file holds one image or several, bytes or numbers in [0,1], white on black.
    Any other is a picture: it is made grey, inverted if its border is light, padded
    to a square and scaled. DataError naming the file that cannot serve.
    """
    names: list[str] = []
    parts: list[Images] = []
    for path in paths:
        several = path.suffix == ".npy"
        images = _array(path) if several else _picture(path)
        names += (
            [f"{path}[{i}]" for i in range(len(images))]
            if len(images) > 1
            else [str(path)]
        )
        parts.append(images)
    return names, np.concatenate(parts)


def read_image(path: Path, shape: tuple[int, ...]) -> tuple[str, Images]:
    """One image of any size, f32[1,H,W,C] in [0,1], and its name.

    For ``shape`` [28,28,1] as ``read_images`` has it (the first of several); else a
    picture, gray for 1 channel and in colour for 3, scaled to the shape. DataError if
    the file or the shape cannot serve.
    """
    if shape == (SIDE, SIDE, 1):
        names, images = read_images([path])
        return names[0], images[:1]
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise DataError(
            f"{path}: a picture has height, width and 1 or 3 channels, "
            f"and the network's image is {list(shape)}"
        )
    height, width, channels = shape
    opened = _opened(path).convert("L" if channels == 1 else "RGB")
    small = np.asarray(opened.resize((width, height)), dtype=np.float32)
    return str(path), small.reshape(1, *shape) / np.float32(255)


def images_for(kind: TensorType, images: Images) -> Images:
    """The images in the shape that an input wants, where it has as many numbers."""
    fits = prod(kind.inner) == prod(images.shape[1:])
    return images.reshape(len(images), *kind.inner) if fits else images


def _array(path: Path) -> Images:
    """The images of a .npy file."""
    try:
        given = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as .npy: {error}") from error
    shape = given.shape
    if shape[-1:] == (1,):
        shape = shape[:-1]
    if len(shape) not in (2, 3) or shape[-2:] != (SIDE, SIDE) or not given.size:
        raise DataError(
            f"{path}: holds images [n,28,28], [n,28,28,1] or one [28,28], "
            f"and its shape is {list(given.shape)}"
        )
    if given.dtype == np.uint8:
        given = given / np.float32(255)
    if given.dtype.kind != "f" or not (given.min() >= 0 and given.max() <= 1):
        raise DataError(
            f"{path}: pixels are bytes, or numbers in [0,1], and these are "
            f"{given.dtype} from {given.min()} to {given.max()}"
        )
    images: Images = given.reshape(-1, SIDE, SIDE, 1).astype(np.float32)
    return images


def _picture(path: Path) -> Images:
    """One picture file as an image [1,28,28,1]."""
    opened = _opened(path)
    from PIL import Image

    grey = opened.convert("L")
    pixels = _square(np.asarray(grey))
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX)
    scaled: Images = np.asarray(small, dtype=np.float32) / np.float32(255)
    return scaled.reshape(1, SIDE, SIDE, 1)


def _opened(path: Path) -> Any:
    """A picture file in colour, on white where it lets light through."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError(
            f"{path}: pictures are read with pillow, which is not installed; "
            'pip install "convc[images]", or give a .npy file'
        ) from error
    try:
        with Image.open(path) as opened:
            colours = opened.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is no picture that pillow knows" if unknown else str(error)
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey pixels on a dark ground, the ground widened to make a square."""
    border = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    if np.median(np.concatenate(border)) >= _LIGHT:
        pixels = 255 - pixels
    ground = np.median(np.concatenate(border))
    height, width = pixels.shape
    side = max(height, width)
    square = np.full((side, side), ground, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def prediction_table(names: Sequence[str], answer: Prediction) -> Table:
    """A line per image: its class, how likely that is, and every class in percent."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "image", "class", "probability", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.columns[1].justify = table.columns[2].justify = "right"
    table.columns[0].overflow = "fold"
    for label in range(answer.probabilities.shape[1]):
        table.add_column(str(label), justify="right")
    for name, label, row in zip(
        names, answer.classes, answer.probabilities, strict=True
    ):
        cells: list[Any] = [f"{100 * p:.0f}" for p in row]
        table.add_row(Text(name), str(label), f"{100 * row[label]:.2f} %", *cells)
    return table
