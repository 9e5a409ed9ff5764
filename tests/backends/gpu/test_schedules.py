"""The schedules of the Triton backend: all can run, the best prediction first."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from op_bench import tensor

from convc.backends import backend_named
from convc.backends.gpu.targets import target_named
from convc.ir.builder import GraphBuilder
from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Node
from convc.model import Model
from convc.networks import NETWORKS
from convc.pipeline import LOWERING, Step

BATCH = 128
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942", "interpret")
HALF_SPILLED = 64 * 64 * 16
"""The most that a tile in float32 proper may sum, beyond which registers spilled."""


@cache
def kernels(name: str, target: str, precision: str = "fp32") -> tuple[Node, ...]:
    step = Model(NETWORKS[name], precision=precision).training_step()
    stages = step.stages(f"triton:{target}", BATCH)
    graph = next(s.graph for s in stages if s.name == "choose-layout")
    return tuple(n for n in graph.nodes if n.region is not None)


def tiles_of(schedule: Any) -> list[tuple[int, ...]]:
    return [v for k, v in schedule.items() if k.startswith("tile_") and len(v) == 3]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_every_candidate_can_run_and_the_best_is_first(
    target: str, precision: str
) -> None:
    backend = backend_named(f"triton:{target}")
    for kernel in kernels("two_conv", target, precision):
        found = backend.candidates(kernel, BATCH, 1)
        seconds = [c.cost.seconds for c in found]
        assert seconds == sorted(seconds)
        assert min(seconds) > 0
        schedules = [str(sorted(c.schedule.items())) for c in found]
        assert len(set(schedules)) == len(schedules)
        for candidate in found:
            made = replace(kernel, schedule=candidate.schedule)
            backend.check_schedule(made, BATCH, 1)
            backend.scratch(made, 1)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_tiles_fit_what_a_block_has(target: str, precision: str) -> None:
    """Shared memory by arithmetic; registers by the volume at which they spilled."""
    room = target_named(target).block_shared_bytes
    width = 2 if precision == "bf16" else 4
    for kernel in kernels("two_conv", target, precision):
        for candidate in backend_named(f"triton:{target}").candidates(kernel, BATCH, 1):
            stages = candidate.schedule["stages"]
            for rows, columns, depth in tiles_of(candidate.schedule):
                assert stages * width * depth * (rows + columns) <= room
                if precision == "fp32":
                    assert rows * columns * depth <= HALF_SPILLED


def test_a_sum_is_split_until_the_device_is_busy() -> None:
    """A filter gradient of few results: more parts on the device with more units."""
    name = "conv1_relu_grad_pool_grad_sum_dw"
    parts = {}
    for target in ("sm_80", "gfx942"):
        kernel = next(k for k in kernels("two_conv", target) if k.attrs["name"] == name)
        best = backend_named(f"triton:{target}").candidates(kernel, BATCH, 1)[0]
        parts[target] = max(
            int(v)  # type: ignore[call-overload]
            for k, v in best.schedule.items()
            if k.startswith("split_")
        )
        assert parts[target] > 16
    assert parts["gfx942"] >= parts["sm_80"]


def product(precision: str) -> Graph:
    b = GraphBuilder("layer")
    x = b.input("x", tensor("f32[N,64]"))
    w = b.parameter("w", tensor("f32[64,32]"))
    b.output("y", b("matmul", x, w, precision=precision))
    return b.finish()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": 3}, "its schedule has .*'rows'.* wants"),
        ({"tile_a": (64, 64)}, "needs 3 positive integers as tile_a"),
        ({"tile_a": (64, 0, 32)}, "needs 3 positive integers as tile_a"),
        ({"warps": 0}, "needs a positive warps"),
        ({"stages": True}, "needs a positive stages"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_a_schedule_that_cannot_run_is_refused(change: Any, said: str) -> None:
    backend = backend_named("triton:sm_90")
    stages = Step(product("ieee"), LOWERING).stages(backend.name, BATCH)
    kernel = next(
        n
        for n in next(s.graph for s in stages if s.name == "choose-layout").nodes
        if n.region is not None
    )
    best = backend.candidates(kernel, BATCH, 1)[0].schedule
    made = replace(kernel, schedule={**best, **change})
    with pytest.raises(CompileError, match=said):
        backend.check_schedule(made, BATCH, 1)


def test_tensor_cores_get_larger_tiles_than_plain_float32() -> None:
    volumes = []
    for precision in ("ieee", "tf32"):
        backend = backend_named("triton:sm_90")
        stages = Step(product(precision), LOWERING).stages(backend.name, BATCH)
        graph = next(s.graph for s in stages if s.name == "choose-layout")
        (kernel,) = (n for n in graph.nodes if n.region is not None)
        found = backend.candidates(kernel, 4096, 1)
        tiles = [t for c in found for t in tiles_of(c.schedule)]
        volumes.append(max(rows * columns * depth for rows, columns, depth in tiles))
    assert volumes[0] <= HALF_SPILLED < volumes[1]
