"""Workers that are processes: the same bits, and nobody waits for ever."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc as cc
from convc.backends import backend_named
from convc.engines import processes
from convc.engines.numpy_engine import NumpyEngine
from convc.engines.processes import ProcessEngine
from convc.ir.errors import CompileError, RunError
from convc.ir.graph import Graph

STARTS = ("fork", "spawn", "forkserver")
BATCH = 4


def small(image: cc.Tensor) -> cc.Tensor:
    x = cc.conv2d(image, 4, 3, padding="same", activation="relu", name="conv")
    x = cc.dropout(cc.flatten(x), keep=0.5)
    return cc.dense(x, 10, name="logits")


def planned(threads: int = 3) -> Graph:
    model = cc.Model(small, image="f32[N,6,6,1]")
    return model.training_step().stages(batch=BATCH, threads=threads)[-1].graph


def engine(extra: str = "", start: str | None = "fork", threads: int = 3) -> Any:
    """An engine whose program has ``extra`` at the end of its source."""
    graph = planned(threads)
    emitted = backend_named("numpy").emit(graph)
    emitted = replace(emitted, source=emitted.source + extra)
    return ProcessEngine(graph, emitted, start)


BROKEN = """
def broken(mem, n, t):
    if t == WORKER and n == 3:
        yield call(fail)

def fail():
    WHAT

KERNELS.append(broken)
"""


def broken(worker: int, what: str) -> Any:
    """An engine with a last kernel that fails for three images in one worker."""
    return engine(BROKEN.replace("WORKER", str(worker)).replace("WHAT", what))


def feed(made: NumpyEngine, n: int) -> None:
    rng = np.random.default_rng(n)
    made.input("image", n)[...] = rng.random((n, 6, 6, 1), np.float32)
    made.input("labels", n)[...] = rng.integers(0, 10, n)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside threads
@pytest.mark.parametrize("start", STARTS)
def test_processes_compute_the_bits_that_threads_do(start: str) -> None:
    """Over several steps of changing size, parameters and states included."""
    graph = planned()
    emitted = backend_named("numpy").emit(graph)
    threads, made = NumpyEngine(graph, emitted), ProcessEngine(graph, emitted, start)
    first = {name: np.full(a.shape, 0.1) for name, a in made.parameters.items()}
    for item in (threads, made):
        item.load(first)
    for n in (4, 1, 3, 4):
        feed(threads, n)
        feed(made, n)
        expected, found = threads.run(n), made.run(n)
        assert all(np.array_equal(found[k], expected[k]) for k in expected)
    for name, array in threads.parameters.items():
        assert np.array_equal(made.parameters[name], array)


def test_it_is_asked_for_as_a_device() -> None:
    step = cc.Model(small, image="f32[N,6,6,1]").training_step()
    program = step.compile(batch=2, threads=2, device="cpu:processes")
    assert isinstance(program.engine, ProcessEngine)
    alone = step.compile(batch=2, threads=1, device="cpu:processes")
    assert type(alone.engine) is NumpyEngine
    with pytest.raises(CompileError, match="cpu or cpu:processes, not on 'cpu:3'"):
        step.compile(batch=2, device="cpu:3")


def test_each_process_notes_when_it_began_and_ended() -> None:
    made = engine()
    feed(made, BATCH)
    spans = made.spans(2, BATCH)
    assert spans.shape == (2, len(made.functions), 3, 2)
    begins, ends = spans[..., 0].min(axis=2), spans[..., 1].max(axis=2)
    assert (begins[:, 1:] >= ends[:, :-1]).all()


def test_a_child_that_fails_says_why_and_the_next_step_runs() -> None:
    made = broken(1, "raise ZeroDivisionError('planted')")
    feed(made, 3)
    with pytest.raises(RunError, match="worker 1 failed: ZeroDivisionError: planted"):
        made.run(3)
    feed(made, 4)
    assert np.isfinite(made.run(4)["loss"])


def test_a_failure_here_is_raised_as_itself_and_the_next_step_runs() -> None:
    made = broken(0, "raise ZeroDivisionError('planted')")
    feed(made, 3)
    with pytest.raises(ZeroDivisionError, match="planted"):
        made.run(3)
    feed(made, 4)
    assert np.isfinite(made.run(4)["loss"])


def test_a_child_that_dies_in_a_step_is_told_with_its_exit_code() -> None:
    made = broken(2, "os._exit(3)")
    made.emitted.barrier.patience = 1.0
    feed(made, 3)
    with pytest.raises(RunError, match="worker 2 died with exit code 3; compile"):
        made.run(3)


def test_a_child_that_is_gone_is_told_before_the_step() -> None:
    made = engine()
    child = made._children[0].process
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    feed(made, 4)
    for _ in range(2):
        with pytest.raises(RunError, match="worker 1 died with exit code -9"):
            made.run(4)


def test_nobody_is_left_waiting_for_a_child_that_is_gone() -> None:
    """Worker 1 has begun the step when worker 2 is found dead."""
    made = engine()
    first, second = made._children
    os.kill(second.process.pid, signal.SIGKILL)
    second.process.join()
    feed(made, 4)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(RunError, match="worker 2 died with exit code -9"):
            made.run(4)
    assert time.monotonic() - began < 20
    assert first.process.is_alive()


def test_a_child_that_hangs_is_not_waited_for_for_ever() -> None:
    made = broken(1, "import time; time.sleep(60)")
    made.emitted.barrier.patience = 0.5
    feed(made, 3)
    began = time.monotonic()
    with pytest.raises(RunError, match=r"did not answer in|waited \d+ s"):
        made.run(3)
    assert time.monotonic() - began < 20
    with pytest.raises(RunError, match="worker 1 died"):
        made.run(4)


def test_an_interrupted_wait_ends_after_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C in the middle of a step does not leave parameters half updated."""
    made = engine()
    feed(made, 4)
    real, calls = processes.wait_for, []

    def interrupted(futures: Any) -> Any:
        calls.append(futures)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(futures)

    monkeypatch.setattr(processes, "wait_for", interrupted)
    before = int(made.parameters["training/step"])
    with pytest.raises(KeyboardInterrupt):
        made.run(4)
    assert int(made.parameters["training/step"]) == before + 1
    assert np.isfinite(made.run(4)["loss"])


def test_processes_and_memory_are_gone_with_the_program() -> None:
    made = engine()
    children = [child.process for child in made._children]
    assert all(c.is_alive() for c in children)
    assert not list(Path("/dev/shm").glob("convc-*"))  # it has no name any more
    del made
    for _ in range(50):
        if not any(c.is_alive() for c in children):
            break
        time.sleep(0.1)
    assert not any(c.is_alive() for c in children)


PARENT = """
import os, sys, signal
import convc as cc
from convc.networks import strided

if __name__ == "__main__":
    step = cc.Model(strided, image="f32[N,8,8,1]").training_step()
    program = step.compile(batch=2, threads=2, device="cpu:processes")
    print(*[c.process.pid for c in program.engine._children], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, "utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (pid,) = map(int, done.stdout.split())
    for _ in range(100):
        if not running(pid):
            break
        time.sleep(0.1)
    assert not running(pid)
    assert not list(Path("/dev/shm").glob("convc-*"))


def running(pid: int) -> bool:
    """Whether a process is there, and no mere entry that nobody has collected."""
    try:
        state = (
            Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0]
        )
    except OSError:
        return False
    return state != "Z"


def test_other_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.platform, "machine", lambda: "aarch64")
    with pytest.raises(RunError, match="is for x86-64, this is a aarch64"):
        engine()
