"""Which data set a network is trained on: the one whose images have its shape."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod

from convc.data import cifar10, mnist
from convc.data.batches import Splits
from convc.data.idx import DataError

PIXELS = 28 * 28
"""Numbers in an image of MNIST."""
COLOURS = prod(cifar10.SHAPE)
"""Numbers in an image of CIFAR-10."""


def load_for(
    shape: Sequence[int], data_dir: str | os.PathLike[str] | None = None
) -> Splits:
    """The data set whose images have as many numbers as ``shape``, in that shape.

    784 numbers are an image of MNIST, a row of them as well as [28,28,1], and 3,072
    one of CIFAR-10; see ``load_mnist`` and ``load_cifar10``. DataError if no data set
    has such images.
    """
    if prod(shape) == PIXELS:
        return mnist.load_mnist(data_dir).shaped(shape)
    if prod(shape) == COLOURS:
        return cifar10.load_cifar10(data_dir).shaped(shape)
    raise DataError(
        f"no data set has images of {prod(shape)} numbers {list(shape)}; those of "
        f"MNIST have {PIXELS} [28, 28, 1], those of CIFAR-10 {COLOURS} [32, 32, 3]"
    )
