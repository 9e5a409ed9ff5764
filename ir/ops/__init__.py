"""The closed table of ops; IR text can name nothing else."""

from collections.abc import Mapping
from types import MappingProxyType

from convc.ir.errors import TypeRuleError
from convc.ir.ops import (
    conv,
    elementwise,
    linear,
    loss,
    normalization,
    optimizer,
    pool,
    random,
    reduction,
    shape,
)
from convc.ir.ops.base import Op

_MODULES = (
    conv,
    pool,
    linear,
    elementwise,
    reduction,
    shape,
    normalization,
    loss,
    random,
    optimizer,
)


def _collect() -> dict[str, Op]:
    classes = {
        item
        for module in _MODULES
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Op) and "name" in vars(item)
    }
    return {cls.name: cls() for cls in sorted(classes, key=lambda cls: cls.name)}


OPS: Mapping[str, Op] = MappingProxyType(_collect())
"""Every op by its text name."""


def op_named(name: str) -> Op:
    """The op called ``name``; TypeRuleError for an unknown one."""
    if name not in OPS:
        raise TypeRuleError(f"unknown op {name!r}; known: {', '.join(OPS)}")
    return OPS[name]
