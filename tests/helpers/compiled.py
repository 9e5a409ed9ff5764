"""Programs beside the oracle: the same graph, the same data."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convc.ir import philox
from convc.ir.graph import Graph
from convc.ir.interpreter import Result
from convc.ir.ops.base import Array
from convc.ir.rounding import Bounds, bounded
from convc.ir.types import DType, TensorType
from convc.passes.manager import Pass
from convc.pipeline import LOWERING, Step
from convc.program import Program

State = dict[str, NDArray[Any]]


class Runnable(Protocol):
    """A program of any backend: takes inputs, gives outputs, shows its parameters."""

    def __call__(self, **inputs: Any) -> dict[str, Array]: ...

    def state(self) -> dict[str, Array]: ...


def compiled(
    graph: Graph,
    batch: int,
    threads: int = 1,
    passes: Sequence[Pass] = LOWERING,
    check: bool = False,
) -> Program:
    """``graph`` through ``passes``, for the NumPy backend."""
    return Step(graph, tuple(passes)).compile("numpy", batch, threads, check)


def ran(program: Runnable, inputs: Mapping[str, Array]) -> Result:
    """One step of ``program``: its outputs, and every parameter afterwards."""
    with np.errstate(all="ignore"):
        outputs = program(**inputs)
    return Result(outputs, program.state())


def faults(graph: Graph, bounds: Bounds, result: Result) -> list[str]:
    """How ``result`` differs from what ``graph`` means by more than rounding may.

    Outputs must have the types that the graph says.
    """
    found = bounds.faults(result)
    for name, value in graph.outputs:
        if result.outputs[name].dtype != value.type.dtype.numpy:
            found.append(f"{name} is {result.outputs[name].dtype}, not {value.type}")
    return found


def agrees(
    graph: Graph,
    inputs: Mapping[str, Array],
    program: Runnable,
    given: Mapping[str, Array] | None = None,
) -> tuple[Result, list[str]]:
    """One step of ``program`` from where it stands, and its faults.

    It must not touch parameters that the graph does not update. ``given`` has values
    for states that the graph has and the program does not need.
    """
    before = {**(given or {}), **program.state()}
    bounds = bounded(graph, inputs, before)
    result = ran(program, inputs)
    found = faults(graph, bounds, result)
    updated = {target.name for target, _ in graph.updates}
    for name in result.updates.keys() - updated:
        if not np.array_equal(before[name], result.updates[name]):
            found.append(f"parameter {name} has changed")
    return result, found


def data(name: str, of: TensorType, batch: int, whole: bool = False) -> Array:
    """An array for ``of``: distinct floats up to 2, or small whole numbers.

    Integers are 0 or 1; the same name gives the same data.
    """
    shape, count = of.bind(batch), of.elements(batch)
    stream = philox.stream_of(name)
    if not of.dtype.is_float:
        words = philox.bits(11, stream, 0, count) % np.uint32(2)
        return words.astype(of.dtype.numpy).reshape(shape)
    if whole:
        words = philox.bits(11, stream, 0, count) % np.uint32(5)
        return words.astype(of.dtype.numpy).reshape(shape) - of.dtype.numpy.type(2)
    order = philox.permutation(11, stream, 0, count)
    steps = (order - (count - 1) / 2 + 0.3) * (4 / count)
    return steps.reshape(shape).astype(of.dtype.numpy)


def inputs_for(graph: Graph, batch: int, whole: bool = False) -> State:
    """Data for every input of a graph."""
    return {v.name: data(v.name, v.type, batch, whole) for v in graph.inputs}


def parameters_for(graph: Graph, whole: bool = False) -> State:
    """Data for every parameter of a graph, 1 to 4 for integers."""
    given = {}
    for p in graph.parameters:
        array = data(p.value.name, p.value.type, 1, whole)
        given[p.value.name] = array + 1 if p.value.type.dtype is DType.I64 else array
    return given


def poison(program: Program) -> None:
    """Fill what a step may not rely on, all but inputs and parameters, with NaN."""
    inputs = {v.name: program.input(v.name).copy() for v in program.graph.inputs}
    state = program.state()
    program.forget()
    program.load(state)
    for name, array in inputs.items():
        program.input(name)[...] = array
