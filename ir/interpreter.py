"""The oracle: evaluates a graph at any stage with the ops' references."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from convc.ir.errors import RunError
from convc.ir.graph import Graph, Node, Region, Value
from convc.ir.ops import OPS
from convc.ir.ops.base import Array
from convc.ir.types import BATCH, DType


@dataclass(frozen=True)
class Result:
    """What a run gave: outputs by their names, updated parameters by theirs."""

    outputs: dict[str, Array]
    updates: dict[str, Array]


def interpret(
    graph: Graph,
    inputs: Mapping[str, Array],
    parameters: Mapping[str, Array],
    float64: bool = False,
) -> Result:
    """Run ``graph`` on logical (plain layout) arrays; slow and obvious.

    With ``float64`` every f32 value is computed and returned in float64. RunError for
    an array that is missing, misshapen or of another kind of number.
    """
    batch = batch_of(graph, inputs)
    state: dict[str, Array] = {}
    for value in (*graph.inputs, *(p.value for p in graph.parameters)):
        source = inputs if value in graph.inputs else parameters
        if value.name not in source:
            raise RunError(f"{value}: {value.type} was not given")
        array = np.asarray(source[value.name])
        if array.shape != value.type.bind(batch):
            raise RunError(f"{value} must be {value.type}, got shape {array.shape}")
        if not np.can_cast(array.dtype, value.type.dtype.numpy, "same_kind"):
            raise RunError(f"{value} must be {value.type}, got {array.dtype} numbers")
        state[value.name] = array.astype(_dtype(value, float64))
    with np.errstate(all="ignore"):  # overflow and 0/0 give what IEEE 754 says
        _run(graph.nodes, state, batch, float64)
    return Result(
        {name: state[v.name] for name, v in graph.outputs},
        {target.name: state[v.name] for target, v in graph.updates},
    )


def batch_of(graph: Graph, inputs: Mapping[str, Array]) -> int:
    """The batch size that the arrays in ``inputs`` agree on (1 if none has one)."""
    sizes = {}
    for value in graph.inputs:
        if value.type.shape[:1] == (BATCH,) and value.name in inputs:
            array = np.asarray(inputs[value.name])
            if array.ndim:
                sizes[value.name] = array.shape[0]
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"%{name} has {size}" for name, size in sizes.items())
        raise RunError(f"all inputs must have one batch size: {listed}")
    batch = next(iter(sizes.values()), 1)
    if batch < 1:
        raise RunError("a batch has at least 1 image, got 0")
    return batch


def _run(
    nodes: tuple[Node, ...], state: dict[str, Array], batch: int, float64: bool
) -> None:
    for node in nodes:
        operands = [state[v.name] for v in node.operands]
        if node.region is not None:
            results = _run_region(node.region, operands, batch, float64)
        else:
            out = OPS[node.op].evaluate(operands, node.attrs, batch)
            results = out if isinstance(out, tuple) else (out,)
        for value, array in zip(node.results, results, strict=True):
            state[value.name] = np.asarray(array).astype(_dtype(value, float64))


def _run_region(
    region: Region, operands: list[Array], batch: int, float64: bool
) -> tuple[Array, ...]:
    local = {v.name: a for v, a in zip(region.inputs, operands, strict=True)}
    _run(region.nodes, local, batch, float64)
    return tuple(local[v.name] for v in region.yields)


def _dtype(value: Value, float64: bool) -> "np.dtype[np.generic]":
    wide = float64 and value.type.dtype is DType.F32
    return DType.F64.numpy if wide else value.type.dtype.numpy
