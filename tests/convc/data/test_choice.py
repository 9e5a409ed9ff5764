"""A network is trained on images of its shape."""

import numpy as np
import pytest

from convc.data.batches import Dataset, Splits
from convc.data.choice import load_for
from convc.data.idx import DataError


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Three images in place of MNIST; the list takes what folders were asked for."""
    images = np.arange(3 * 784, dtype=np.float32).reshape(3, 28, 28, 1)
    made = Dataset(images, np.zeros(3, np.int32), "made")
    asked: list[object] = []

    def load(folder: object) -> Splits:
        asked.append(folder)
        return Splits(made, made.first(2))

    monkeypatch.setattr("convc.data.mnist.load_mnist", load)
    return asked


def test_784_numbers_are_an_image_of_mnist_in_any_shape(mnist: list[object]) -> None:
    splits = load_for([784], "folder")
    assert mnist == ["folder"]
    assert splits.train.images.shape == (3, 784)
    assert splits.test.images.shape == (2, 784)
    assert splits.train.images[1, 0] == 784
    assert load_for((28, 28, 1)).train.images.shape == (3, 28, 28, 1)


def test_other_images_are_of_no_data_set() -> None:
    with pytest.raises(DataError, match=r"no data set has images of 12 numbers \[4, 3"):
        load_for([4, 3])
