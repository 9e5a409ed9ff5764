"""Which data set a network is trained on: the one whose images have its shape."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod

from convc.data import cifar10, mnist
from convc.data.batches import Splits
from convc.data.idx import DataError

_KNOWN = (28, 28, 1), cifar10.SHAPE
"""Images of MNIST and of CIFAR-10."""


def pixels_of(shape: Sequence[int]) -> tuple[int, ...] | None:
    """The shape of the known images that have as many numbers as ``shape``."""
    return next((known for known in _KNOWN if prod(known) == prod(shape)), None)


def load_for(
    shape: Sequence[int], data_dir: str | os.PathLike[str] | None = None
) -> Splits:
    """The data set whose images have as many numbers as ``shape``, in that shape.

    784 numbers are an image of MNIST, a row of them as well as [28,28,1], and 3,072
    one of CIFAR-10; see ``load_mnist`` and ``load_cifar10``. DataError if no data set
    has such images.
    """
    pixels = pixels_of(shape)
    if pixels is None:
        known = " and ".join(f"{prod(k)} {list(k)}" for k in _KNOWN)
        raise DataError(
            f"no data set has images of {prod(shape)} numbers {list(shape)}; those of "
            f"MNIST and CIFAR-10 have {known}"
        )
    load = cifar10.load_cifar10 if pixels == cifar10.SHAPE else mnist.load_mnist
    return load(data_dir).shaped(shape)
