"""Curves by epoch: which numbers they have, and where these lie."""

import math

import numpy as np
import pytest

from convc.pictures.curves import COLOURS, by_epoch, curve_picture, ticks
from convc.pictures.sheet import PictureError
from convc.runtime.metrics import Point


def logged(tag: str, *values: tuple[int, float]) -> list[Point]:
    return [Point(tag, step, value, 0.0) for step, value in values]


RUN = [
    *logged("loss/train", (0, 3.0), (1, 1.0), (2, 0.5), (3, 0.7), (4, 0.1)),
    *logged("accuracy/train", (1, 0.5), (3, 0.75)),
    *logged("loss/test", (1, 1.5), (3, 0.5)),
    *logged("accuracy/test", (1, 0.25), (3, 1.0)),
    *logged("images_per_second", (1, 900.0)),
]
"""Two epochs of two steps, and the first step of a third."""


def test_an_epochs_training_loss_is_the_mean_of_its_steps() -> None:
    assert by_epoch(RUN) == {
        "loss/train": [(1, 2.0), (2, 0.6)],
        "loss/test": [(1, 1.5), (2, 0.5)],
        "accuracy/train": [(1, 50.0), (2, 75.0)],
        "accuracy/test": [(1, 25.0), (2, 100.0)],
    }


def test_a_run_that_was_not_tested_has_no_test_curve() -> None:
    curves = by_epoch([p for p in RUN if "test" not in p.tag])
    assert curves["loss/test"] == curves["accuracy/test"] == []
    assert curves["loss/train"] == [(1, 2.0), (2, 0.6)]


def test_what_is_not_finite_leaves_a_gap() -> None:
    points = [*RUN, *logged("loss/test", (3, math.inf))]
    assert by_epoch(points)["loss/test"] == [(1, 1.5)]


def test_without_an_epoch_there_is_nothing_to_draw() -> None:
    points = [p for p in RUN if p.tag == "loss/train"]
    with pytest.raises(PictureError, match=r"none of the 5 points ends one"):
        by_epoch(points)


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (91.3, 98.2, [90, 92, 94, 96, 98, 100]),
        (0.03, 0.03, [0.03, 0.035]),
        (0.0, 0.0, [0.0, 0.2]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(
    low: float, high: float, marks: list[float]
) -> None:
    assert ticks(low, high) == pytest.approx(marks)


@pytest.mark.parametrize("exponent", range(-6, 7))
def test_ticks_are_few_and_enclose_values_of_any_size(exponent: int) -> None:
    for low in (0.0, 1.1, 7.0, 99.9):
        for span in (0.013, 1.0, 6.7):
            a, b = low * 10.0**exponent, (low + span) * 10.0**exponent
            marks = ticks(a, b)
            slack = (b - a) * 1e-6
            assert marks[0] <= a + slack
            assert b <= marks[-1] + slack
            assert 2 <= len(marks) <= 9


def test_the_points_lie_where_their_values_are() -> None:
    """Test accuracies of 25 and 100, on an axis from 20 (row 260) to 100 (row 34)."""
    picture = curve_picture(RUN, "a")
    assert (picture.name, picture.caption) == (
        "curves.png",
        "a: loss and accuracy of 2 epochs",
    )
    pixels = np.asarray(picture.image).astype(int)
    assert pixels.shape == (300, 880, 3)
    near = np.abs(pixels - COLOURS["test"]).sum(-1) < 30
    rows, columns = np.nonzero(near[:, 440:])
    below = rows > 30  # under the legend
    left, right = columns[below].min(), columns[below].max()
    ends = [rows[below][columns[below] == end].mean() for end in (left, right)]
    assert ends == pytest.approx([260 - 5 / 80 * 226, 34], abs=1.5)


def test_one_epoch_is_a_point() -> None:
    picture = curve_picture([p for p in RUN if p.step <= 1], "a")
    assert picture.caption.endswith("of 1 epoch")
