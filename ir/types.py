"""Tensor types: a dtype, a shape with at most one symbolic dimension, a layout."""

from dataclasses import dataclass
from enum import Enum
from math import prod

import ml_dtypes
import numpy as np

from convc.ir.errors import TypeRuleError

BATCH = "N"
"""The one symbolic dimension; it may only stand first in a shape."""

MAX_RANK = 8
MAX_DIM = 2**31 - 1
MAX_ELEMENTS = 2**40

Dim = int | str
Shape = tuple[Dim, ...]


class DType(Enum):
    """Element types; the value is the name used in IR text."""

    F64 = "f64"
    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"
    I64 = "i64"
    I32 = "i32"
    U8 = "u8"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype with the same bits."""
        return _NUMPY[self.value]

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        """Whether gradients may flow through values of this type."""
        return self in (DType.F64, DType.F32, DType.BF16, DType.F16)

    @property
    def is_half(self) -> bool:
        """Whether it is a float of 16 bits: stored so, computed with in float32."""
        return self in (DType.BF16, DType.F16)

    @property
    def computed(self) -> "DType":
        """What ops on this type compute in, before they round their result once."""
        return DType.F32 if self.is_half else self


_NUMPY: dict[str, np.dtype[np.generic]] = {
    "f64": np.dtype("float64"),
    "f32": np.dtype("float32"),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f16": np.dtype("float16"),
    "i64": np.dtype("int64"),
    "i32": np.dtype("int32"),
    "u8": np.dtype("uint8"),
    "bool": np.dtype("bool"),
}


@dataclass(frozen=True)
class TensorType:
    """Type of a value, printed ``f32[N,28,28,1]``.

    ``layout`` is the storage order of the axes, slowest first, and ``None`` for the
    plain order 0, 1, 2, …: ``f32[N,28,28,1]{1,2,3,0}`` stores the batch innermost.
    Raises TypeRuleError for a shape out of bounds.
    """

    dtype: DType
    shape: Shape
    layout: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.shape) > MAX_RANK:
            raise TypeRuleError(
                f"a tensor has at most {MAX_RANK} axes, this one has {len(self.shape)}"
            )
        for axis, dim in enumerate(self.shape):
            if dim == BATCH:
                if axis:
                    raise TypeRuleError(f"the batch N must be axis 0, not axis {axis}")
            elif not isinstance(dim, int) or not 1 <= dim <= MAX_DIM:
                raise TypeRuleError(
                    f"a dimension is N or between 1 and {MAX_DIM}, axis {axis} is {dim}"
                )
        if self.elements(1) > MAX_ELEMENTS:
            raise TypeRuleError(
                f"a tensor has at most {MAX_ELEMENTS} elements, "
                f"{self.dtype.value}[{_dims(self.shape)}] has {self.elements(1)}"
            )
        if self.layout is not None and sorted(self.layout) != list(range(self.rank)):
            raise TypeRuleError(
                f"a layout is a permutation of the {self.rank} axes, got {self.layout}"
            )
        if self.layout == tuple(range(self.rank)):
            object.__setattr__(self, "layout", None)  # one type, one spelling

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def batched(self) -> bool:
        """Whether axis 0 is the symbolic batch."""
        return bool(self.shape) and self.shape[0] == BATCH

    @property
    def inner(self) -> tuple[int, ...]:
        """The static dimensions: the shape without the batch."""
        return tuple(d for d in self.shape if isinstance(d, int))

    @property
    def order(self) -> tuple[int, ...]:
        """Axes in storage order, slowest first."""
        return self.layout or tuple(range(self.rank))

    def bind(self, batch: int) -> tuple[int, ...]:
        """The logical shape with ``batch`` in place of N."""
        return tuple(batch if isinstance(d, str) else d for d in self.shape)

    def storage(self, batch: int) -> tuple[int, ...]:
        """The shape as stored: the bound dimensions in storage order."""
        bound = self.bind(batch)
        return tuple(bound[axis] for axis in self.order)

    def elements(self, batch: int) -> int:
        """The number of elements for a batch of ``batch``."""
        return prod(self.bind(batch))

    def nbytes(self, batch: int) -> int:
        """Bytes for a batch of ``batch``."""
        return self.elements(batch) * self.dtype.itemsize

    def with_shape(self, shape: Shape) -> "TensorType":
        """The same dtype with another shape and the plain layout."""
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> "TensorType":
        """The same shape and layout with another dtype."""
        return TensorType(dtype, self.shape, self.layout)

    def with_layout(self, layout: tuple[int, ...] | None) -> "TensorType":
        """The same tensor stored in another order (the identity becomes None)."""
        return TensorType(self.dtype, self.shape, layout)

    @property
    def plain(self) -> "TensorType":
        """The same type in the plain layout."""
        return self if self.layout is None else self.with_layout(None)

    def __str__(self) -> str:
        layout = "" if self.layout is None else "{" + _dims(self.layout) + "}"
        return f"{self.dtype.value}[{_dims(self.shape)}]{layout}"


def _dims(dims: tuple[Dim, ...]) -> str:
    return ",".join(str(d) for d in dims)


def batch_last(tensor: TensorType) -> TensorType:
    """The same type with the batch stored innermost (unbatched types unchanged)."""
    if not tensor.batched or tensor.rank == 1:
        return tensor.plain
    return tensor.with_layout((*range(1, tensor.rank), 0))
