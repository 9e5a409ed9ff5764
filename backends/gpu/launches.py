"""What an emitted file says of its launches, read without running it."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convc.ir.errors import CompileError

POINTERS = {
    "float32": "*fp32",
    "float64": "*fp64",
    "bfloat16": "*bf16",
    "float16": "*fp16",
    "int64": "*i64",
    "int32": "*i32",
    "int8": "*i8",
    "uint8": "*u8",
    "bool": "*i1",
}
"""How Triton spells a pointer to a dtype of torch."""
ALIGNED = 16
"""Bytes that a pointer is a multiple of, where vectors can be loaded from it."""


@dataclass(frozen=True)
class Machine:
    """What decides the machine code of a launch, besides the target.

    ``signature`` has a pointer's type for each argument; ``aligned`` are the positions
    of those that are multiples of 16 bytes.
    """

    kernel: str
    signature: tuple[tuple[str, str], ...]
    aligned: tuple[int, ...]
    warps: int
    stages: int


@dataclass(frozen=True)
class Launch:
    """A launch: a kernel, the programs of its grid, the places its pointers lead to."""

    machine: Machine
    programs: int
    pointers: tuple[str, ...]

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return self.machine.kernel


def read_launches(source: str) -> list[Launch]:
    """The launches of an emitted file, in order; CompileError if it is none."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise CompileError(f"no emitted file: {error}") from error
    tables = {
        node.targets[0].id: node.value
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    functions = {n.name: n for n in body if isinstance(n, ast.FunctionDef)}
    places, launches = tables.get("PLACES"), tables.get("LAUNCHES")
    if places is None or not isinstance(launches, ast.List | ast.Tuple):
        raise CompileError("no emitted file: it must have LAUNCHES and PLACES")
    where: dict[str, tuple[str, int, int]] = ast.literal_eval(places)
    return [_launch(row, functions, where) for row in launches.elts]


def _launch(
    row: ast.expr,
    functions: Mapping[str, ast.FunctionDef],
    places: Mapping[str, tuple[str, int, int]],
) -> Launch:
    if not isinstance(row, ast.Tuple) or not isinstance(row.elts[0], ast.Name):
        raise CompileError("no emitted file: a launch must be (kernel, programs, …)")
    name, values = row.elts[0].id, [ast.literal_eval(x) for x in row.elts[1:]]
    programs, pointers, warps, stages = values
    arguments = [a.arg for a in functions[name].args.args]
    if len(arguments) != len(pointers):
        raise CompileError(
            f"kernel {name} takes {len(arguments)} pointers, its launch has "
            f"{len(pointers)}"
        )
    kinds = [POINTERS[places[p][0]] for p in pointers]
    machine = Machine(
        kernel=name,
        signature=tuple(zip(arguments, kinds, strict=True)),
        aligned=tuple(i for i, p in enumerate(pointers) if places[p][1] % ALIGNED == 0),
        warps=warps,
        stages=stages,
    )
    return Launch(machine, programs, tuple(pointers))


def job_of(machine: Machine) -> dict[str, Any]:
    """The same as plain values, for another process."""
    return {
        "kernel": machine.kernel,
        "signature": dict(machine.signature),
        "aligned": list(machine.aligned),
        "options": {
            "num_warps": machine.warps,
            "num_stages": machine.stages,
            # Its default changes with Triton 3.10.
            "enable_fp_fusion": True,
        },
    }
