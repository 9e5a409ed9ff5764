"""How a user writes names, shapes and types; TypeRuleError for what is none."""

import re
from collections.abc import Sequence

from convc.ir.errors import TypeRuleError
from convc.ir.types import BATCH, Dim, DType, TensorType

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
"""What a scope, a layer, a variable, an input or an output may be called."""

_TYPE = re.compile(r"\s*(\w+)\s*\[([^\]]*)\]\s*")


def checked_name(what: str, name: object) -> str:
    """``name``, one part of a path (no slash in it)."""
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    remedy = ""
    if isinstance(name, str) and "/" in name:
        remedy = "; nest variable_scope instead of writing a slash"
    raise TypeRuleError(
        f"{what}: a name begins with a letter and has letters, digits and _ . - only, "
        f"got {name!r}{remedy}"
    )


def checked_shape(path: str, shape: object) -> tuple[int, ...]:
    """``shape`` of the variable ``path``: whole numbers from 1."""
    dims = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    for dim in dims:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise TypeRuleError(
                f"the shape of the variable {path} must be whole numbers from 1, "
                f"got {shape!r}"
            )
    return dims


def tensor_type(given: object) -> TensorType:
    """``given`` as a type: a TensorType, or text like ``"f32[N,28,28,1]"``."""
    if isinstance(given, TensorType):
        return given
    match = _TYPE.fullmatch(given) if isinstance(given, str) else None
    known = {d.value: d for d in DType}
    if match is None or match[1] not in known:
        raise TypeRuleError(
            f"a tensor type is written like f32[N,28,28,1], got {given!r}; "
            f"the dtypes are {', '.join(known)}"
        )
    dims = match[2].split(",") if match[2].strip() else []
    return TensorType(known[match[1]], tuple(_dim(d.strip(), given) for d in dims))


def _dim(text: str, given: object) -> Dim:
    if text == BATCH:
        return BATCH
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise TypeRuleError(
            f"a dimension is N (the batch) or a whole number, got {text!r} in {given!r}"
        )
    return int(text)
