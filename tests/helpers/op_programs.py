"""One op alone as a program: the graph around it, and data for its inputs."""

from dataclasses import replace

import numpy as np
from compiled import State
from op_bench import Case, one_op
from op_cases import CASES

from convc.backends.base import OPTIMIZERS
from convc.ir.builder import GraphBuilder
from convc.ir.graph import Graph, Value
from convc.ir.ops import OPS

PLAIN = [c for c in CASES if c.op not in OPTIMIZERS]
STEPS = [c for c in CASES if c.op in OPTIMIZERS]
_SEEN: set[str] = set()


def _first_of(op: str) -> bool:
    """Whether an op is new to the list: its geometry does not depend on the dtype."""
    new = op not in _SEEN
    _SEEN.add(op)
    return new


WIDE = [
    replace(c, types=tuple(t.replace("f32", "f64") for t in c.types))
    for c in PLAIN
    if any("f32" in t for t in c.types) and _first_of(c.op)
]


def bench(case: Case, integers: bool = False) -> tuple[Graph, State]:
    """The case's graph and its inputs, in the types it wants."""
    graph = one_op(case.op, case.types, case.attrs)
    arrays = [np.zeros(case.batch, np.uint8), *case.arrays(integers)]
    feeds = {
        v.name: a.astype(v.type.dtype.numpy)
        for v, a in zip(graph.inputs, arrays, strict=True)
    }
    return graph, feeds


def updating(case: Case, copies: int = 1) -> Graph:
    """Parameters updated by the op of ``case`` from gradients that are inputs."""
    b, names = GraphBuilder("updating"), OPS[case.op].operands
    shared: dict[str, Value] = {}
    for number in range(copies):
        operands = []
        for name, tensor in zip(names, case.tensors, strict=True):
            if name in ("lr", "step"):
                if name not in shared:
                    shared[name] = b.input(name, tensor)
                operands.append(shared[name])
            elif name == "g":
                operands.append(b.input(f"g{number}", tensor))
            else:
                operands.append(b.parameter(f"{name}{number}", tensor))
        results = b.emit(case.op, operands, case.attrs)
        state = [v for v in operands if v.name[0] in "pmv" and v.name != "lr"]
        for target, value in zip(state, results, strict=True):
            b.update(target, value)
    return b.finish()


def fed(case: Case, graph: Graph) -> tuple[State, State]:
    """Inputs and parameters for ``updating``: the case's operands, scaled by copy."""
    names = OPS[case.op].operands
    arrays = dict(zip(names, case.arrays(), strict=True))

    def scaled(value: Value) -> np.ndarray:
        if value.name in arrays:
            array = arrays[value.name]
        else:
            array = arrays[value.name[0]] / (1 + int(value.name[1:]))
        return np.asarray(array).astype(value.type.dtype.numpy)

    inputs = {v.name: scaled(v) for v in graph.inputs}
    return inputs, {p.value.name: scaled(p.value) for p in graph.parameters}
