"""Which data set a network is trained on: the one whose images have its shape."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod

from convc.data import mnist
from convc.data.batches import Splits
from convc.data.idx import DataError

PIXELS = 28 * 28
"""Numbers in an image of MNIST."""


def load_for(
    shape: Sequence[int], data_dir: str | os.PathLike[str] | None = None
) -> Splits:
    """The data set whose images have as many numbers as ``shape``, in that shape.

    784 numbers are an image of MNIST, a row of them as well as [28,28,1]; see
    ``load_mnist``. DataError if no data set has such images.
    """
    if prod(shape) != PIXELS:
        raise DataError(
            f"no data set has images of {prod(shape)} numbers {list(shape)}; "
            f"those of MNIST are {PIXELS} numbers [28, 28, 1]"
        )
    return mnist.load_mnist(data_dir).shaped(shape)
