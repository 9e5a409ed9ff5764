"""The stand-in digits: what they are, and that they are the same everywhere."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from convc.data.digits import load_digits, upscale
from convc.data.idx import DataError


def test_a_flat_image_stays_flat_and_full_scale_is_one() -> None:
    for level in (0, 7, 16):
        flat = upscale(np.full((2, 8, 8), float(level)))
        assert flat.shape == (2, 28, 28, 1)
        assert flat.dtype == np.float32
        np.testing.assert_array_equal(flat, np.float32(level / 16))


def test_upscaling_is_bilinear_between_pixel_centres() -> None:
    """A ramp along the width stays a ramp, held at the border pixels' values."""
    ramp = np.tile(2.0 * np.arange(8), (1, 8, 1))
    where = np.clip((4 * np.arange(28) - 5) / 14, 0, 7)
    row = (2 * where / 16).astype(np.float32)
    np.testing.assert_array_equal(upscale(ramp)[0, :, :, 0], np.tile(row, (28, 1)))
    turned = upscale(ramp.transpose(0, 2, 1))[0, :, :, 0]
    np.testing.assert_array_equal(turned, np.tile(row[:, np.newaxis], (1, 28)))


def test_the_split_is_of_all_digits_and_says_that_it_is_not_mnist() -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    splits = load_digits()
    assert (len(splits.train), len(splits.test)) == (1500, 297)
    assert splits.notice.startswith("this is not MNIST")
    assert splits.test.notice == splits.notice
    together = np.concatenate([splits.train.labels, splits.test.labels])
    everything = sklearn_datasets.load_digits()
    np.testing.assert_array_equal(np.bincount(together), np.bincount(everything.target))
    images = np.concatenate([splits.train.images, splits.test.images])
    expected = upscale(everything.images).sum(dtype=np.float64)
    # Sums of 1.4 million floats in [0,1], in two orders, in float64.
    assert abs(images.sum(dtype=np.float64) - expected) < 1e-6
    assert images.min() == 0.0
    assert images.max() == 1.0


def test_the_split_is_the_same_every_time() -> None:
    pytest.importorskip("sklearn.datasets")
    once, again = load_digits(), load_digits()
    np.testing.assert_array_equal(once.train.images, again.train.images)
    np.testing.assert_array_equal(once.test.labels, again.test.labels)
    # Mixed: the first digits of scikit-learn's own order are 0, 1, 2, ...
    assert once.train.labels[:10].tolist() != list(range(10))


def test_a_missing_scikit_learn_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r'pip install "convc\[digits\]"'):
        load_digits()
