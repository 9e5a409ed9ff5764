"""What storing a result in 16 bits adds to its error, and what tf32 does to operands.

Ops on 16-bit floats are taken to compute in float32 and to round their result once, to
the nearest; or not at all where a kernel hands it on in a register.
"""

from dataclasses import replace

import numpy as np

from convc.ir.rounding_base import DOUBLE, WIDEN, Arithmetic, Rounded, Site
from convc.ir.types import DType

BF16 = Arithmetic(2.0**-8, 2.0**-126, 2.0**128 * (1 - 2.0**-9))
"""bfloat16: 8 significant bits and float32's exponents."""
F16 = Arithmetic(2.0**-11, 2.0**-25, 65520.0)
"""float16: 11 significant bits; its subnormal numbers are kept."""
TF32_BITS = 11
"""Significant bits that tf32 keeps of an operand, one of them implied."""
CHOOSES = frozenset(
    {
        *("reshape", "copy", "transpose", "concat", "slice", "pad", "broadcast_to"),
        *("negate", "relu", "relu_grad", "max_pool2d", "maximum", "minimum"),
    }
)
"""Ops each of whose results is an element of an operand, its negative, or 0: what is
stored already is not rounded again. (So is a max_pool2d_grad without sums.)"""


def stored(site: Site, results: tuple[Rounded, ...]) -> tuple[Rounded, ...]:
    """``results`` with what is lost when those of 16 bits are stored."""
    op = site.node.op
    chooses = op in CHOOSES or (op == "max_pool2d_grad" and site.terms == 1)
    if site.unit <= DOUBLE or chooses:
        return results
    return tuple(
        _in_half(result, value.type.dtype) if value.type.dtype.is_half else result
        for result, value in zip(results, site.node.results, strict=True)
    )


def _in_half(result: Rounded, kind: DType) -> Rounded:
    """A float32 number rounded to the nearest of ``kind``, exactly where it is known.

    The rounded sum stays open for later terms, which may as well come before.
    """
    arithmetic = BF16 if kind is DType.BF16 else F16
    near = result.value.astype(kind.numpy).astype(np.float64)
    lost = np.where(np.isfinite(result.value), np.abs(result.value - near), 0.0)
    unknown = (arithmetic.unit * result.size + arithmetic.tiny) * WIDEN
    added = np.where(result.error == 0, lost, unknown)
    over = np.isfinite(result.value) & (result.size >= arithmetic.huge)
    added = np.where(over, np.inf, added)
    still_open = result.sum and replace(
        result.sum,
        inherited=result.sum.inherited + added,
        mass=result.sum.mass + added,
    )
    return Rounded(result.value, result.error + added, still_open)


def taken(site: Site) -> tuple[Rounded, Rounded, int]:
    """A product's operands as ``precision`` and dtype have it, and a sum's looseness.

    That is 2 where tensor cores may add: they truncate, which loses up to a whole unit
    in the last place (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of
    NVIDIA tensor cores", 2021), else 1.
    """
    x, y = site.args
    precision = site.attrs.get("precision")
    half = site.node.operands[0].type.dtype.is_half
    if site.unit <= DOUBLE or precision is None or not (half or precision == "tf32"):
        return x, y, 1
    return (x, y, 2) if half else (_cut(x), _cut(y), 2)


def _cut(x: Rounded) -> Rounded:
    """``x`` with its last 13 bits dropped; a number without them stays what it is."""
    mantissa, _ = np.frexp(np.asarray(x.value, np.float64))
    kept = np.ldexp(mantissa, TF32_BITS)
    same = (x.error == 0) & (kept == np.rint(kept))
    lost = (2.0 ** (1 - TF32_BITS) * x.size + Arithmetic(0.0).tiny) * WIDEN
    return Rounded(x.value, np.where(same, 0.0, x.error + lost))
