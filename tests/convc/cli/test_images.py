"""Pictures of any colour, size and ground become what the network was trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convc.cli.images import prediction_table, read_image, read_images
from convc.data.idx import DataError
from convc.runtime.evaluation import Prediction


def stroke(side: int = 56) -> np.ndarray:
    """A vertical stroke, white on black."""
    pixels = np.zeros((side, side), dtype=np.uint8)
    pixels[side // 7 : -side // 7, side // 2 - 4 : side // 2 + 4] = 255
    return pixels


def save(path: Path, pixels: np.ndarray, mode: str = "L") -> Path:
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def read(path: Path) -> np.ndarray:
    (_,), images = read_images([path])
    assert images.shape == (1, 28, 28, 1)
    assert images.dtype == np.float32
    return images


def test_a_picture_is_scaled_to_numbers_in_0_to_1(tmp_path: Path) -> None:
    image = read(save(tmp_path / "one.png", stroke()))
    expected = stroke().reshape(28, 2, 28, 2).mean((1, 3)) / 255
    np.testing.assert_allclose(image[0, :, :, 0], expected, atol=1 / 255)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_dark_on_light_is_inverted_in_every_mode(tmp_path: Path, mode: str) -> None:
    light = read(save(tmp_path / "one.png", stroke()))
    dark = read(save(tmp_path / "dark.png", 255 - stroke(), mode))
    np.testing.assert_array_equal(dark, light)


def test_ink_on_nothing_is_ink_on_paper(tmp_path: Path) -> None:
    pixels = np.zeros((56, 56, 4), dtype=np.uint8)
    pixels[:, :, 3] = stroke()
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(
        read(tmp_path / "clear.png"), read(save(tmp_path / "one.png", stroke()))
    )


def test_a_picture_that_is_not_square_keeps_its_proportions(tmp_path: Path) -> None:
    narrow = stroke()[:, 14:-14]
    np.testing.assert_array_equal(
        read(save(tmp_path / "narrow.png", narrow)),
        read(save(tmp_path / "one.png", stroke())),
    )


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (1, 28, 28), (1, 28, 28, 1)])
def test_an_array_of_bytes_or_of_shares_is_an_image(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    pixels = np.arange(784).reshape(shape) % 256
    np.save(tmp_path / "bytes.npy", pixels.astype(np.uint8))
    np.save(tmp_path / "shares.npy", pixels / 255)
    np.testing.assert_array_equal(
        read(tmp_path / "bytes.npy"), read(tmp_path / "shares.npy")
    )


def test_the_images_of_an_array_are_told_apart_by_number(tmp_path: Path) -> None:
    path = tmp_path / "two.npy"
    np.save(path, np.zeros((2, 28, 28), np.uint8))
    one = save(tmp_path / "one.png", stroke())
    names, images = read_images([one, path])
    assert names == [str(one), f"{path}[0]", f"{path}[1]"]
    assert images.shape == (3, 28, 28, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((27, 28), np.uint8), r"its shape is \[27, 28\]"),
        (np.zeros((0, 28, 28), np.uint8), r"its shape is \[0, 28, 28\]"),
        (np.zeros((28, 28), np.int64), "these are int64"),
        (np.full((28, 28), 2.0), "from 2.0 to 2.0"),
        (np.full((28, 28), np.nan), "from nan to nan"),
        (np.array([None]), "cannot be read as .npy"),
    ],
)
def test_an_array_that_is_no_image_is_refused(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=message):
        read_images([tmp_path / "x.npy"])


@pytest.mark.parametrize("name", ["x.png", "x.npy"])
def test_a_file_that_is_absent_or_damaged_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(DataError, match=f"{name}: cannot be read"):
        read_images([path])
    path.write_bytes(b"\x93NUMPY not at all")
    with pytest.raises(DataError, match=f"{name}: cannot be read"):
        read_images([path])


def test_an_image_of_any_size_is_scaled_to_the_networks(tmp_path: Path) -> None:
    """In gray for one channel, in colour for three, and not inverted."""
    path = tmp_path / "x.png"
    Image.new("RGB", (8, 6), (255, 0, 51)).save(path)
    name, colour = read_image(path, (3, 4, 3))
    assert (name, colour.shape, colour.dtype) == (str(path), (1, 3, 4, 3), np.float32)
    assert colour[0, 0, 0].tolist() == np.array([1, 0, 0.2], np.float32).tolist()
    _, gray = read_image(path, (3, 4, 1))
    assert gray.shape == (1, 3, 4, 1)
    assert set(gray.ravel()) == {np.float32(round(0.299 * 255 + 0.114 * 51) / 255)}


def test_an_image_that_no_picture_can_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 or 3 channels, .* image is \[3, 4, 5\]"):
        read_image(tmp_path / "x.png", (3, 4, 5))


def test_the_first_of_several_digits_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.stack([np.zeros((28, 28)), np.ones((28, 28))]))
    name, image = read_image(path, (28, 28, 1))
    assert (name, image.shape, image.max()) == (f"{path}[0]", (1, 28, 28, 1), 0)


def test_a_picture_cut_short_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", stroke())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"x\.png: cannot be read"):
        read_images([path])


def test_without_pillow_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "x.png", stroke())
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(DataError, match=r"convc\[images\]"):
        read_images([path])


def test_the_table_has_a_row_an_image_and_a_column_a_class() -> None:
    shares = np.array([[0.25, 0.75], [0.999, 0.001]], dtype=np.float32)
    answer = Prediction(shares, shares.argmax(1).astype(np.int32))
    table = prediction_table(["a", "b"], answer)
    columns = {str(c.header): [str(x) for x in c.cells] for c in table.columns}
    assert columns == {
        "image": ["a", "b"],
        "class": ["1", "0"],
        "probability": ["75.00 %", "99.90 %"],
        "0": ["25", "100"],
        "1": ["75", "0"],
    }
