"""Arithmetic of a GPU in Triton's interpreter: bfloat16 mended, and TF32 that bites.

The interpreter keeps bfloat16 as its bits. It multiplies and compares those bits as
whole numbers, and cuts off what does not fit when it converts; and it takes no notice
of an ``input_precision`` of TF32. As long as ``gpu_numbers`` lasts,

1. conversions to bfloat16 round to nearest, ties to even, as the hardware does,
2. ``tl.dot`` of bfloat16 multiplies what the bits mean,
3. ``tl.dot`` in TF32 sees the upper 10 bits of each mantissa, which is what a tensor
   core does with operands that nobody rounded, and the least exact it may be, and
4. any other arithmetic on bfloat16 is an error: emitted kernels compute in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton.language as tl
import triton.runtime.interpreter as ti
from numpy.typing import NDArray

Array = NDArray[Any]
BF16_BITS = np.uint32(16)
"""How many low bits of a float32 bfloat16 does without."""
TF32_MASK = np.uint32(0xFFFFE000)
"""The bits of a float32 that a tensor core reads in TF32: 10 of the mantissa."""


def to_bf16(values: Array) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, the even one where two are as near."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = (bits >> BF16_BITS) & np.uint32(1)
    rounded = (bits + (np.uint32(0x7FFF) + odd)) >> BF16_BITS
    nan = (bits >> BF16_BITS) | np.uint32(0x40)  # a NaN must not become infinite
    return np.where(np.isnan(values), nan, rounded).astype(np.uint16)


def from_bf16(bits: Array) -> NDArray[np.float32]:
    """What the bits of a bfloat16 mean."""
    return (bits.astype(np.uint32) << BF16_BITS).view(np.float32)


def to_tf32(values: Array) -> NDArray[np.float32]:
    """``values`` with the 13 bits cut off that TF32 does not read."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (bits & TF32_MASK).view(np.float32)


def _cast(plain: Any) -> Any:
    def cast(self: Any, source: Any, to: Any, *mode: Any) -> Any:
        old, new = source.dtype.scalar, to.scalar
        if old == new or tl.bfloat16 not in (old, new):
            return plain(self, source, to, *mode)
        if old == tl.bfloat16:
            wide = ti.TensorHandle(from_bf16(source.data), tl.float32)
            return wide if new == tl.float32 else plain(self, wide, to, *mode)
        return ti.TensorHandle(to_bf16(source.data.astype(np.float32)), new)

    return cast


def _dot(plain: Any) -> Any:
    def dot(self: Any, a: Any, b: Any, total: Any, precision: Any, exact: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (ti.TensorHandle(from_bf16(x.data), tl.float32) for x in (a, b))
        elif a.dtype.scalar == tl.float32 and str(precision).endswith(".TF32"):
            a, b = (ti.TensorHandle(to_tf32(x.data), tl.float32) for x in (a, b))
        return plain(self, a, b, total, precision, exact)

    return dot


def _arithmetic(plain: Any) -> Any:
    def arithmetic(self: Any, left: Any, *rest: Any) -> Any:
        if left.dtype.scalar == tl.bfloat16:
            raise TypeError("arithmetic on bfloat16: convert to float32 first")
        return plain(self, left, *rest)

    return arithmetic


@contextmanager
def gpu_numbers() -> Iterator[None]:
    """The interpreter computes as a GPU would, as the module says."""
    builder = ti.InterpreterBuilder
    wrappers = {
        "cast_impl": _cast,
        "create_fp_to_fp": _cast,
        "create_dot": _dot,
        "binary_op": _arithmetic,
        "unary_op": _arithmetic,
    }
    plain = {name: getattr(builder, name) for name in wrappers}
    for name, wrapper in wrappers.items():
        setattr(builder, name, wrapper(plain[name]))
    try:
        with np.errstate(all="ignore"):  # as silent as a GPU about NaN and infinity
            yield
    finally:
        for name, function in plain.items():
            setattr(builder, name, function)
