"""Checks of layer arguments; each gives the canonical form or a TypeRuleError.

``layer`` is the layer's kind, ``name`` the argument's. The scope of the layer turns
the error into a ModelError with the user's line.
"""

import operator
from collections.abc import Sequence
from math import isfinite
from typing import Any, TypeVar

from convc.ir.errors import TypeRuleError
from convc.ir.graph import Attr
from convc.tracing import Tensor

Entry = TypeVar("Entry")

FORMATS = ("NHWC", "NCHW")
"""Where a layer's images have their channels: last, or before height and width."""

_AXES = {
    1: ("length",),
    2: ("height", "width"),
    3: ("depth", "height", "width"),
}
"""What the spatial axes are called, by their number."""

_SIDES = {
    1: "[before, after]",
    2: "[[top, bottom], [left, right]]",
    3: "[[front, back], [top, bottom], [left, right]]",
}
_COUNTS = {1: "one number", 2: "one number or two", 3: "one number or three"}
_MADE = {3: "sequences", 4: "images", 5: "volumes"}


def tensor(layer: str, name: str, given: object, rank: int | None = None) -> Tensor:
    """``given``, a tensor with ``rank`` axes (any number if None)."""
    if not isinstance(given, Tensor):
        raise TypeRuleError(
            f"{layer}: {name} must be a tensor of the traced function, got a "
            f"{type(given).__name__}; pass data as an input of the model"
        )
    if rank is not None and given.rank != rank:
        shape, remedy = [*_AXES.get(rank - 2, ()), "channels"], ""
        if rank in _MADE:
            remedy = f"; reshape(x, [-1, {', '.join(shape)}]) makes {_MADE[rank]}"
        raise TypeRuleError(
            f"{layer}: {name} must have {rank} axes, has {given.rank} "
            f"({name}: {given.type}){remedy}"
        )
    return given


def whole(layer: str, name: str, given: object, low: int = 1) -> int:
    """``given``, a whole number of at least ``low``."""
    number = low - 1
    if not isinstance(given, bool):
        try:
            number = operator.index(given)  # type: ignore[arg-type]
        except TypeError:
            number = low - 1
    if number < low:
        raise TypeRuleError(
            f"{layer}: {name} must be a whole number of at least {low}, got {given!r}"
        )
    return number


def data_format(layer: str, given: object) -> str:
    """``given``, one of FORMATS."""
    if given not in FORMATS:
        raise TypeRuleError(
            f"{layer}: data_format is NHWC (channels last) or NCHW (channels first), "
            f"got {given!r}"
        )
    return str(given)


def sizes(
    layer: str, name: str, given: object, rank: int = 2, form: str = "NHWC"
) -> tuple[int, ...]:
    """One number for all ``rank`` spatial axes, or a number for each.

    Or, as TensorFlow has it, with a 1 for the batch and one for the channels, which
    stand where the data format ``form`` has them: [1, height, width, 1].
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        return (whole(layer, name, given),) * rank
    numbers = [whole(layer, name, n) for n in given]
    if len(numbers) == rank + 2:
        at = _channels(rank, form)
        inner = _spatial(numbers, at)
        if numbers[0] != 1 or numbers[at] != 1:
            plain = [1, *inner]
            plain.insert(at, 1)
            raise TypeRuleError(
                f"{layer}: {name} must be 1 for the batch and the channels, "
                f"got {list(given)}; write {plain}"
            )
        numbers = inner
    if len(numbers) != rank:
        raise TypeRuleError(
            f"{layer}: {name} has {_COUNTS[rank]} ({', '.join(_AXES[rank])}), "
            f"got {len(numbers)} in {list(given)}"
        )
    return tuple(numbers)


def _channels(rank: int, form: str) -> int:
    return 1 if form == "NCHW" else rank + 1


def _spatial(entries: list[Entry], channels: int) -> list[Entry]:
    """One entry for each axis, without those of the batch and the channels."""
    return [e for axis, e in enumerate(entries) if axis not in (0, channels)]


def padding(layer: str, given: object, rank: int = 2, form: str = "NHWC") -> Attr:
    """``same`` or ``valid`` in any case, a number, or a pair of numbers per axis."""
    if isinstance(given, str):
        if given.lower() not in ("same", "valid"):
            raise _no_padding(layer, given, rank)
        return given.lower()
    if not isinstance(given, Sequence):
        number = whole(layer, "padding", given, low=0)
        return ((number, number),) * rank
    if rank == 1 and len(given) == 2 and not isinstance(given[0], Sequence):
        given = [given]
    sides = []
    for axis in given:
        if isinstance(axis, str) or not isinstance(axis, Sequence) or len(axis) != 2:
            raise _no_padding(layer, given, rank)
        before, after = (whole(layer, "padding", n, low=0) for n in axis)
        sides.append((before, after))
    if len(sides) == rank + 2:
        at = _channels(rank, form)
        if sides[0] == sides[at] == (0, 0):
            sides = _spatial(sides, at)
    if len(sides) != rank:
        raise _no_padding(layer, given, rank)
    return tuple(sides)


def _no_padding(layer: str, given: object, rank: int) -> TypeRuleError:
    rule = f"padding is same, valid, a number or {_SIDES[rank]}"
    return TypeRuleError(f"{layer}: {rule}, got {given!r}")


def fraction(layer: str, name: str, given: object) -> float:
    """``given``, a number of [0, 1)."""
    value = real(layer, name, given)
    if not 0 <= value < 1:
        raise TypeRuleError(
            f"{layer}: {name} must be at least 0 and below 1, got {given!r}"
        )
    return value


def real(layer: str, name: str, given: object) -> float:
    """``given``, a finite number."""
    value: Any = given
    if not isinstance(given, bool | str):
        try:
            value = float(value)
        except (TypeError, ValueError):
            value = given
    if not isinstance(value, float) or not isfinite(value):
        raise TypeRuleError(f"{layer}: {name} must be a finite number, got {given!r}")
    return value


def axis(layer: str, given: object, x: Tensor) -> int:
    """``given``, a static axis of ``x``, counted from 0; negative from the end."""
    number = whole(layer, "axis", given, low=-x.rank)
    number += x.rank if number < 0 else 0
    if number >= x.rank or not isinstance(x.shape[number], int):
        raise TypeRuleError(
            f"{layer}: axis must be one of {x.type} other than the batch, got {given!r}"
        )
    return number
