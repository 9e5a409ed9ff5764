"""The emitted program's team of workers: failures and interruptions leave it whole."""

import threading
from typing import Any

import numpy as np
import pytest

import convc as cc


def small(image: cc.Tensor) -> cc.Tensor:
    x = cc.conv2d(image, 4, 3, padding="same", activation="relu", name="conv")
    return cc.dense(cc.flatten(x), 10, name="logits")


@pytest.fixture
def program() -> cc.Program:
    model = cc.Model(small, image="f32[N,6,6,1]")
    compiled = model.training_step().compile(batch=4, threads=2)
    compiled.input("image")[...] = np.random.default_rng(0).random((4, 6, 6, 1))
    compiled.run()
    return compiled


def plant(program: cc.Program, worker: int, call: Any) -> list[Any]:
    """Put ``call`` in the middle of a worker's step; the calls as they were."""
    calls: list[Any] = program.engine.emitted.steps[4][worker]
    kept = list(calls)
    calls.insert(len(calls) // 2, call)
    return kept


@pytest.mark.parametrize("worker", [0, 1])
def test_a_failing_call_is_reported_as_itself_and_the_next_step_runs(
    program: cc.Program, worker: int
) -> None:
    """The other worker waits at a barrier; it is let go and does not hide the cause."""

    def fail() -> None:
        raise ZeroDivisionError("planted")

    kept = plant(program, worker, fail)
    with pytest.raises(ZeroDivisionError, match="planted"):
        program.run()
    program.engine.emitted.steps[4][worker] = kept
    assert np.isfinite(program.run()["loss"])


def test_an_interrupted_wait_ends_after_the_step(
    program: cc.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a step does not leave parameters half updated."""
    module = program.engine.emitted.run.__globals__
    real, begun, done = module["wait"], threading.Event(), threading.Event()
    plant(program, 1, lambda: (begun.set(), done.wait(10)))
    calls = 0

    def interrupted(futures: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            begun.wait(10)
            done.set()
            raise KeyboardInterrupt
        return real(futures)

    monkeypatch.setitem(module, "wait", interrupted)
    before = int(program.parameters["training/step"])
    with pytest.raises(KeyboardInterrupt):
        program.run()
    assert int(program.parameters["training/step"]) == before + 1
