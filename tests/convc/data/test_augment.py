"""What an epoch makes of an image depends on seed, epoch and image, on nothing else."""

import numpy as np
import pytest

from convc.data.augment import UNCHANGED, Augmentation, Shifts
from convc.data.idx import DataError

IMAGES = np.random.default_rng(0).random((40, 5, 4, 2), dtype=np.float32)
ROWS = np.random.default_rng(1).permutation(40)


def gathered(augment: Augmentation, rows: np.ndarray, epoch: int = 3) -> np.ndarray:
    """The images of these rows, in batches of at most 16."""
    gather = augment.gathering(IMAGES, 16, 7, epoch)
    parts = []
    for at in range(0, len(rows), 16):
        out = np.full((len(rows[at : at + 16]), *IMAGES.shape[1:]), np.nan, np.float32)
        gather(rows[at : at + 16], out)
        parts.append(out)
    return np.concatenate(parts)


@pytest.mark.parametrize("pixels", [1, 2, 6])
def test_a_shifted_image_is_what_a_loop_makes_of_it(pixels: int) -> None:
    """Pixel by pixel, also where the image leaves the frame; batches may differ."""
    augment = Shifts(pixels)
    down, right = augment.moves(7, 3, 40)
    expected = np.zeros_like(IMAGES)
    for place, row in enumerate(ROWS):
        for y in range(5):
            for x in range(4):
                to_y, to_x = y + down[row], x + right[row]
                if 0 <= to_y < 5 and 0 <= to_x < 4:
                    expected[place, to_y, to_x] = IMAGES[row, y, x]
    assert np.array_equal(gathered(augment, ROWS), expected)
    assert np.array_equal(gathered(augment, ROWS[5:9]), expected[5:9])


@pytest.mark.parametrize("augment", [UNCHANGED, Shifts(0)], ids=repr)
def test_without_a_shift_images_are_as_they_are(augment: Augmentation) -> None:
    assert np.array_equal(gathered(augment, ROWS), IMAGES[ROWS])


def test_each_epoch_and_each_seed_moves_images_anew() -> None:
    first = Shifts(2).moves(7, 3, 40)
    assert np.array_equal(first, np.stack(Shifts(2).moves(7, 3, 60))[:, :40])
    for other in Shifts(2).moves(7, 4, 40), Shifts(2).moves(8, 3, 40):
        assert not np.array_equal(first, other)


def test_all_moves_are_equally_likely() -> None:
    """Nine of them, each within six standard deviations of its share."""
    down, right = Shifts(1).moves(0, 0, 90_000)
    counts = np.bincount(3 * (down + 1) + right + 1, minlength=9)
    assert len(counts) == 9
    assert np.abs(counts - 10_000).max() < 6 * (90_000 * 1 / 9 * 8 / 9) ** 0.5


def test_rows_of_pixels_are_no_images() -> None:
    with pytest.raises(DataError, match=r"shifts: move images .* are \[40\]; shape"):
        Shifts(1).gathering(IMAGES.reshape(40, 40), 16, 0, 0)


@pytest.mark.parametrize("pixels", [-1, 1.5, True])
def test_pixels_are_counted(pixels: object) -> None:
    with pytest.raises(DataError, match="pixels must be a whole number from 0, got"):
        Shifts(pixels)  # type: ignore[arg-type]
