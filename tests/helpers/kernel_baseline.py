"""What compiled kernels need, kept in files so that a regression shows.

``python tests/helpers/kernel_baseline.py`` writes the file of the Triton at hand anew;
what changed is then seen in the difference of the file. There is one file for each
minor version of Triton, ``tests/backends/gpu/baseline/triton-3.9.json``, with a line
for each kernel of each program and target.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from convc.backends import backend_named
from convc.backends.gpu.compiling import Compiled, compile_source, triton_version
from convc.backends.gpu.resources import Resources, resources_of
from convc.model import Model
from convc.networks import two_conv

FOLDER = Path(__file__).parents[1] / "backends" / "gpu" / "baseline"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
PROGRAMS = [
    *(("two_conv", "tf32", target) for target in TARGETS),
    ("two_conv", "fp32", "sm_90"),
    ("two_conv", "bf16", "sm_90"),
]
"""The training steps that are kept: network, precision, target."""
_NETWORKS = {"two_conv": two_conv}

Figures = dict[str, int | bool]
Baseline = dict[str, dict[str, Figures]]

UNIT = 8
"""Registers are given to a thread in eights, so that within one eight none is lost:
NVIDIA gives 256 to a warp of 32 at a time, AMD 512 to a wave of 64."""


def source_of(network: str, precision: str, target: str) -> str:
    """The emitted training step of a network, for 128 images."""
    model = Model(_NETWORKS[network], image="f32[N,28,28,1]", precision=precision)
    backend = f"triton:{target}"
    stages = model.training_step().stages(backend, batch=128, threads=1)
    return backend_named(backend).emit(stages[-1].graph).source


def baseline_file() -> Path:
    """Where the figures for this version of Triton are kept."""
    minor = ".".join(triton_version().split(".")[:2])
    return FOLDER / f"triton-{minor}.json"


def figures(found: Resources) -> Figures:
    """What is kept of a kernel."""
    return {
        "registers": found.registers,
        "spills": found.spills,
        "shared": found.shared_bytes,
        "blocks": found.blocks,
        "tensor": found.tensor > 0,
        "bytes": widest(found),
    }


def widest(found: Resources) -> int:
    """The most bytes that a thread loads at once; all of them in a bulk copy."""
    bulk = 128 if found.bulk else 0
    return max([*found.loads, *found.copies, bulk, 0])


def programs_figures(found: Sequence[Resources]) -> dict[str, Figures]:
    """What is kept of a program, by kernel."""
    return {r.kernel: figures(r) for r in found}


def broken_rules(
    source: str, compiled: Compiled, found: Sequence[Resources]
) -> list[str]:
    """What no kernel may do, whatever was kept."""
    wrong = []
    for launch, r in zip(compiled.launches, found, strict=True):
        kinds = {kind for _, kind in launch.machine.signature}
        if r.fault:
            wrong.append(r.fault)
        if r.spills:
            wrong.append(f"{r.kernel}: {r.spills} spills")
        if _multiplies(source, r.kernel, kinds) and not r.tensor:
            wrong.append(f"{r.kernel}: no instruction multiplies matrices")
    return list(dict.fromkeys(wrong))


def _multiplies(source: str, kernel: str, kinds: set[str]) -> bool:
    """Whether tensor cores take a kernel's products: tf32, or operands of 16 bits."""
    products = re.findall(r"tl\.dot\(.*", _text(source, kernel))
    return any("tf32" in p for p in products) or bool(
        products and {"*bf16", "*fp16"} & kinds
    )


def _text(source: str, kernel: str) -> str:
    """A kernel with the functions that it calls, and those that they call."""
    functions = {
        node.name: ast.unparse(node)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }
    wanted, found = [kernel], dict[str, str]()
    while wanted:
        name = wanted.pop()
        found[name] = functions.pop(name)
        wanted += [f for f in functions if re.search(rf"\b{f}\(", found[name])]
        wanted = list(dict.fromkeys(wanted))
    return "\n".join(found.values())


def regressions(kept: Mapping[str, Figures], now: Mapping[str, Figures]) -> list[str]:
    """What is worse now than was kept, and kernels that only one of them has."""
    worse = [f"{name}: not in the baseline" for name in now if name not in kept]
    worse += [f"{name}: in the baseline only" for name in kept if name not in now]
    for name in (name for name in kept if name in now):
        old, new = kept[name], now[name]
        worse += [f"{name}: {k} {new[k]}, was {old[k]}" for k in _worse(old, new)]
    return worse


def _worse(old: Figures, new: Figures) -> Iterator[str]:
    """The figures that have become worse."""
    if -(-new["registers"] // UNIT) > -(-old["registers"] // UNIT):
        yield "registers"
    yield from (key for key in ("spills", "shared") if new[key] > old[key])
    yield from (key for key in ("blocks", "tensor", "bytes") if new[key] < old[key])


def read_baseline() -> Baseline | None:
    """What was kept for this version of Triton, by program and target."""
    path = baseline_file()
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def text_of(baseline: Baseline) -> str:
    """The file: one line for each kernel."""
    blocks = []
    for name in sorted(baseline):
        rows = [f'  "{k}": {json.dumps(v)}' for k, v in baseline[name].items()]
        blocks.append(f' "{name}": {{\n' + ",\n".join(rows) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def main() -> None:
    """Compile all programs for all targets and write down what they need."""
    new = {}
    for program in PROGRAMS:
        name = " ".join(program)
        compiled = compile_source(
            source_of(*program),
            program[-1],
            progress=lambda *now, what=name: _say(what, now),
        )
        new[name] = programs_figures(resources_of(compiled))
    FOLDER.mkdir(exist_ok=True)
    baseline_file().write_text(text_of(new), "utf-8")
    _say(f"written: {baseline_file()}")


def _say(what: str, now: tuple[int, int, str] | None = None) -> None:
    told = f" {now[0]}/{now[1]} {now[2]}" if now else ""
    sys.stderr.write(f"{what}{told}\n")


if __name__ == "__main__":
    main()
