"""The oracle: evaluates a graph at any stage with the ops' references."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.ir.errors import RunError
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops import OPS
from convc.ir.ops.base import Array, evaluated
from convc.ir.types import BATCH, DType


@dataclass(frozen=True)
class Result:
    """What a run gave: outputs by their names, updated parameters by theirs."""

    outputs: dict[str, Array]
    updates: dict[str, Array]


class Memo:
    """Results of operations, for running similar graphs on the same arrays.

    References are pure: one op with equal attributes on the very same arrays gives
    equal results, and need not be run again. What the last run did not use is
    forgotten. Arrays that went through a memo must not be written to.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[list[Array], list[Array]]] = {}
        self._fresh: dict[Any, tuple[list[Array], list[Array]]] = {}

    def results(
        self, node: Node, operands: list[Array], batch: int, float64: bool
    ) -> list[Array]:
        """What ``node`` makes of ``operands``."""
        attrs = repr(sorted(node.attrs.items()))
        key = (node.op, attrs, batch, float64, *map(id, operands))
        found = self._fresh.get(key) or self._known.get(key)
        if found is None:  # the operands are kept so that their ids stay taken
            found = operands, _evaluate(node, operands, batch, float64)
        self._fresh[key] = found
        return found[1]

    def turn(self) -> None:
        """A run is over: forget what it did not use."""
        self._known, self._fresh = self._fresh, {}


def interpret(
    graph: Graph,
    inputs: Mapping[str, Array],
    parameters: Mapping[str, Array],
    float64: bool = False,
    memo: Memo | None = None,
) -> Result:
    """Run ``graph`` on logical (plain layout) arrays; slow and obvious.

    Ops on 16-bit floats compute in float32 and round their result once. With
    ``float64`` every f32, bf16 and f16 value is computed and returned in float64, and
    what an op's ``precision`` allows is not made use of either way. With ``memo``
    operations that the run before did on the same arrays are not done again. RunError
    for an array that is missing, misshapen or of another kind of number; what the graph
    feeds itself need not be given.
    """
    batch = batch_of(graph, inputs)
    inputs = {**fed(graph), **inputs}
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
        state[value.name] = array.astype(_dtype(value, float64), copy=memo is None)
    with np.errstate(all="ignore"):  # overflow and 0/0 give what IEEE 754 says
        _run(graph.nodes, state, batch, float64, memo)
    if memo is not None:
        memo.turn()
    return Result(
        {name: state[v.name] for name, v in graph.outputs},
        {target.name: state[v.name] for target, v in graph.updates},
    )


def fed(graph: Graph) -> dict[str, Array]:
    """What the inputs hold that the graph feeds, by name."""
    return {name: np.asarray(number, np.float32) for name, number in graph.feeds}


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
    nodes: tuple[Node, ...],
    state: dict[str, Array],
    batch: int,
    float64: bool,
    memo: Memo | None,
) -> None:
    for node in nodes:
        operands = [state[v.name] for v in node.operands]
        if node.region is not None:
            local = dict(
                zip((v.name for v in node.region.inputs), operands, strict=True)
            )
            _run(node.region.nodes, local, batch, float64, memo)
            results = [local[v.name] for v in node.region.yields]
        elif memo is not None:
            results = memo.results(node, operands, batch, float64)
        else:
            results = _evaluate(node, operands, batch, float64)
        state.update(zip((v.name for v in node.results), results, strict=True))


def _evaluate(
    node: Node, operands: list[Array], batch: int, float64: bool
) -> list[Array]:
    arrays = evaluated(OPS[node.op], operands, node.attrs, batch)
    return [
        array.astype(_dtype(value, float64))
        for value, array in zip(node.results, arrays, strict=True)
    ]


def _dtype(value: Value, float64: bool) -> "np.dtype[np.generic]":
    wide = float64 and value.type.dtype.is_float
    return DType.F64.numpy if wide else value.type.dtype.numpy
