"""Contestants in turns on one device, and the peaks that it reaches there.

All of a GPU's clocks and graphs are those of ``convc.engines.device``, whose
interpreter stands in for them where there is no GPU.
"""

import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convc.engines import targeted
from convc.engines.device import Call, Device, device

Row = dict[str, Any]

TURN_SECONDS = 2e-3
"""How long a contestant's turn should last at least, so that the clock can tell."""
MOST_CALLS = 50


@dataclass(frozen=True)
class Size:
    """How much is measured: rounds, the sizes of the products and copies."""

    rounds: int
    side: int
    nbytes: int


FULL, SMALL = Size(20, 8192, 1 << 30), Size(1, 64, 1 << 20)


def size_for(name: str) -> Size:
    """On a GPU all; in the interpreter what shows that it runs."""
    return SMALL if name == "interpret" else FULL


def backend_for(name: str) -> str:
    """The backend whose kernels suit a device; the interpreter has tiles of its own."""
    return "triton:interpret" if name == "interpret" else targeted("triton", name)


@dataclass(frozen=True)
class Contestant:
    """A call that makes ``steps`` steps, or launches one after another."""

    name: str
    calls: Sequence[Call]
    steps: int = 1


def race(
    contestants: Sequence[Contestant], name: str, cold: bool = False
) -> dict[str, Row]:
    """Seconds of a step of each: medians and quartiles over rounds taken in turns.

    A turn is several calls, where one would be too short for the clock; ``cold`` has
    one only. The caches are flushed before a turn.
    """
    where, rounds = device(name), size_for(name).rounds
    with where.active():
        counts = [1 if cold else _calls_in_a_turn(where, c) for c in contestants]
        groups = [
            [*c.calls] * count for c, count in zip(contestants, counts, strict=True)
        ]
        times = where.seconds(groups, rounds)
    rows = {}
    for at, (c, count) in enumerate(zip(contestants, counts, strict=True)):
        rows[c.name] = spread([s / (count * c.steps) for s in times[at :: len(groups)]])
        rows[c.name]["steps_per_turn"] = count * c.steps
    return rows


def _calls_in_a_turn(where: Device, contestant: Contestant) -> int:
    if where.live:
        return 1
    once = statistics.median(where.seconds([contestant.calls], 3))
    return max(1, min(MOST_CALLS, round(TURN_SECONDS / max(once, 1e-7))))


def spread(seconds: Sequence[float]) -> Row:
    """The median, quartiles and least of some times, in microseconds."""
    micro = sorted(1e6 * s for s in seconds)
    quartiles = statistics.quantiles(micro, n=4) if len(micro) > 1 else micro * 3
    return {
        "median_us": round(quartiles[1], 3),
        "quartiles_us": [round(quartiles[0], 3), round(quartiles[2], 3)],
        "best_us": round(micro[0], 3),
        "rounds": len(micro),
    }


def set_precision(precision: str) -> Row:
    """Have torch multiply float32 in tf32, or not; what is set, to be reported."""
    import torch

    allowed = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = True
    stored = {"bf16": "bfloat16", "fp16": "float16"}.get(precision, "float32")
    return {
        "dtype": stored,
        "matmul.allow_tf32": allowed,
        "cudnn.allow_tf32": allowed,
        "cudnn.benchmark": True,
        "memory_format": "channels_last",
    }


def peaks(device: str) -> Row:
    """Operations per second of a large product in each precision, bytes of a copy.

    A copy reads and writes: its bytes count twice.
    """
    import torch

    size, place = size_for(device), _place(device)
    found: Row = {}
    for precision in ("fp32", "tf32", "bf16"):
        set_precision(precision)
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (
            torch.randn(size.side, size.side, device=place, dtype=kind)
            for _ in range(2)
        )
        taken = race([_product(a, b)], device)["product"]
        found[f"{precision}_flops"] = 2.0 * size.side**3 / (taken["best_us"] * 1e-6)
        found[f"{precision}_product"] = taken
    here = torch.zeros(size.nbytes, dtype=torch.uint8, device=place)
    there = torch.empty_like(here)
    taken = race([Contestant("copy", [lambda: there.copy_(here)])], device)["copy"]
    found["bandwidth"] = 2.0 * size.nbytes / (taken["best_us"] * 1e-6)
    found["copy"] = taken
    return found


def _product(a: Any, b: Any) -> Contestant:
    import torch

    out = torch.empty_like(a)
    return Contestant("product", [lambda: torch.mm(a, b, out=out)])


def _place(name: str) -> str:
    return device(name).place


def share_of_roofline(
    work: Sequence[tuple[float, float]], precision: str, found: Row, micro: float
) -> float | None:
    """The least time of kernels with (operations, bytes) as a part of ``micro`` µs.

    None where the peaks were not measured.
    """
    if "bandwidth" not in found:
        return None
    flops, bandwidth = found[f"{precision}_flops"], found["bandwidth"]
    least = sum(max(a / flops, b / bandwidth) for a, b in work)
    return round(least / (micro * 1e-6), 4)


def gpu_of(name: str) -> Row:
    """The device, its driver, and what torch was built for."""
    import torch

    if name == "interpret":
        return {"name": "Triton's interpreter"}
    from convc.engines.device import architecture

    properties = torch.cuda.get_device_properties(name)
    return {
        "name": properties.name,
        "kind": architecture(name),
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": _driver(),
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
    }


def _driver() -> str:
    """The driver's version, the clock and its limit, as the system gives them."""
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.max.sm"]
    try:
        done = subprocess.run(
            [*command, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"
    return done.stdout.strip()
