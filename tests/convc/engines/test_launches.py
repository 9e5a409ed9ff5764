"""Launches of a program for a known GPU go past Triton's dispatch."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs triton: pip install 'convc[triton]'")

import torch
from engine_sample import engine_of, sample
from fake_cuda import FakeCuda, fake_cuda

from convc.engines import launches
from convc.ir.errors import CompileError

__all__ = ["fake_cuda"]


class Handle:
    """A compiled kernel: it is launched with a grid, and pointers alone."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        assert grid == (1, 1, 1)
        launch: Callable[..., None] = self.kernel[grid]
        return launch


@pytest.fixture
def compiled(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, str]]:
    """An H200 whose kernels the interpreter stands for; what was compiled."""
    seen: list[tuple[str, str]] = []

    def compile_source(source: str, target: str, *, progress: object) -> str:
        seen.append((source, target))
        return source

    def ready(module: Any, source: str) -> list[Handle]:
        assert source == seen[-1][0]
        return [Handle(kernel) for kernel, *_ in module.LAUNCHES]

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(launches, "compile_source", compile_source)
    monkeypatch.setattr(launches, "ready", ready)
    return seen


def test_a_known_gpus_kernels_are_compiled_for_it(
    compiled: list[tuple[str, str]],
) -> None:
    """The emitted launcher is left aside, and the results are the same bits."""
    program, plain = sample("cuda"), sample()
    assert compiled == [(program.source, "sm_90")]
    data = {
        "image": np.arange(9, dtype=np.float32).reshape(3, 3),
        "labels": np.arange(3, dtype=np.int32),
    }
    engine_of(program).emitted.launch = None
    for graphs in True, False:
        engine_of(program).graphs = graphs
        expected, found = plain(**data), program(**data)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_gpu_that_is_no_target_is_left_to_triton(fake_cuda: FakeCuda) -> None:
    """The file's own launches serve it."""
    calls = engine_of(sample("cuda")).calls
    assert {call.func.__name__ for call in calls} == {"launch"}


def test_a_kernel_that_cannot_be_compiled_stops_the_program(
    compiled: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CompileError("kernel mean for sm_90: out of registers")

    monkeypatch.setattr(launches, "compile_source", refuse)
    with pytest.raises(CompileError, match="kernel mean for sm_90: out of registers"):
        sample("cuda")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_what_is_compiled_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, shown in (Terminal(), True), (io.StringIO(), False):
        monkeypatch.setattr("sys.stderr", stream)
        with launches._bar() as told:
            assert (told is not None) == shown
            if told is not None:
                told(1, 2, "conv1_fwd")
        assert ("conv1_fwd" in stream.getvalue()) == shown
