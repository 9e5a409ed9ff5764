"""The arithmetic of sliding windows, shared by convolution and pooling."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from convc.ir.errors import TypeRuleError
from convc.ir.graph import Attr
from convc.ir.ops.base import Array


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a window op; all counts in elements.

    ``out = (size + before + after - reach) // stride + 1`` where
    ``reach = dilation * (kernel - 1) + 1`` is what one window spans.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    out: int

    @property
    def reach(self) -> int:
        """Input elements from a window's first tap to its last."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded(self) -> bool:
        """Whether a window holds any of the padding."""
        last = (self.out - 1) * self.stride + self.reach - self.before
        return self.before > 0 or last > self.size


def resolve_axis(
    op: str, size: int, kernel: int, stride: int, dilation: int, padding: Attr
) -> Axis:
    """The axis for one padding rule; SAME puts the odd zero after.

    TypeRuleError when not even one window fits into the padded input.
    """
    reach = dilation * (kernel - 1) + 1
    if padding == "same":
        out = -(-size // stride)
        total = max(0, (out - 1) * stride + reach - size)
        return Axis(size, kernel, stride, dilation, total // 2, total - total // 2, out)
    before, after = (0, 0) if padding == "valid" else _pair(padding)
    padded = size + before + after
    if reach > padded:
        raise TypeRuleError(
            f"{op}: a window of {kernel}"
            + (f" with dilation {dilation} (spans {reach})" if dilation > 1 else "")
            + f" is larger than its input of {padded}"
            + (f" ({size} + padding {before} + {after})" if before or after else "")
            + "; use a smaller window or padding same"
        )
    return Axis(
        size, kernel, stride, dilation, before, after, (padded - reach) // stride + 1
    )


def _pair(padding: Attr) -> tuple[int, int]:
    if isinstance(padding, tuple) and len(padding) == 2:
        before, after = padding
        if isinstance(before, int) and isinstance(after, int):
            return before, after
    raise TypeRuleError(f"padding of an axis is [before, after], got {padding!r}")


def resolve(
    op: str,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: Attr,
) -> tuple[Axis, ...]:
    """All spatial axes of a window op; lists must have one entry per axis."""
    rank = len(sizes)
    given = {"window": kernel, "strides": strides, "dilations": dilations}
    if not isinstance(padding, str):
        given["padding"] = padding  # type: ignore[assignment]
    for name, values in given.items():
        if len(values) != rank:
            raise TypeRuleError(
                f"{op}: {name} needs {rank} entries, one per spatial axis, "
                f"got {len(values)}"
            )
    paddings = [padding] * rank if isinstance(padding, str) else padding
    return tuple(
        resolve_axis(op, *args)
        for args in zip(sizes, kernel, strides, dilations, paddings, strict=True)  # type: ignore[arg-type]
    )


def pad_input(x: Array, axes: Sequence[Axis], value: float = 0.0) -> Array:
    """``x`` [n, *spatial, c] padded as the axes say."""
    pads = [(0, 0), *((a.before, a.after) for a in axes), (0, 0)]
    return np.pad(x, pads, constant_values=value)


def taps(axes: Sequence[Axis]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each window position with the slices of a padded [n, *spatial, c] it reads."""
    for offset in product(*(range(a.kernel) for a in axes)):
        spatial = tuple(
            slice(k * a.dilation, k * a.dilation + (a.out - 1) * a.stride + 1, a.stride)
            for k, a in zip(offset, axes, strict=True)
        )
        yield offset, (slice(None), *spatial)


def crop(padded: Array, axes: Sequence[Axis]) -> Array:
    """The part of a padded array that is the input: the adjoint of ``pad_input``."""
    inner = (slice(a.before, a.before + a.size) for a in axes)
    return padded[(slice(None), *inner)]


def padded_sizes(axes: Sequence[Axis]) -> tuple[int, ...]:
    """Spatial sizes after padding."""
    return tuple(a.before + a.size + a.after for a in axes)


def window_count(axes: Sequence[Axis]) -> int:
    """Taps per window."""
    return prod(a.kernel for a in axes)
