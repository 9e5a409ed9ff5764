"""A network is trained on the data set whose images have as many numbers."""

from pathlib import Path

import numpy as np
import pytest

from convc.data import choice
from convc.data.batches import Dataset, Splits
from convc.data.idx import DataError


@pytest.mark.parametrize(
    ("loader", "held", "asked"),
    [
        ("mnist.load_mnist", (28, 28, 1), [784]),
        ("mnist.load_mnist", (28, 28, 1), [28, 28, 1]),
        ("cifar10.load_cifar10", (32, 32, 3), [32, 32, 3]),
    ],
)
def test_the_images_come_in_the_shape_that_is_asked_for(
    loader: str,
    held: tuple[int, ...],
    asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Dataset(np.ones((2, *held), np.float32), np.zeros(2, np.int32), "ones")

    def load(folder: Path) -> Splits:
        assert folder == Path("given")
        return Splits(data, data)

    monkeypatch.setattr(f"convc.data.{loader}", load)
    splits = choice.load_for(asked, Path("given"))
    assert splits.train.images.shape == splits.test.images.shape == (2, *asked)


def test_images_of_another_size_are_refused_with_both_sides() -> None:
    rule = (
        r"images of 12 numbers \[2, 2, 3\]; those of MNIST and CIFAR-10 "
        r"have 784 \[28, 28, 1\] and 3072 \[32, 32, 3\]"
    )
    with pytest.raises(DataError, match=rule):
        choice.load_for([2, 2, 3])
