"""Compiles the kernels of an emitted file to machine code, once for each machine.

It takes no GPU: the target is named. What Triton made of a file lies in the user's
cache from then on, with its metadata, so that a process with a GPU gets kernels that
are ready to be launched without compiling anything (``ready``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from convc.backends.gpu import cache
from convc.backends.gpu.launches import Launch, Machine, job_of, read_launches
from convc.backends.gpu.targets import Target, target_named
from convc.backends.gpu.workers import Progress, Workers, shared_workers
from convc.ir.errors import CompileError

KEPT = ("ptx", "cubin", "amdgcn", "hsaco")
"""What is kept of a compilation besides its metadata, by the files' endings."""

# Variables that may change what Triton makes begin with these.
_PREFIXES = ("TRITON_", "MLIR_", "LLVM_", "AMDGCN_", "NVPTX_", "PTXAS_", "DISABLE_")
_HARMLESS = {"TRITON_INTERPRET", "TRITON_CACHE_DIR", "TRITON_HOME"}


@dataclass(frozen=True)
class Binary:
    """The machine code of a kernel: files in the cache, by their endings."""

    kernel: str
    files: Mapping[str, Path]

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What Triton says of it: ``shared`` bytes, ``num_warps``, ``name``."""
        found: dict[str, Any] = json.loads(self.files["json"].read_bytes())
        return found

    def text(self, kind: str) -> str:
        """The assembly, ``ptx`` or ``amdgcn``."""
        return self.files[kind].read_text("utf-8")


@dataclass(frozen=True)
class Compiled:
    """An emitted file for a target: its launches, and the machine code of each."""

    target: Target
    launches: tuple[Launch, ...]
    binaries: tuple[Binary, ...]


def compile_source(
    source: str,
    target: str,
    *,
    progress: Progress | None = None,
    workers: Workers | None = None,
    folder: Path | None = None,
) -> Compiled:
    """The machine code of every launch of an emitted file, from the cache if there.

    Launches with the same kernel, types, alignment and warps share it. ``progress`` is
    told of each kernel that had to be compiled, ``workers`` (default: those that this
    process shares) compile them, ``folder`` (default: the user's cache) keeps them.
    CompileError names what is missing, or the kernel that cannot be compiled and why.
    """
    known = target_named(target)
    if not known.compiles:
        raise CompileError(f"nothing is compiled for target {target!r}")
    launches = read_launches(source)
    machines = list(dict.fromkeys(launch.machine for launch in launches))
    stems = [f"{i:02d}_{m.kernel}" for i, m in enumerate(machines)]

    def make(part: Path) -> None:
        file = part / "source.py"
        file.write_text(source, "utf-8")
        jobs = [
            {**_job(machine, known), "file": str(file), "folder": str(part), "stem": s}
            for machine, s in zip(machines, stems, strict=True)
        ]
        errors = (workers or shared_workers()).run(jobs, progress)
        _raise_first(machines, errors, target)

    path = cache.entry(folder or cache.cache_folder(), _made_from(source, target), make)
    binaries = {
        machine: Binary(machine.kernel, _files(path, stem))
        for machine, stem in zip(machines, stems, strict=True)
    }
    return Compiled(
        known, tuple(launches), tuple(binaries[x.machine] for x in launches)
    )


def ready(module: ModuleType, compiled: Compiled) -> list[Any]:
    """A ``triton.compiler.CompiledKernel`` for each launch of an emitted module.

    ``kernel[(programs, 1, 1)](*pointers)`` launches it on the current device, past
    Triton's dispatch. The module must be the compiled source, not interpreted.
    """
    from triton.compiler import ASTSource, CompiledKernel

    if len(module.LAUNCHES) != len(compiled.launches):
        raise CompileError(
            f"the module has {len(module.LAUNCHES)} launches, what was compiled has "
            f"{len(compiled.launches)}; compile the module's own source"
        )
    made: dict[Machine, Any] = {}
    for launch, binary in zip(compiled.launches, compiled.binaries, strict=True):
        if launch.machine in made:
            continue
        job = job_of(launch.machine)
        function = getattr(module, launch.kernel)
        attributes = {(i,): [["tt.divisibility", 16]] for i in job["aligned"]}
        source = ASTSource(fn=function, signature=job["signature"], attrs=attributes)
        group = {file.name: str(file) for file in binary.files.values()}
        made[launch.machine] = CompiledKernel(source, group, binary.metadata["hash"])
    return [made[launch.machine] for launch in compiled.launches]


def triton_version() -> str:
    """The version of Triton, which is not imported; CompileError if there is none.

    Importing it would decide whether this process can interpret.
    """
    init = triton_folder() / "__init__.py"
    found = re.search(r"^__version__ = ['\"](.+?)['\"]", init.read_text("utf-8"), re.M)
    if found is None:
        raise CompileError(f"{init} does not say which version of triton it is")
    return found.group(1)


def triton_folder() -> Path:
    """Where Triton is installed; CompileError if it is not."""
    spec = find_spec("triton")
    if spec is None or spec.origin is None:
        raise CompileError(
            "the triton backend compiles with triton, which is not installed; "
            "pip install 'convc[triton]'"
        )
    return Path(spec.origin).parent


def _job(machine: Machine, target: Target) -> dict[str, Any]:
    where = [target.vendor, target.architecture, target.warp_size]
    return {**job_of(machine), "target": where, "keep": KEPT}


def _made_from(source: str, target: str) -> dict[str, str]:
    """All that decides the machine code."""
    variables = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_PREFIXES) and name not in _HARMLESS
    }
    return {
        "source": hashlib.sha256(source.encode("utf-8")).hexdigest(),
        "target": target,
        "triton": triton_version(),
        "variables": json.dumps(variables),
    }


def _files(path: Path, stem: str) -> dict[str, Path]:
    files = {kind: path / f"{stem}.{kind}" for kind in ("json", *KEPT)}
    return {kind: file for kind, file in files.items() if file.exists()}


def _raise_first(
    machines: Sequence[Machine], errors: Sequence[str], target: str
) -> None:
    """Raise the first of the errors, if there is one."""
    for machine, error in zip(machines, errors, strict=True):
        if error:
            shown = error.replace("\n", "\n  ")
            raise CompileError(f"kernel {machine.kernel} for {target}: {shown}")
