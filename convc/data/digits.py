"""Small handwritten digits that need no download: a stand-in where MNIST cannot be had.

scikit-learn ships 1,797 digits of 8x8 pixels in 17 grey levels (Alpaydin and Kaynak,
"Optical recognition of handwritten digits", UCI Machine Learning Repository, 1998).
They are real handwriting and a network can learn them, but they are not MNIST, and an
accuracy reached on them says nothing about it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convc.data.batches import Dataset, Images, Splits
from convc.data.idx import DataError
from convc.ir import philox

TRAIN_COUNT = 1500
SIDE = 28
NOTICE = (
    "this is not MNIST: 1,797 digits of 8x8 pixels from scikit-learn, upscaled to "
    "28x28, stand in for it; accuracies do not compare"
)

_SMALL = 8
_TOP_LEVEL = 16
# Bilinear weights between 8 and 28 pixels are whole fourteenths.
_UNIT = 14


def load_digits(source: str = "scikit-learn") -> Splits:
    """1,500 training and 297 test digits, mixed and split the same way every time.

    Raises DataError naming the extra to install if scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise DataError(
            "the stand-in digits come with scikit-learn, which is not installed; "
            'pip install "convc[digits]"'
        ) from error
    bunch = load()
    images = upscale(np.asarray(bunch.images))
    labels = np.asarray(bunch.target).astype(np.int32)
    order = philox.permutation(0, philox.stream_of("digits"), 0, len(labels))

    def part(name: str, rows: NDArray[np.int64]) -> Dataset:
        return Dataset(images[rows], labels[rows], f"digits {name}", source, NOTICE)

    return Splits(
        train=part("train", order[:TRAIN_COUNT]), test=part("test", order[TRAIN_COUNT:])
    )


def upscale(images: NDArray[np.floating]) -> Images:
    """Bilinear upscaling: [n,8,8] in levels 0 .. 16 -> f32[n,28,28,1] in [0,1].

    Pixel centres are aligned and the border repeats. All sums are of whole numbers
    small enough to be exact, and one division rounds: the same bits on any machine.
    """
    weights = _weights()
    levels = np.rint(images).astype(np.float32)
    scaled = weights @ levels @ weights.T
    top = np.float32(_TOP_LEVEL * _UNIT**2)
    upscaled: Images = (scaled / top).reshape(-1, SIDE, SIDE, 1)
    return upscaled


def _weights() -> NDArray[np.float32]:
    """Bilinear weights in fourteenths, [28,8]; each row sums to 14.

    The centre of output pixel i lies at (i + 1/2) * 8/28 - 1/2 = (4i - 5) / 14.
    """
    weights = np.zeros((SIDE, _SMALL), dtype=np.float32)
    for i in range(SIDE):
        left, rest = divmod(4 * i - 5, _UNIT)
        weights[i, max(left, 0)] += _UNIT - rest
        weights[i, min(left + 1, _SMALL - 1)] += rest
    return weights
