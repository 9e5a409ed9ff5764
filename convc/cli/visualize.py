"""``convc visualize``: what a network has learned and sees, and how it got there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convc.cli.group import (
    data_option,
    input_option,
    load_model,
    model_argument,
    print_table,
)
from convc.cli.use import read_weights

if TYPE_CHECKING:
    from rich.table import Table

    from convc.data.batches import Images
    from convc.model import Model
    from convc.pictures.sheet import Picture


@click.command()
@model_argument
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for the pictures.",
)
@click.option(
    "--weights",
    metavar="W",
    type=click.Path(dir_okay=False),
    help="A weight file, for pictures of filters and feature maps.",
)
@click.option(
    "--image",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What the feature maps are of, a picture or a .npy file.",
)
@click.option(
    "--index",
    metavar="I",
    type=click.IntRange(min=0),
    help="Which of the test images they are of, without --image. [default: 0]",
)
@click.option(
    "--run",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder of a run, for its curves of loss and accuracy.",
)
@data_option
@input_option
def visualize(
    model: str,
    output: Path,
    weights: str | None,
    image: Path | None,
    index: int | None,
    directory: Path | None,
    data: str | None,
    input_type: str,
) -> None:
    """Draw MODEL's filters, feature maps and learning curves as PNG files.

    Filters and maps need --weights, curves need --run. A layer's tiles share one
    scale, which the caption below them names.
    """
    if weights is None and directory is None:
        raise click.UsageError("give --weights, --run, or both: what is to be drawn?")
    if weights is None and (image is not None or index is not None):
        raise click.UsageError("--image and --index are for feature maps: --weights W")
    if image is not None and index is not None:
        raise click.UsageError("--image and --index name two images; give one of them")
    loaded = load_model(model, input_type)
    pictures: list[Picture] = []
    if weights is not None:
        what, pixels = _image(loaded, image, index or 0, data)
        pictures += _of_weights(loaded, weights, pixels, what)
    if directory is not None:
        from convc.pictures.curves import curve_picture
        from convc.runtime.metrics import read_metrics

        pictures.append(curve_picture(read_metrics(directory), directory.name))
    _write(output, pictures)
    print_table(_table(output, pictures))


def _of_weights(model: Model, weights: str, image: Images, what: str) -> list[Picture]:
    """The pictures of what a network has learned and makes of an image."""
    from convc.pictures.layers import (
        feature_maps,
        filter_pictures,
        image_picture,
        map_pictures,
    )

    tensors = read_weights(model, weights)
    drawn = filter_pictures(model.graph, tensors)
    maps = feature_maps(model, tensors, image.reshape(1, *model.image.inner))
    return [*drawn, image_picture(image, what), *map_pictures(maps)]


def _image(
    model: Model, path: Path | None, index: int, data: str | None
) -> tuple[str, Images]:
    """The image that the maps are of, and what it is."""
    from convc.cli.images import read_image
    from convc.data.choice import load_for, pixels_of
    from convc.data.idx import DataError

    shape = model.image.inner
    pixels = pixels_of(shape)
    if path is not None:
        return read_image(path, pixels or shape)
    if pixels is None:
        raise DataError(
            f"no data set has images like the network's image, {list(shape)}; give one "
            "with --image FILE"
        )
    test = load_for(pixels, data).test
    if index >= len(test):
        raise DataError(
            f"{test.name} holds {len(test):,} images, 0 to {len(test) - 1}, "
            f"and --index is {index}"
        )
    told = f"image {index} of {test.name}, a {test.labels[index]}"
    return told, test.images[index : index + 1]


def _write(folder: Path, pictures: list[Picture]) -> None:
    """Put each picture in its place below ``folder``."""
    from convc.files import write_atomically

    for picture in pictures:
        path = folder / picture.name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, picture.png())


def _table(folder: Path, pictures: list[Picture]) -> Table:
    """A line per file: where it is, how large, what it shows."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table("picture", "pixels", "shows", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.columns[0].overflow = "fold"
    for picture in pictures:
        size = "x".join(map(str, picture.image.size))
        table.add_row(Text(str(folder / picture.name)), size, Text(picture.caption))
    return table
