"""Sheets: which gray a number is, where a tile lies, what stands below."""

import io

import numpy as np
import pytest
from PIL import Image

from convc.pictures.sheet import (
    LINE,
    PAPER,
    Picture,
    PictureError,
    captioned,
    columns_for,
    enlarged,
    labelled,
    pillow,
    positive,
    signed,
    tiled,
)


def test_zero_is_the_middle_of_a_signed_scale() -> None:
    assert signed(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), 2.0).tolist() == [
        *(0, 64, 128, 192, 255)
    ]


def test_zero_is_black_on_a_positive_scale() -> None:
    assert positive(np.array([0.0, 0.5, 2.0]), 2.0).tolist() == [0, 64, 255]


def test_nothing_but_zeros_has_a_scale_too() -> None:
    assert signed(np.zeros(2), 0.0).tolist() == [128, 128]
    assert positive(np.zeros(2), 0.0).tolist() == [0, 0]


def test_enlarging_repeats_pixels_and_makes_no_new_grays() -> None:
    tile = np.array([[1, 9], [5, 7]], np.uint8)
    assert enlarged(tile, 2).tolist() == [
        [1, 1, 9, 9],
        [1, 1, 9, 9],
        [5, 5, 7, 7],
        [5, 5, 7, 7],
    ]


@pytest.mark.parametrize(
    ("tiles", "columns"), [(1, 1), (2, 2), (4, 2), (10, 4), (32, 8), (64, 8)]
)
def test_sheets_are_square_or_wide(tiles: int, columns: int) -> None:
    assert columns_for(tiles) == columns


def test_tiles_lie_row_by_row_with_lines_between() -> None:
    tiles = [np.full((2, 2), gray, np.uint8) for gray in (10, 20, 30)]
    sheet = tiled(tiles, 2, factor=1)
    assert sheet.shape == (7, 7, 3)
    expected = np.full((7, 7), LINE[0])
    expected[1:3, 1:3], expected[1:3, 4:6], expected[4:6, 1:3] = 10, 20, 30
    assert sheet[..., 0].tolist() == expected.tolist()
    assert sheet[0, 0].tolist() == list(LINE)


def test_a_tile_in_colour_keeps_its_colours() -> None:
    tile = np.array([[[1, 2, 3]]], np.uint8)
    assert tiled([tile], 1, factor=3)[2, 2].tolist() == [1, 2, 3]


def test_small_tiles_are_enlarged_as_far_as_there_is_room() -> None:
    few = tiled([np.zeros((5, 5), np.uint8)] * 4, 4)
    many = tiled([np.zeros((5, 5), np.uint8)] * 32, 32)
    assert few.shape[1] == 4 * (60 + 2) + 2
    assert many.shape[1] == 32 * (20 + 1) + 1


def test_a_long_caption_wraps_below_the_sheet() -> None:
    sheet = np.zeros((30, 400, 3), np.uint8)
    short, long = (np.asarray(captioned(sheet, "word " * n)) for n in (2, 60))
    assert short.shape[1] == long.shape[1] == 412
    assert long.shape[0] > short.shape[0]
    assert (short[6:36, 6:406] == 0).all()
    ink = (long[36:] != PAPER).any(-1)
    assert ink.any()
    assert not ink[:, -6:].any()  # no letter is cut off


def test_a_label_stands_above_each_tile_of_a_contact_sheet() -> None:
    tiles = [np.full((40, 60), gray, np.uint8) for gray in (10, 90)]
    page = np.asarray(labelled([("one", tiles[0]), ("two", tiles[1])], columns=2))
    assert (page[25:65, 6:66] == 10).all()
    assert (page[25:65, 72:132] == 90).all()
    for left in (6, 72):
        assert (page[:25, left : left + 60] < 100).any()


def test_a_picture_becomes_a_png_file() -> None:
    picture = Picture("a.png", "a", captioned(np.zeros((9, 9, 3), np.uint8), "a"))
    with Image.open(io.BytesIO(picture.png())) as read:
        assert (read.format, read.size) == ("PNG", picture.image.size)


def test_without_pillow_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(PictureError, match=r"pip install \"convc\[images\]\""):
        pillow()
