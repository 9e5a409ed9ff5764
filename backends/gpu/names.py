"""Names: those an emitted file uses itself, and what Triton and torch call a dtype."""

import builtins

from convc.ir.types import DType

TRITON = {
    DType.F64: "float64",
    DType.F32: "float32",
    DType.BF16: "bfloat16",
    DType.F16: "float16",
    DType.I64: "int64",
    DType.I32: "int32",
    DType.U8: "uint8",
    DType.BOOL: "int1",
}
"""Triton's dtypes."""

TORCH = {kind: "bool" if name == "int1" else name for kind, name in TRITON.items()}
"""torch's dtypes, as the emitted file names them."""

RESERVED = frozenset(dir(builtins)).union(
    ("time", "torch", "triton", "tl", "pid", "acc"),
    ("BATCH", "ARENA_BYTES", "LAUNCHES", "LAUNCHES_OF", "PLACES", "ARRAYS", "FEEDS"),
    ("Program", "keeps", "keeps_share", "exp", "tanh"),
)
"""Names that kernels and their variables may not take."""
