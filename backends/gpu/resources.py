"""What compiled kernels need of their device, read from machine code; no GPU needed.

NVIDIA: ``cuobjdump -res-usage`` and ``nvdisasm``, which come with Triton. AMD: the
metadata in the assembly (LLVM, User Guide for AMDGPU Backend, "Code Object Metadata").
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from convc.backends.gpu.compiling import Binary, Compiled, triton_folder
from convc.backends.gpu.targets import Target
from convc.ir.errors import CompileError

TENSOR = ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA", "IMMA", "IGMMA", "v_mfma", "v_smfmac")
"""Opcodes of the units for matrix products: mma, wgmma, tcgen05, mfma."""
BULK = ("UTMALDG", "UTMASTG", "UBLKCP")
"""Opcodes of copies between memory and shared memory that one thread starts."""


@dataclass(frozen=True)
class Resources:
    """What one kernel needs.

    ``registers`` of a thread; ``spills``: instructions that put registers into memory
    or get them back (AMD: vector registers that this happens to); ``stack_bytes`` of a
    thread; ``shared_bytes`` and ``warps`` of a block; ``blocks``: how many run on a
    multiprocessor together, and ``limit``: what keeps it from more. ``mix`` counts
    opcodes without their modifiers; ``loads``, ``stores`` and ``copies`` (from memory
    to shared memory, asynchronously) count instructions by the bytes a thread moves.
    """

    kernel: str
    target: Target
    registers: int
    spills: int
    stack_bytes: int
    shared_bytes: int
    warps: int
    blocks: int
    limit: str
    mix: Mapping[str, int]
    loads: Mapping[int, int]
    stores: Mapping[int, int]
    copies: Mapping[int, int]

    @property
    def instructions(self) -> int:
        """How long the kernel is, in instructions."""
        return sum(self.mix.values())

    @property
    def tensor(self) -> int:
        """Instructions that multiply matrices."""
        return sum(n for op, n in self.mix.items() if op.startswith(TENSOR))

    @property
    def bulk(self) -> int:
        """Bulk copies."""
        return sum(self.mix.get(op, 0) for op in BULK)

    @property
    def occupancy(self) -> float:
        """The part of a multiprocessor's warps that it can keep at work."""
        return self.blocks * self.warps / self.target.warps

    @property
    def fault(self) -> str:
        """Why it cannot be launched on its target, or nothing."""
        most = self.target.block_shared_bytes
        if self.shared_bytes > most:
            return (
                f"kernel {self.kernel} needs {self.shared_bytes} bytes of shared "
                f"memory, {self.target.name} has {most} for a block"
            )
        if self.warps * self.target.warp_size > self.target.block_threads:
            return (
                f"kernel {self.kernel} has {self.warps * self.target.warp_size} "
                f"threads, {self.target.name} allows {self.target.block_threads}"
            )
        return ""


def resources_of(compiled: Compiled) -> list[Resources]:
    """The resources of each launch, in order; CompileError if a tool is missing."""
    distinct = {id(b): b for b in compiled.binaries}
    with ThreadPoolExecutor() as pool:
        found = dict(
            zip(
                distinct,
                pool.map(lambda b: _resources(b, compiled.target), distinct.values()),
                strict=True,
            )
        )
    return [found[id(b)] for b in compiled.binaries]


def blocks_together(
    target: Target, warps: int, registers: int, shared_bytes: int
) -> tuple[int, str]:
    """How many blocks a multiprocessor runs together, and what keeps it from more.

    As in NVIDIA's ``cuda_occupancy.h``: registers are given to whole warps in units
    and lie in the partitions that warps are spread over, shared memory in units of 128
    bytes and with what the system reserves. AMD's SIMD units are such partitions.
    """
    unit = target.register_unit
    of_warp = max(-(-registers * target.warp_size // unit), 1) * unit
    in_partition = target.registers // target.partitions // of_warp
    of_block = -(-(shared_bytes + target.reserved_shared_bytes) // 128) * 128
    most = {
        "blocks": target.blocks,
        "warps": target.warps // warps,
        "registers": in_partition * target.partitions // warps,
        "shared memory": target.shared_bytes // of_block if of_block else target.blocks,
    }
    limit = min(most, key=lambda name: most[name])
    return most[limit], limit


def _resources(binary: Binary, target: Target) -> Resources:
    if target.vendor == "cuda":
        usage, code = _nvidia(binary, target)
    else:
        usage, code = _amd(binary)
    warps, shared = binary.metadata["num_warps"], usage["shared"]
    registers = usage["registers"]
    blocks, limit = blocks_together(target, warps, registers, shared)
    mix = Counter(op.split(".")[0] for op in code)
    spills = usage.get("spills", mix["LDL"] + mix["STL"])
    return Resources(
        kernel=binary.kernel,
        target=target,
        registers=registers,
        spills=spills,
        stack_bytes=usage["stack"],
        shared_bytes=shared,
        warps=warps,
        blocks=blocks,
        limit=limit,
        mix=dict(mix.most_common()),
        loads=_widths(code, r"LDG\.|(global|buffer|flat)_load_(?!lds)"),
        stores=_widths(code, r"STG\.|(global|buffer|flat)_store_"),
        copies=_widths(code, r"LDGSTS\.|(global|buffer)_load_lds_"),
    )


_OPCODE = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.M)
_AMD_OPCODE = re.compile(r"^\s+([a-z]\w*_\w+)(?=\s|$)", re.M)


def _nvidia(binary: Binary, target: Target) -> tuple[dict[str, int], list[str]]:
    usage = _tool("cuobjdump", "-res-usage", binary.files["cubin"])
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if found is None:
        raise CompileError(f"cuobjdump says nothing of {binary.kernel}: {usage!r}")
    registers, stack, shared, local = map(int, found.groups())
    if int(target.architecture) >= 90:  # from then on counted there, if any is used
        shared = max(shared - target.reserved_shared_bytes, 0)
    code = _tool("nvdisasm", "-c", binary.files["cubin"])
    return {
        "registers": registers,
        "stack": stack + local,
        "shared": shared + binary.metadata["shared"],
    }, _OPCODE.findall(code)


def _amd(binary: Binary) -> tuple[dict[str, int], list[str]]:
    text = binary.text("amdgcn")
    code, _, metadata = text.partition(".amdgpu_metadata")

    def value(name: str) -> int:
        found = re.search(rf"^\s+\.{name}:\s+(\d+)", metadata, re.M)
        if found is None:
            raise CompileError(f"the assembly of {binary.kernel} has no {name}")
        return int(found.group(1))

    return {
        "registers": value("vgpr_count"),
        "spills": value("vgpr_spill_count"),  # scalar ones go into lanes of these
        "stack": value("private_segment_fixed_size"),
        "shared": value("group_segment_fixed_size") + binary.metadata["shared"],
    }, _AMD_OPCODE.findall(code)


_WIDTHS = {
    "U8": 1,
    "S8": 1,
    "U16": 2,
    "S16": 2,
    "64": 8,
    "128": 16,
    "ubyte": 1,
    "sbyte": 1,
    "byte": 1,
    "ushort": 2,
    "sshort": 2,
    "short": 2,
    "dword": 4,
    "dwordx2": 8,
    "dwordx3": 12,
    "dwordx4": 16,
}


def _widths(code: list[str], pattern: str) -> dict[int, int]:
    """How many of the matching instructions move how many bytes."""
    found = Counter(_width(op) for op in code if re.match(pattern, op))
    return dict(sorted(found.items(), reverse=True))


def _width(opcode: str) -> int:
    """The bytes that a thread moves; 4 where nothing is said."""
    for part in re.split(r"[._]", opcode):
        if part in _WIDTHS:
            return _WIDTHS[part]
    return 4


def _tool(name: str, option: str, file: Path) -> str:
    """What one of the tools prints about a file."""
    tool = triton_folder() / "backends" / "nvidia" / "bin" / name
    try:
        done = subprocess.run(
            [tool, option, file], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise CompileError(
            f"{name}, which reads machine code, does not run ({error}); it comes with "
            "Triton's wheel"
        ) from error
    if done.returncode:
        raise CompileError(f"{name} failed: {done.stderr.strip()}")
    return done.stdout
