"""Triton programs run alike in the interpreter, launch by launch and as a graph.

A fake torch.cuda stands for the GPU: see fake_cuda.py.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs triton: pip install 'convc[triton]'")

import torch
from engine_sample import engine_of, sample
from fake_cuda import FakeCuda, fake_cuda

from convc.engines import targeted
from convc.engines.base import NoRoom
from convc.ir.errors import CompileError, RunError
from convc.ir.interpreter import interpret
from convc.layers import dense, dropout
from convc.model import Model, fed
from convc.networks import two_conv
from convc.program import Program
from convc.tracing import Tensor

__all__ = ["fake_cuda"]

IMAGES = np.linspace(-1, 2, 33, dtype=np.float32).reshape(11, 3)
LABELS = np.arange(11, dtype=np.int32)
STEP = ["scale_even", "scale_odd", "mean", "total", "count", "grow"]
Make = Callable[[], Program]


@pytest.fixture(params=["interpret", "graph", "plain"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes the sample program, for the interpreter or a GPU that is none."""
    if request.param == "interpret":
        return sample
    request.getfixturevalue("fake_cuda")

    def on_gpu() -> Program:
        program = sample("cuda")
        engine_of(program).graphs = request.param == "graph"
        return program

    return on_gpu


def batch(at: int, n: int = 4) -> dict[str, np.ndarray]:
    return {"image": IMAGES[at : at + n], "labels": LABELS[at : at + n]}


def test_steps_are_those_of_the_oracle(make: Make) -> None:
    """Also on fewer images, and the parameters move on."""
    program = make()
    state = program.state()
    for at, n in (0, 4), (4, 3), (7, 1), (0, 4):
        expected = interpret(program.stages[0].graph, batch(at, n), state)
        outputs = program(**batch(at, n))
        for name, array in expected.outputs.items():
            assert outputs[name].dtype == program_dtype(program, name)
            assert np.allclose(outputs[name], array, rtol=1e-6, atol=1e-6)
        state = program.state()
        for name, array in expected.updates.items():
            assert np.allclose(state[name], array, rtol=1e-6)


def program_dtype(program: Program, name: str) -> Any:
    return dict(program.graph.outputs)[name].type.dtype.numpy


def test_all_ways_to_run_give_the_same_bits(fake_cuda: FakeCuda) -> None:
    results = []
    for device, graphs in ("interpret", True), ("cuda", True), ("cuda", False):
        program = sample(device)
        engine_of(program).graphs = graphs
        steps = [program(**batch(at)) for at in (0, 4, 0)]
        arrays = [a.tobytes() for step in steps for a in step.values()]
        results.append([*arrays, *(a.tobytes() for a in program.state().values())])
    assert results[0] == results[1] == results[2]
    assert "replay 6" in fake_cuda.log


def test_a_step_on_a_gpu_is_one_launch_and_waits_once(fake_cuda: FakeCuda) -> None:
    """It is captured once, for every number of images."""
    program = sample("cuda:0")
    program(**batch(0))
    assert fake_cuda.log == [
        *("side waits for current", "on side", *STEP, "off side"),
        *("current waits for side", "capture", "replay 6", "synchronize"),
    ]
    for n in (3, 4):
        fake_cuda.log.clear()
        program(**batch(0, n))
        assert fake_cuda.log == ["replay 6", "synchronize"]


def test_capturing_a_step_leaves_no_trace(fake_cuda: FakeCuda) -> None:
    one, other = sample("cuda"), sample("cuda")
    engine_of(other).graphs = False
    for program in (one, other):
        program(**batch(0))
    assert all(np.array_equal(a, other.state()[k]) for k, a in one.state().items())
    assert one.state()["training/step"] == 1


def test_a_gpus_parameters_are_copies_that_refuse_to_be_written(
    fake_cuda: FakeCuda,
) -> None:
    program = sample("cuda")
    before = program.parameters["w"]
    with pytest.raises(ValueError, match="read-only"):
        before[...] = 7
    program.load({"w": np.full(3, 7, np.float32), "training/step": np.array(2)})
    assert np.array_equal(before, np.ones(3))
    assert np.array_equal(program.parameters["w"], np.full(3, 7))
    program.initialize(0)
    assert np.array_equal(program.parameters["w"], np.ones(3))


def test_interpreted_parameters_are_live() -> None:
    program = sample()
    program.parameters["w"][...] = 0
    assert not program(**batch(0))["scaled"].any()


def test_outputs_are_copies_and_inputs_are_live(make: Make) -> None:
    program = make()
    first = program(**batch(0))
    kept = {name: array.copy() for name, array in first.items()}
    program.input("image", 2)[...] = 5
    second = program.run(2)
    assert all(np.array_equal(first[name], kept[name]) for name in kept)
    assert second["scaled"].shape == (2, 3)
    assert np.array_equal(second["scaled"], 5 * (1 + kept["loss"]) * np.ones((2, 3)))


def test_kernels_run_one_by_one_and_are_looked_at(make: Make) -> None:
    """A node's two launches are one kernel."""
    program = make()
    whole = program(**batch(0))
    program.initialize(0)
    program.input("image")[...] = IMAGES[:4]
    seen = {}
    for kernel, (node, results) in zip(
        program.stepwise(),
        ((n.name, n.results) for n in program.graph.nodes),
        strict=True,
    ):
        assert kernel.node == node
        seen[node] = program.peek(results[0]).copy()
    assert np.array_equal(seen["1"], whole["scaled"])
    assert np.array_equal(seen["2"], whole["loss"])
    assert program.state()["training/step"] == 1


def test_a_value_may_be_given_other_elements(make: Make) -> None:
    """The kernels after it read them."""
    program = make()
    program.input("image", 2)[...] = 0
    steps = program.stepwise(2)
    next(steps)
    scaled = program.graph.nodes[0].results[0]
    program.poke(scaled, np.arange(6).reshape(2, 3), 2)
    next(steps)
    assert np.array_equal(program.peek(scaled, 2), np.arange(6).reshape(2, 3))
    assert program.peek(program.graph.nodes[1].results[0], 2) == 2.5


def test_what_was_forgotten_is_nan_but_not_the_number_of_images(make: Make) -> None:
    program = make()
    program(**batch(0))
    state = program.state()
    program.forget()
    assert np.isnan(program.parameters["w"]).all()
    program.load(state)
    assert np.isfinite(program(**batch(0))["loss"])


def test_timing_names_each_kernel_and_leaves_the_parameters(make: Make) -> None:
    program = make()
    program(**batch(0))
    before = program.state()
    seconds = program.time_kernels(rounds=2)
    assert list(seconds) == [node.name for node in program.graph.nodes]
    assert min(seconds.values()) > 0
    assert all(np.array_equal(a, before[k]) for k, a in program.state().items())


def test_a_gpus_kernels_are_timed_by_events_and_a_round_warms_up(
    fake_cuda: FakeCuda,
) -> None:
    program = sample("cuda")
    assert set(program.time_kernels(rounds=2).values()) == {1e-3}
    assert fake_cuda.log == [*STEP, *STEP, *STEP, "synchronize"]


# -- data on the device


def by_hand(program: Program, order: np.ndarray, first: int) -> list[tuple[float, int]]:
    """The records of the rest of an epoch, each batch put in by the host."""
    records = []
    for at in range(4 * first, len(order), 4):
        rows = order[at : at + 4]
        outputs = program(image=IMAGES[rows], labels=LABELS[rows])
        records.append((float(outputs["loss"]), int(outputs["correct"])))
    return records


@pytest.mark.parametrize("graphed", [1, 2])
def test_the_device_gathers_what_the_host_would(make: Make, graphed: int) -> None:
    """Two epochs, the second begun in its middle; the last batch is smaller."""
    orders = [np.random.default_rng(seed).permutation(11) for seed in (1, 2)]
    host, program = sample(), make()
    expected = by_hand(host, orders[0], 0) + by_hand(host, orders[1], 1)
    resident = program.resident(("image", IMAGES), ("labels", LABELS), graphed)
    assert resident is not None
    resident.begin(orders[0], 0, 0)
    records = resident.steps(3)
    resident.begin(orders[1], 1, 0)
    records += resident.steps(1)
    records += resident.steps(1)
    assert records == expected
    assert all(np.array_equal(a, host.state()[k]) for k, a in program.state().items())


def test_steps_with_data_from_the_host_may_come_in_between(make: Make) -> None:
    host, program = sample(), make()
    resident = program.resident(("image", IMAGES), ("labels", LABELS))
    assert resident is not None
    resident.begin(np.arange(11), 0, 0)
    expected = by_hand(host, np.arange(11), 0)
    assert resident.steps(2) == expected[:2]
    state = program.state()
    first = program(**batch(2))
    program.load(state)
    assert resident.steps(1) == expected[2:]
    program.load(state)
    again = program(**batch(2))
    assert all(np.array_equal(first[k], again[k]) for k in first)


def test_two_steps_are_one_launch_when_asked(fake_cuda: FakeCuda) -> None:
    """Five steps are two launches of two, and one of one; then the log is read."""
    program = sample("cuda")
    resident = program.resident(
        ("image", np.tile(IMAGES, (2, 1))), ("labels", np.tile(LABELS, 2)), 2
    )
    assert resident is not None
    resident.begin(np.arange(22), 0, 0)
    resident.steps(5)
    assert [line for line in fake_cuda.log if line.startswith("replay")] == [
        *("replay 16", "replay 16", "replay 8")
    ]
    resident.begin(np.arange(22), 0, 0)
    fake_cuda.log.clear()
    resident.steps(3)
    assert fake_cuda.log == ["replay 16", "replay 8"]


def test_a_data_set_without_room_is_refused_with_its_size(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = sample("cuda")

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 188 MiB")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(NoRoom, match="no room for 176 bytes of images on cuda$"):
        program.resident(("image", IMAGES), ("labels", LABELS))
    with pytest.raises(CompileError, match="no room for one arena of .* for batch 4"):
        sample("cuda")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        sample("cuda")


# -- devices


def test_a_gpu_is_looked_for_when_the_program_is_used() -> None:
    """Until then its source can be read."""
    program = sample(None)
    assert "def scale_even" in program.source
    with pytest.raises(CompileError, match="cuda is a GPU, and torch .* for the CPU"):
        program(**batch(0))
    with pytest.raises(CompileError, match="or backend triton:interpret"):
        program.state()


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cpu", "cuda:x", "interpreted"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(CompileError, match=f"unknown device '{name}'.* cuda:1 and so"):
        sample(name)


def test_a_gpu_that_is_not_there_is_refused(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        CompileError, match="cuda:1 is not there; torch finds 1: cuda:0$"
    ):
        sample("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(CompileError, match="torch finds 3: cuda:0 to cuda:2$"):
        sample("cuda:3")


def test_a_gpu_is_refused_where_triton_interprets() -> None:
    """As it does in this process."""
    from convc.engines.device import _refuse_interpreter

    with pytest.raises(CompileError, match="TRITON_INTERPRET is set.* device cuda:1; "):
        _refuse_interpreter("cuda:1")


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_a_missing_package_is_named_with_the_way_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "convc.engines.device.find_spec", lambda name: None if name == missing else name
    )
    wanted = rf"{missing} is not installed; pip install 'convc\[triton\]'"
    with pytest.raises(CompileError, match=wanted):
        sample()


def test_the_numpy_backend_has_no_other_device() -> None:
    step = Model(two_conv).inference()
    with pytest.raises(
        CompileError, match="numpy backend runs on cpu or cpu:processes, not on 'cu"
    ):
        step.compile(batch=1, device="cuda")
    assert step.compile(batch=1, device="cpu").backend == "numpy"


def in_new_process(code: str, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, **environment},
    )
    return done.stdout + done.stderr


def test_the_interpreter_is_switched_on_before_triton_is_imported() -> None:
    code = "from convc.engines.device import ready; print(ready('interpret'));"
    assert in_new_process(code) == "interpret\n"
    late = in_new_process("import triton; " + code)
    assert "triton was imported without TRITON_INTERPRET=1" in late
    assert in_new_process("import triton; " + code, TRITON_INTERPRET="1") == (
        "interpret\n"
    )


def test_labels_of_a_whole_data_set_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = sample()
    monkeypatch.setattr(program, "_classes", {"labels": 10})
    with pytest.raises(RunError, match="%labels holds labels 0 to 9.* got 0 to 10"):
        program.resident(("image", IMAGES), ("labels", LABELS))


@pytest.mark.parametrize(
    ("capability", "target"),
    [
        *(((8, 0), "sm_80"), ((8, 7), "sm_86"), ((9, 0), "sm_90")),
        *(((10, 3), "sm_100"), ((12, 0), "sm_120"), ((12, 1), "sm_120")),
    ],
)
def test_a_program_for_a_gpu_is_made_for_its_kind_or_the_next_older(
    capability: tuple[int, int],
    target: str,
    fake_cuda: FakeCuda,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: capability)
    assert targeted("triton", "cuda:0") == targeted("triton") == f"triton:{target}"
    assert targeted("triton:sm_80", "cuda") == "triton:sm_80"
    assert targeted("triton:interpret") == "triton:interpret"
    assert targeted("triton", "interpret") == "triton:interpret"
    assert targeted("numpy") == "numpy"


def test_tiles_for_a_larger_gpu_are_refused_before_they_fail(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An RTX 4090 has less shared memory for a block than what ``triton`` means."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: (8, 9))
    program = Model(two_conv).inference().compile(backend="triton", batch=4)
    with pytest.raises(CompileError, match=r"for sm_90.*cuda is sm_89.*triton:sm_89"):
        program.initialize(0)


@pytest.mark.parametrize("name", ["gfx942:sramecc+:xnack-", "gfx90a"])
def test_amds_gpus_are_asked_for_their_names(
    name: str, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    found = SimpleNamespace(gcnArchName=name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: found)
    assert targeted("triton", "cuda") == "triton:gfx942"


def test_a_gpu_that_is_too_old_is_refused(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: (7, 5))
    with pytest.raises(CompileError, match="GPU is sm_75; .* NVIDIA's from sm_80 on"):
        targeted("triton")


@pytest.mark.parametrize("rows_of_nan", [True, False])
def test_where_the_interpreter_gives_up_at_nan_the_error_says_what_to_do(
    rows_of_nan: bool,
) -> None:
    """Any other error of a kernel stays what it is."""
    from triton.runtime.errors import InterpreterError

    def give_up() -> None:
        raise InterpreterError("All-NaN slice encountered" if rows_of_nan else "a slip")

    program = sample()
    engine_of(program).calls[2] = give_up
    expected, said = (
        (RunError, "row of nothing but NaN.* use a smaller learning rate")
        if rows_of_nan
        else (InterpreterError, "a slip")
    )
    with pytest.raises(expected, match=said):
        program(**batch(0))


def test_a_number_that_is_fed_reaches_the_device_with_the_order(
    fake_cuda: FakeCuda,
) -> None:
    """Steps that the device feeds read what the host has put into an input."""

    def net(x: Tensor, share: Tensor) -> Tensor:
        return dense(dropout(x, keep=share, name="drop"), 4, name="logits")

    model = Model(net, x="f32[N,3]", share=fed(train=0.5, test=1.0))
    host = model.training_step().compile("triton:interpret", 4)
    program = model.training_step().compile("triton:sm_86", 4, device="cuda")
    resident = program.resident(("x", IMAGES), ("labels", LABELS % 4))
    assert resident is not None
    for at, share in enumerate((0.5, 0.125)):
        program.input("share")[...] = share
        resident.begin(np.arange(11), at, 0)
        rows = slice(4 * at, 4 * at + 4)
        want = host(x=IMAGES[rows], labels=LABELS[rows] % 4, share=share)
        assert resident.steps(1) == [(float(want["loss"]), int(want["correct"]))]
