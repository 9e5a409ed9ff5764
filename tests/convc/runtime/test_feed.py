"""A run's bits do not depend on who gathers its batches, the host or the device."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs triton: pip install 'convc[triton]'")

from fake_cuda import FakeCuda, fake_cuda

from convc.data.augment import Shifts
from convc.data.batches import Dataset
from convc.engines.base import NoRoom
from convc.engines.device import Cuda, Interpreted
from convc.ir.errors import RunError
from convc.layers import dense, dropout, flatten
from convc.model import Model
from convc.optimizers import Adam
from convc.program import Program
from convc.runtime.checkpoint import load_checkpoint
from convc.runtime.history import History
from convc.runtime.metrics import read_metrics
from convc.runtime.trainer import fit
from convc.tracing import Tensor

__all__ = ["fake_cuda"]


def tiny(image: Tensor) -> Tensor:
    x = dropout(dense(flatten(image), 8, activation="relu", name="fc"), keep=0.75)
    return dense(x, 4, name="logits")


def noise(count: int, seed: int) -> Dataset:
    random = np.random.default_rng(seed)
    images = random.random((count, 3, 3, 1), dtype=np.float32)
    return Dataset(images, random.integers(0, 4, count).astype(np.int32), "noise")


TRAIN, TEST = noise(21, 1), noise(8, 2)


def train(**changes: Any) -> History:
    """Two epochs of three batches, the last of five images."""
    settings = {"epochs": 2, "batch": 8, "backend": "triton:interpret", **changes}
    settings.setdefault("optimizer", Adam(0.01))
    settings.setdefault("progress", False)
    model = Model(tiny, image="f32[N,3,3,1]")
    return fit(model, TRAIN, TEST, **settings)


def by_host(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> History:
    """The same, with every batch put into the inputs by the host."""
    with monkeypatch.context() as patch:
        patch.setattr(Program, "resident", lambda *_: None)
        return train(**settings)


@pytest.fixture(scope="module")
def expected() -> History:
    """A run that the host has fed."""
    with pytest.MonkeyPatch.context() as patch:
        return by_host(patch)


def records(history: History) -> list[Any]:
    epochs = history.epochs
    return [(e.loss, e.accuracy, e.test_loss, e.test_accuracy) for e in epochs]


def same(one: History, other: History) -> bool:
    state, wanted = one.program.state(), other.program.state()
    return (
        records(one) == records(other)
        and one.digest == other.digest
        and all(np.array_equal(array, wanted[name]) for name, array in state.items())
    )


def points(directory: Path) -> list[tuple[int, float]]:
    found = read_metrics(directory)
    return [(p.step, p.value) for p in found if p.tag == "loss/train"]


def test_the_device_trains_as_the_host_does(
    expected: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records and weights, and every step's loss, however seldom the host looks."""
    assert same(train(directory=tmp_path / "1"), expected)
    monkeypatch.setattr(Interpreted, "interval", 2)
    assert same(train(directory=tmp_path / "2"), expected)
    assert points(tmp_path / "1") == points(tmp_path / "2")
    assert [step for step, _ in points(tmp_path / "1")] == list(range(6))


@pytest.mark.parametrize("graphed", [1, 2])
def test_a_gpu_trains_as_the_host_does(
    graphed: int, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps are a launch each, or one launch of two and one more."""
    its_own = {"backend": "triton:sm_86"}
    expected = by_host(monkeypatch, device="interpret", **its_own)
    assert same(train(device="cuda", steps_per_graph=graphed, **its_own), expected)
    sizes = [int(line[7:]) for line in fake_cuda.log if line.startswith("replay")]
    step = min(sizes[:2])
    assert sizes[:3] == [step] * 3 if graphed == 1 else sizes[:2] == [2 * step, step]


def test_checkpoints_are_where_they_were_asked_for(
    expected: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the host would have looked; a run goes on from one."""
    monkeypatch.setattr(Interpreted, "interval", 100)

    def broken_off(*_: object) -> None:
        raise RuntimeError("broken off")

    with monkeypatch.context() as patch:
        patch.setattr("convc.runtime.trainer._Run._end_epoch", broken_off)
        with pytest.raises(RuntimeError, match="broken off"):
            train(directory=tmp_path, checkpoint_every=2)
    assert load_checkpoint(tmp_path / "checkpoints").step == 2
    assert same(train(directory=tmp_path, resume=True), expected)


class Records:
    """Steps that were run already: the second gave no number."""

    interval = 100

    def begin(self, order: np.ndarray, batch: int, epoch: int) -> None:
        assert (len(order), batch, epoch) == (21, 0, 0)

    def steps(self, number: int) -> list[tuple[float, int]]:
        return [(1.0, 5), (float("nan"), 0), (2.0, 7)][:number]


def test_a_loss_that_is_no_number_is_reported_with_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the device has gone on; nothing later is noted."""
    monkeypatch.setattr(Program, "resident", lambda *_: Records())
    wanted = r"the loss is NaN at step 1 \(epoch 1, batch 2\)"
    with pytest.raises(RunError, match=wanted):
        train(directory=tmp_path)
    assert points(tmp_path) == [(0, 1.0)]


def test_without_room_for_the_images_the_host_feeds_and_says_so(
    expected: History,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise NoRoom("there is no room for 9 bytes of images on cuda")

    monkeypatch.setattr(Program, "resident", full)
    assert same(train(progress=True), expected)
    said = capsys.readouterr().out
    assert "notice: there is no room for 9 bytes of images on cuda; they are" in said


def test_shifted_images_come_from_the_host_which_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On every backend the same: NumPy's images and labels, step by step."""
    shown: dict[str, list[bytes]] = {"triton:interpret": [], "numpy": []}
    run = Program.run

    def seen(self: Program, n: int | None = None) -> dict[str, Any]:
        if "training/step" in self.parameters:
            images, labels = self.input("image", n), self.input("labels", n)
            shown[self.backend].append(images.tobytes() + labels.tobytes())
        return run(self, n)

    monkeypatch.setattr(Program, "run", seen)
    for backend in shown:
        train(backend=backend, augment=Shifts(1), progress=True)
    assert len(shown["numpy"]) == 6
    assert shown["numpy"] == shown["triton:interpret"]
    said = capsys.readouterr().out
    assert said.count("notice: the host makes the images of Shifts(pixels=1)") == 1


def test_steps_per_graph_is_a_count() -> None:
    with pytest.raises(RunError, match="steps_per_graph must be at least 1, and is 0"):
        train(steps_per_graph=0)


def test_a_gpu_is_looked_at_seldom() -> None:
    """A look makes host and device wait for each other."""
    assert Cuda("cuda").interval >= 100
