"""The benchmark for GPUs runs from end to end without one; it sees what is wrong."""

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu
import gpu_networks
import gpu_packages
import gpu_timing
import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda, fake_cuda
from gpu_layers import (
    DIRECTIONS,
    Reference,
    as_ours,
    cudnn,
    layer,
    layer_graph,
    resnet50,
)
from gpu_networks import GRAPH, first_state, model_named
from gpu_report import LAYER_GOALS, goals_of
from gpu_rivals import torch_network
from gpu_workers import Job, Worker
from seed_networks import SEED_NETWORKS

from convc.engines import device
from convc.ir.rounding import bounded
from convc.networks import NETWORKS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="triton is for Linux")

ROOT = Path(__file__).parents[1]
__all__ = ["fake_cuda"]


def contestants(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from row.get("contestants", {}).values()


def wrong_kernels(row: dict[str, Any]) -> list[str]:
    shares = row.get("share_of_bound", {})
    return [name for name, s in shares.items() if name != "cudnn" and s > 1]


def test_all_of_it_runs_without_a_gpu(tmp_path: Path) -> None:
    """Every section, nothing failed, nothing skipped, every goal beside a number."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--smoke", "--minutes", "1000"]
    done = subprocess.run(
        [*command, "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "a dry run in Triton's interpreter" in done.stdout
    kept = json.loads(out.read_text("utf-8"))
    assert list(kept["sections"]) == list(gpu.SECTIONS)
    assert kept["skipped"] == []
    for row in (r for rows in kept["sections"].values() for r in rows):
        assert "error" not in row
        assert not [c for c in contestants(row) if "error" in c]
        assert not wrong_kernels(row)
    (tested,) = kept["sections"]["tests"]
    assert tested["passed"] > 0
    assert tested["failed"] == tested["not_run"] == 0
    assert all(goal["measured"] is not None for goal in kept["goals"])
    assert kept["compiled_ahead"] == 1
    assert out.with_suffix(".lock").exists()


@pytest.mark.parametrize("name", [*NETWORKS, *SEED_NETWORKS])
def test_a_rival_computes_the_same_network(name: str) -> None:
    """In float64 within what float32 may round."""
    model = model_named(name, 8)
    stages = model.inference().stages("numpy", 2)
    graph = next(s.graph for s in stages if s.name == "remove-dropout")
    state = first_state(model.graph)
    image = np.random.default_rng(0).random(graph.inputs[0].type.bind(2), np.float32)
    wanted = bounded(graph, {graph.inputs[0].name: image}, state)
    network = torch_network(model, False, state).double().eval()
    found = network(torch.tensor(image).double())[0].detach().numpy()
    error = np.abs(found - wanted.outputs["output"])
    assert (error <= wanted.output_bounds["output"]).all()


@pytest.fixture
def short_gpu(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A stand-in for a GPU that is measured quickly."""
    monkeypatch.setattr(gpu_timing, "FULL", gpu_timing.Size(2, 16, 1 << 10))
    monkeypatch.setattr(gpu_networks, "TOGETHER", 2)
    monkeypatch.setattr(gpu_networks, "FED_STEPS", 3)
    monkeypatch.setattr(device, "FLUSHED", 1)
    make = torch.randn

    def on_host(shape: tuple[int, ...], device: str) -> torch.Tensor:
        assert device == "cuda"
        return make(shape)

    monkeypatch.setattr(torch, "randn", on_host)
    return fake_cuda


def test_on_a_gpu_steps_are_timed_launch_by_launch_and_as_graphs(
    short_gpu: FakeCuda, tmp_path: Path
) -> None:
    """Nothing waits or copies where a graph is captured: the stand-in sees to it."""
    lockfile = str(tmp_path / "none.lock")
    asked = ("strided_color", "training", 2, "fp32", (), {}, lockfile, 8)
    row = gpu_networks.network("cuda", *asked)
    assert row["finite"]
    steps = {k: c.get("steps_per_turn") for k, c in row["contestants"].items()}
    # An event of the stand-in is a millisecond after the one before.
    assert steps == {
        "convc, plain launches": 2,
        "convc, one graph": 2,
        "convc, 2 steps a graph": 4,
        "convc, 2 steps a graph, batches gathered": 6,
    }
    assert any(entry.startswith("replay") for entry in short_gpu.log)


def test_on_a_gpu_a_layer_is_right_and_each_schedule_timed_once_a_round(
    short_gpu: FakeCuda, tmp_path: Path
) -> None:
    lockfile = tmp_path / "some.lock"
    shape = (4, 16, 1, 16, 1)
    row = layer("cuda", shape, "forward", 2, "tf32", 3, {}, str(lockfile))
    assert not wrong_kernels(row)
    assert len(row["contestants"]) == 4
    assert {c["steps_per_turn"] for c in row["contestants"].values()} == {1}
    assert len(lockfile.read_text("utf-8").splitlines()) == 2


def test_resnet_has_each_of_its_convolutions_once() -> None:
    layers = resnet50()
    assert len(layers) == len(set(layers)) == 23
    assert {(224, 3, 7, 64, 2), (7, 512, 3, 512, 1), (56, 256, 1, 512, 2)} <= {*layers}


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_wrong_layer_is_told_from_a_right_one(direction: str, precision: str) -> None:
    """Right is float64's result as it is stored; wrong is one element a little off."""
    shape, kinds = (4, 16, 3, 8, 1), {"bf16": torch.bfloat16, "f32": torch.float32}
    graph = layer_graph(shape, direction, precision)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for v in graph.inputs:
        drawn = torch.randn(v.type.bind(2), generator=generator)
        tensors[v.name] = drawn.to(kinds[v.type.dtype.value])
    reference = Reference(shape, direction, tensors)
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    y = graph.outputs[0][1].type
    result = as_ours(cudnn(shape, direction, wide)(), direction).to(
        kinds[y.dtype.value]
    )
    assert result.shape == y.bind(2)
    assert reference.share(result) <= 1
    result[(0,) * result.dim()] += 1
    assert reference.share(result) > 1


def test_goals_are_met_where_everything_is_fast_enough() -> None:
    def rows(micro: float, share: float) -> dict[str, Any]:
        layers = [
            {
                "layer": layer,
                "direction": goal,
                "precision": "bf16",
                "goal": goal,
                "cudnn_share": s,
            }
            for goal in LAYER_GOALS
            for layer, s in (("a", share), ("b", 1.0))
        ]
        taken = {GRAPH: {"median_us": micro}}
        speedup = {
            "torch.compile max-autotune": 130 / micro,
            "torch eager": 650 / micro,
        }
        return {"step": [{"contestants": taken, "speedup": speedup}], "layers": layers}

    assert [g["met"] for g in goals_of(rows(59.0, 0.96))] == [True] * 7
    assert [g["met"] for g in goals_of(rows(66.0, 0.69))] == [False] * 7
    assert [g["measured"] for g in goals_of({})] == [None] * 7


def test_what_a_section_leaves_over_goes_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(gpu, "SECTIONS", {"a": 1.0, "b": 2.0, "c": 1.0})
    found = []
    for _, deadline in gpu.deadlines(["a", "b", "c"], 40.0):
        found.append(deadline)
        now = 4.0 if len(found) == 1 else deadline
    assert found == pytest.approx([10.0, 28.0, 40.0])


def test_a_worker_is_replaced_after_a_job_that_was_given_up_or_failed_or_died() -> None:
    worker, job = Worker("interpret"), Job("a layer", "layer", {"shape": None})
    try:
        late = worker.run(job, time.monotonic() - 1)
        assert late["error"].startswith("given up after")
        for _ in range(2):
            failed = worker.run(job, time.monotonic() + 1e6)
            assert failed["error"].startswith("TypeError")
        assert worker.run(Job("unknown", "nothing"), time.monotonic() + 1e6) == {
            "error": "the process died, exit code 1"
        }
    finally:
        worker.stop()


def test_wheels_bring_what_cannot_be_imported_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = tmp_path / "unpacked"
    monkeypatch.setattr(gpu_packages, "UNPACKED", unpacked)
    with pytest.raises(SystemExit, match="holds no wheels"):
        gpu_packages.unpack(tmp_path)
    for name in ("numpy", "absent_one"):
        with zipfile.ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "")
            wheel.writestr(f"{name}-1.dist-info/METADATA", "")
    gpu_packages.unpack(tmp_path)
    assert (unpacked / "absent_one" / "__init__.py").exists()
    assert not (unpacked / "numpy").exists()


def test_what_is_missing_is_said_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gpu_packages.missing() == ""
    monkeypatch.setitem(gpu_packages.NEEDED, "absent_one", "absent-one")
    monkeypatch.setattr(gpu_packages.shutil, "which", lambda name: None)
    complaint = gpu_packages.missing()
    assert "not installed: absent-one" in complaint
    assert "--wheels build/wheels" in complaint
    assert "no C compiler" in complaint
