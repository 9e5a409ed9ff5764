"""Checks of layer arguments; each gives the canonical form or a TypeRuleError.

``layer`` is the layer's kind, ``name`` the argument's. The scope of the layer turns
the error into a ModelError with the user's line.
"""

import operator
from collections.abc import Sequence
from math import isfinite
from typing import Any

from convc.ir.errors import TypeRuleError
from convc.ir.graph import Attr
from convc.tracing import Tensor

_PADDING = "padding is same, valid, a number or [[top, bottom], [left, right]]"


def tensor(layer: str, name: str, given: object, rank: int | None = None) -> Tensor:
    """``given``, a tensor with ``rank`` axes (any number if None)."""
    if not isinstance(given, Tensor):
        raise TypeRuleError(
            f"{layer}: {name} must be a tensor of the traced function, got a "
            f"{type(given).__name__}; pass data as an input of the model"
        )
    if rank is not None and given.rank != rank:
        remedy = "; reshape(x, [-1, height, width, channels]) makes images"
        raise TypeRuleError(
            f"{layer}: {name} must have {rank} axes, has {given.rank} "
            f"({name}: {given.type}){remedy if rank == 4 else ''}"
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


def pair(layer: str, name: str, given: object) -> tuple[int, int]:
    """One number for both axes, [height, width], or [1, height, width, 1]."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        number = whole(layer, name, given)
        return number, number
    numbers = [whole(layer, name, n) for n in given]
    if len(numbers) == 4:
        if numbers[0] != 1 or numbers[3] != 1:
            raise TypeRuleError(
                f"{layer}: {name} must be 1 for the batch and the channels, "
                f"got {list(given)}; write [1, {numbers[1]}, {numbers[2]}, 1]"
            )
        numbers = numbers[1:3]
    if len(numbers) != 2:
        raise TypeRuleError(
            f"{layer}: {name} has one number or two (height, width), "
            f"got {len(numbers)} in {list(given)}"
        )
    return numbers[0], numbers[1]


def padding(layer: str, given: object) -> Attr:
    """``same`` or ``valid`` in any case, a number, or a pair of numbers per axis."""
    if isinstance(given, str):
        if given.lower() not in ("same", "valid"):
            raise TypeRuleError(f"{layer}: {_PADDING}, got {given!r}")
        return given.lower()
    if not isinstance(given, Sequence):
        number = whole(layer, "padding", given, low=0)
        return ((number, number),) * 2
    sides = tuple(_sides(layer, given, axis) for axis in given)
    if len(sides) == 4 and sides[0] == sides[3] == (0, 0):
        sides = sides[1:3]
    if len(sides) != 2:
        raise TypeRuleError(f"{layer}: {_PADDING}, got {given!r}")
    return sides


def _sides(layer: str, given: object, axis: object) -> tuple[int, int]:
    if isinstance(axis, str) or not isinstance(axis, Sequence) or len(axis) != 2:
        raise TypeRuleError(f"{layer}: {_PADDING}, got {given!r}")
    before, after = (whole(layer, "padding", n, low=0) for n in axis)
    return before, after


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
