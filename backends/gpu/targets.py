"""What kernels are compiled for: the limits and the peaks of each kind of device.

Limits per block and multiprocessor: CUDA C++ Programming Guide, "Technical
Specifications per Compute Capability"; how they are allotted: CUDA Occupancy
Calculator. For AMD a multiprocessor is a compute unit: AMD Instinct MI300 Instruction
Set Architecture, section 3; AMD CDNA 3 white paper.

Peaks without sparsity, of the device named: A100 SXM 80 GB (NVIDIA A100 data sheet),
H200 SXM (NVIDIA H200 data sheet; an H100 SXM has the same arithmetic and 3.35 TB/s),
B200 (NVIDIA DGX B200 data sheet, an eighth of the system), RTX 3090, 4090 and 5090
(NVIDIA Ampere GA102, Ada and RTX Blackwell GPU architecture, appendix A; products of 16
bits summed in fp32), MI300X (AMD
Instinct MI300X data sheet).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from convc.ir.errors import CompileError


@dataclass(frozen=True)
class Target:
    """A kind of device that kernels are compiled for.

    ``architecture`` is how Triton spells it: a compute capability times ten, or a
    name. ``sms`` are the multiprocessors of ``device``. ``registers`` (32 bits each),
    ``threads``, ``blocks`` and ``shared_bytes`` are what a multiprocessor has for all
    blocks that run on it together; ``thread_registers``, ``block_threads`` and
    ``block_shared_bytes`` the most that one thread or block may use. A block takes
    ``reserved_shared_bytes`` of shared memory for the system. A warp is given its
    registers in multiples of ``register_unit``; warps are spread over ``partitions``.
    ``flops`` are operations per second by precision: fp32, tf32, bf16, fp16;
    ``bandwidth`` is bytes per second of the device's memory; ``launch_seconds`` is
    what one more small kernel costs in a sequence (assumed, not measured here).
    """

    name: str
    device: str
    vendor: str
    architecture: int | str
    warp_size: int
    sms: int
    registers: int
    thread_registers: int
    register_unit: int
    partitions: int
    threads: int
    block_threads: int
    blocks: int
    shared_bytes: int
    block_shared_bytes: int
    reserved_shared_bytes: int
    flops: Mapping[str, float]
    bandwidth: float
    launch_seconds: float = 2e-6

    @property
    def warps(self) -> int:
        """How many warps a multiprocessor runs together at most."""
        return self.threads // self.warp_size

    @property
    def compiles(self) -> bool:
        """Whether there is machine code for it; the interpreter runs Python."""
        return self.vendor != "interpreter"


KIB = 1024


def _nvidia(
    name: str,
    device: str,
    sms: int,
    flops: tuple[float, float, float],
    bandwidth: float,
    *,
    shared: int = 228 * KIB,
    threads: int = 2048,
    blocks: int = 32,
) -> Target:
    """What all NVIDIA devices from compute capability 8.0 on have in common."""
    fp32, tf32, half = flops
    return Target(
        name=name,
        device=device,
        vendor="cuda",
        architecture=int(name.removeprefix("sm_")),
        warp_size=32,
        sms=sms,
        registers=64 * KIB,
        thread_registers=255,
        register_unit=256,
        partitions=4,
        threads=threads,
        block_threads=1024,
        blocks=blocks,
        shared_bytes=shared,
        block_shared_bytes=shared - KIB,
        reserved_shared_bytes=KIB,
        flops={"fp32": fp32, "tf32": tf32, "bf16": half, "fp16": half},
        bandwidth=bandwidth,
    )


MI300X = Target(
    name="gfx942",
    device="MI300X",
    vendor="hip",
    architecture="gfx942",
    warp_size=64,
    sms=304,
    registers=128 * KIB,
    thread_registers=512,
    register_unit=512,  # eight for each lane
    partitions=4,
    threads=2048,
    block_threads=1024,
    blocks=32,
    shared_bytes=64 * KIB,
    block_shared_bytes=64 * KIB,
    reserved_shared_bytes=0,
    flops={"fp32": 163.4e12, "tf32": 653.7e12, "bf16": 1307.4e12, "fp16": 1307.4e12},
    bandwidth=5.3e12,
)

INTERPRETER = Target(
    name="interpret",
    device="Triton's interpreter",
    vendor="interpreter",
    architecture="interpret",
    warp_size=1,
    sms=1,
    registers=1 << 30,
    thread_registers=1 << 30,
    register_unit=1,
    partitions=1,
    threads=1,
    block_threads=1 << 10,
    blocks=1,
    shared_bytes=1 << 40,
    block_shared_bytes=1 << 40,
    reserved_shared_bytes=0,
    # About what NumPy does below it: a few operations for each of its Python calls.
    flops=dict.fromkeys(("fp32", "tf32", "bf16", "fp16"), 2e9),
    bandwidth=1e9,
    launch_seconds=1e-4,
)

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _nvidia(
            "sm_80", "A100", 108, (19.5e12, 156e12, 312e12), 2.039e12, shared=164 * KIB
        ),
        _nvidia(
            "sm_86",
            "RTX 3090",
            82,
            (35.6e12, 35.6e12, 71.2e12),
            0.936e12,
            shared=100 * KIB,
            threads=1536,
            blocks=16,
        ),
        _nvidia(
            "sm_89",
            "RTX 4090",
            128,
            (82.6e12, 82.6e12, 165.2e12),
            1.008e12,
            shared=100 * KIB,
            threads=1536,
            blocks=24,
        ),
        _nvidia("sm_90", "H200", 132, (67e12, 494.5e12, 989.5e12), 4.8e12),
        _nvidia("sm_100", "B200", 148, (75e12, 1.125e15, 2.25e15), 8e12),
        _nvidia(
            "sm_120",
            "RTX 5090",
            170,
            (104.8e12, 104.8e12, 209.5e12),
            1.792e12,
            shared=100 * KIB,
            threads=1536,
            blocks=24,
        ),
        MI300X,
        INTERPRETER,
    )
}
"""Every target by the name users give."""


def target_named(name: str) -> Target:
    """The target called ``name``; CompileError that lists those there are."""
    if name not in TARGETS:
        raise CompileError(f"unknown target {name!r}, known: {', '.join(TARGETS)}")
    return TARGETS[name]
