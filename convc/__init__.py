"""convc: a graph compiler for convnets.

A model is a Python function. convc traces it into a small, printable graph,
differentiates it, fuses and tiles it, plans its memory, and emits source that a
person can read. `convc.ir` is the language, `convc.backends` are the targets.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a checkout ir/ and backends/ lie beside this folder; in a wheel, inside it.
if not (Path(__file__).parent / "ir").exists():
    __path__.append(str(Path(__file__).parents[1]))

__version__ = "0.1.0"

if TYPE_CHECKING:
    from convc.api import *  # noqa: F403 - the list is there


def __getattr__(name: str) -> Any:
    """A public name of ``convc.api``, imported at its first use."""
    if name.startswith("__") or find_spec(f"convc.{name}"):
        # A module of the package: the import statement that asks goes on by itself.
        raise AttributeError(f"module 'convc' has no attribute {name!r}")
    api = import_module("convc.api")
    if name not in api.__all__:
        raise AttributeError(f"module 'convc' has no attribute {name!r}")
    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("convc.api").__all__})
