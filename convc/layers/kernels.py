"""Kernels of one's own: a tensor, or numbers that stay what they are."""

from collections.abc import Sequence
from reprlib import repr as short_repr
from typing import Any

import numpy as np

from convc.initializers import constant
from convc.ir.errors import TypeRuleError
from convc.ir.ops.base import Array
from convc.tracing import Tensor, Trace

Kernel = Tensor | Sequence[Any] | Array
"""A tensor, nested lists of numbers, or an array of them."""


def kernel_of(t: Trace, layer: str, given: Kernel, x: Tensor) -> Tensor:
    """The kernel [KH,KW,C,K] that a layer on images ``x`` is given.

    Numbers become the variable ``kernel`` of the layer, which is not trained.
    """
    if isinstance(given, Tensor):
        return given
    numbers = _numbers(layer, given)
    if numbers.ndim == 2:
        channels = x.type.inner[-1]
        if channels != 1:
            raise TypeRuleError(
                f"{layer}: a kernel [height, width] is for images of one channel, "
                f"here are {channels} (inputs: {x.type}); depthwise_convolve filters "
                f"each channel by itself, a kernel [height, width, channels, filters] "
                "mixes them"
            )
        numbers = numbers[:, :, None, None]
    return _held(t, numbers)


def depthwise_kernel_of(t: Trace, layer: str, given: Kernel, x: Tensor) -> Tensor:
    """The kernel [KH,KW,C,M] of a depthwise layer on images ``x``.

    Numbers [KH,KW] are one filter, the same for every channel.
    """
    if isinstance(given, Tensor):
        return given
    numbers = _numbers(layer, given)
    if numbers.ndim == 2:
        shape = (*numbers.shape, x.type.inner[-1], 1)
        numbers = np.broadcast_to(numbers[:, :, None, None], shape)
    return _held(t, numbers)


def _numbers(layer: str, given: object) -> Array:
    try:
        numbers = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        numbers = np.asarray(np.nan)
    if numbers.ndim not in (2, 4) or not numbers.size or not np.isfinite(numbers).all():
        raise TypeRuleError(
            f"{layer}: a kernel is a tensor or finite numbers as nested lists, "
            "[height, width] or [height, width, in, out], "
            f"got {_described(given, numbers)}"
        )
    return numbers


def _described(given: object, numbers: Array) -> str:
    if numbers.ndim == 0 or not np.isfinite(numbers).all():
        return short_repr(given)
    return f"numbers of the shape {list(numbers.shape)}"


def _held(t: Trace, numbers: Array) -> Tensor:
    return t.variable("kernel", numbers.shape, constant(numbers), trainable=False)
