"""convc: a graph compiler for convnets.

A model is a Python function. convc traces it into a small, printable graph,
differentiates it, fuses and tiles it, plans its memory, and emits source that a
person can read. `convc.ir` is the language, `convc.backends` are the targets.
"""

from pathlib import Path

# In a checkout ir/ and backends/ lie beside this folder; in a wheel, inside it.
if not (Path(__file__).parent / "ir").exists():
    __path__.append(str(Path(__file__).parents[1]))

__version__ = "0.1.0"
