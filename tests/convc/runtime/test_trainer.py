"""Training ends with the same bits however often it was stopped."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convc.data.augment import Shifts
from convc.data.batches import SHUFFLE_STREAM, Dataset, batches
from convc.ir import philox
from convc.ir.errors import ConvcError, RunError
from convc.layers import conv2d, dense, dropout, flatten
from convc.model import Model, fed
from convc.optimizers import SGD, Adam, AdamW
from convc.program import Program
from convc.runtime.checkpoint import CheckpointError, load_checkpoint
from convc.runtime.history import Epoch, History
from convc.runtime.metrics import read_metrics
from convc.runtime.trainer import fit
from convc.tracing import Tensor

SIDE = 6


def tiny(image: Tensor) -> Tensor:
    x = conv2d(image, 4, 3, activation="relu", name="conv")
    x = dropout(flatten(x), keep=0.75)
    return dense(x, 4, name="logits")


def model() -> Model:
    return Model(tiny, image=f"f32[N,{SIDE},{SIDE},1]")


def quadrants(count: int, seed: int) -> Dataset:
    """Noise with one bright quadrant; its number is the label."""
    random = np.random.default_rng(seed)
    images = random.random((count, SIDE, SIDE, 1), dtype=np.float32) / 2
    labels = random.integers(0, 4, count).astype(np.int32)
    half = SIDE // 2
    for image, label in zip(images, labels, strict=True):
        y, x = divmod(int(label), 2)
        image[y * half : (y + 1) * half, x * half : (x + 1) * half] += 0.5
    return Dataset(images, labels, f"quadrants {seed}")


TRAIN, TEST = quadrants(90, 1), quadrants(40, 2)


def train(**changes: Any) -> History:
    settings: dict[str, Any] = {"epochs": 3, "batch": 16, "threads": 1, **changes}
    data = settings.pop("train", TRAIN)
    network = settings.pop("model", None) or model()
    settings.setdefault("validation", TEST)
    settings.setdefault("optimizer", Adam(0.01))
    return fit(network, data, progress=settings.pop("progress", False), **settings)


def state(program: Program) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in program.parameters.items()}


def at_step(
    monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]
) -> None:
    """Do something before the training step of that number (from 0) runs."""
    run, count = Program.run, -1

    def counted(self: Program, n: int | None = None) -> dict[str, Any]:
        nonlocal count
        count += "training/step" in self.parameters
        if count == number:
            action()
        return run(self, n)

    monkeypatch.setattr(Program, "run", counted)


def broken_off(monkeypatch: pytest.MonkeyPatch, number: int, **settings: Any) -> None:
    """Train until an error in the step of that number."""

    def fail() -> None:
        raise RuntimeError("broken off")

    with monkeypatch.context() as patch:
        at_step(patch, number, fail)
        with pytest.raises(RuntimeError, match="broken off"):
            train(**settings)


def test_training_learns_and_its_history_says_so() -> None:
    history = train(epochs=8)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert history.test_accuracy[-1] is not None
    assert history.test_accuracy[-1] > 0.9
    assert [epoch.number for epoch in history.epochs] == list(range(1, 9))
    assert history.epochs[0].accuracy == history.accuracy[0]
    assert history.test_loss[0] == history.epochs[0].test_loss


def test_an_epoch_shows_every_image_once_the_partial_batch_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The batches are those of convc.data.batches, bit for bit and in order."""
    shown: list[tuple[bytes, bytes]] = []
    run = Program.run

    def seen(self: Program, n: int | None = None) -> dict[str, Any]:
        images, labels = self.input("image", n), self.input("labels", n)
        shown.append((images.tobytes(), labels.tobytes()))
        return run(self, n)

    monkeypatch.setattr(Program, "run", seen)
    train(epochs=2, validation=None, seed=5)
    expected = [
        (images.tobytes(), labels.tobytes())
        for epoch in range(2)
        for images, labels in batches(TRAIN, 16, seed=5, epoch=epoch)
    ]
    assert shown == expected


def test_two_runs_with_one_seed_end_with_the_same_bits() -> None:
    first, second, other = train(epochs=1), train(epochs=1), train(epochs=1, seed=1)
    assert state(first.program) == state(second.program)
    assert first.digest == second.digest != other.digest


def test_the_record_of_an_epoch_counts_every_image() -> None:
    """With a rate of 0 the loss of the epoch is that of the whole set, whole batch."""
    history = train(epochs=1, optimizer=SGD(0.0), batch=90, validation=TRAIN)
    in_parts = train(epochs=1, optimizer=SGD(0.0), batch=16, validation=TRAIN)
    (whole,), (parts,) = history.epochs, in_parts.epochs
    assert whole.test_accuracy == parts.test_accuracy
    assert whole.test_loss == pytest.approx(parts.test_loss, rel=90 * 2**-24)


@pytest.mark.parametrize("killed_at", [0, 2, 5, 6, 11, 17])
@pytest.mark.parametrize("every", [None, 2])
def test_a_run_that_was_broken_off_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int, every: int | None
) -> None:
    """All parameters, the optimizer's state and the history; 6 steps are an epoch."""
    whole = train(optimizer=AdamW(0.01))
    settings = {"optimizer": AdamW(0.01), "directory": tmp_path}
    broken_off(monkeypatch, killed_at, **settings, checkpoint_every=every)
    if killed_at < (every or 6):
        with pytest.raises(CheckpointError, match="holds no checkpoint to resume from"):
            train(**settings, resume=True)
        return
    resumed = train(**settings, resume=True, checkpoint_every=every)
    assert state(resumed.program) == state(whole.program)
    assert resumed.digest == whole.digest
    assert [untimed(e) for e in resumed.epochs] == [untimed(e) for e in whole.epochs]


def test_an_epoch_shows_images_as_they_are_shifted_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the seed of the run and the number of the epoch."""
    shown: list[bytes] = []
    run = Program.run

    def seen(self: Program, n: int | None = None) -> dict[str, Any]:
        shown.append(self.input("image", n).tobytes())
        return run(self, n)

    monkeypatch.setattr(Program, "run", seen)
    train(epochs=2, batch=90, validation=None, seed=5, augment=Shifts(1))
    for epoch, images in enumerate(shown):
        expected = np.empty_like(TRAIN.images)
        order = philox.permutation(5, SHUFFLE_STREAM, epoch, 90)
        Shifts(1).gathering(TRAIN.images, 90, 5, epoch)(order, expected)
        assert images == expected.tobytes()
    assert len(shown) == 2


def test_a_resumed_run_sees_the_same_shifted_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are others than without a shift; it goes on in the middle of an epoch."""
    shifted: dict[str, Any] = {"augment": Shifts(1), "epochs": 2}
    whole = train(**shifted)
    assert whole.digest != train(epochs=2).digest
    shifted["directory"] = tmp_path
    broken_off(monkeypatch, 9, **shifted, checkpoint_every=2)
    assert train(**shifted, resume=True).digest == whole.digest


def untimed(epoch: Epoch) -> Epoch:
    return replace(epoch, seconds=0.0, images_per_second=0.0)


def test_a_finished_run_can_be_resumed_for_more_epochs(tmp_path: Path) -> None:
    train(epochs=1, directory=tmp_path)
    more = train(epochs=2, directory=tmp_path, resume=True)
    assert more.digest == train(epochs=2).digest
    again = train(epochs=2, directory=tmp_path, resume=True)
    assert again.digest == more.digest
    assert len(again.epochs) == 2


def test_the_curves_of_a_resumed_run_do_not_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(epochs=2, directory=tmp_path / "whole")
    broken_off(monkeypatch, 9, epochs=2, directory=tmp_path / "parts")
    train(epochs=2, directory=tmp_path / "parts", resume=True)

    def curves(name: str) -> list[tuple[str, int, float]]:
        points = read_metrics(tmp_path / name)
        return [(p.tag, p.step, p.value) for p in points if "second" not in p.tag]

    assert curves("parts") == curves("whole")
    tags = {tag for tag, _, _ in curves("whole")}
    assert tags == {"loss/train", "accuracy/train", "loss/test", "accuracy/test"}
    assert [s for tag, s, _ in curves("whole") if tag == "loss/train"] == [*range(12)]
    assert [s for tag, s, _ in curves("whole") if tag == "accuracy/test"] == [5, 11]


def test_the_best_checkpoint_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    history = train(directory=tmp_path)
    best = load_checkpoint(tmp_path / "checkpoints", which="best")
    scores = [accuracy or 0.0 for accuracy in history.test_accuracy]
    assert best.meta["score"] == max(scores)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"batch": 8}, "batch was 16 and is now 8"),
        ({"optimizer": SGD(0.5)}, "optimizer was 'Adam("),
        ({"augment": Shifts(1)}, "'Augmentation()' and is now 'Shifts(pixels=1)'"),
        ({"train": TRAIN.first(80)}, "images was 90 and is now 80"),
        ({"model": Model(tiny, "other", image="f32[N,6,6,1]")}, "'tiny' and is now"),
    ],
)
def test_a_run_is_resumed_only_as_it_was_begun(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    train(epochs=1, directory=tmp_path)
    before = sorted((tmp_path / "checkpoints").iterdir())
    with pytest.raises(CheckpointError, match="resumed as it was begun") as caught:
        train(directory=tmp_path, resume=True, **changes)
    assert message in str(caught.value)
    assert sorted((tmp_path / "checkpoints").iterdir()) == before


def test_other_threads_are_allowed_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(epochs=1, directory=tmp_path)
    train(epochs=2, directory=tmp_path, resume=True, threads=2, progress=True)
    assert "notice: threads was 1 and is now 2" in capsys.readouterr().out


def test_a_network_whose_shapes_changed_is_not_resumed(tmp_path: Path) -> None:
    train(epochs=1, directory=tmp_path)

    def wider(image: Tensor) -> Tensor:
        x = dropout(flatten(conv2d(image, 5, 3, name="conv")), keep=0.75)
        return dense(x, 4, name="logits")

    changed = Model(wider, "tiny", image="f32[N,6,6,1]")
    with pytest.raises(CheckpointError, match=r"conv/kernel is float32\[3, 3, 1, 4\]"):
        train(directory=tmp_path, resume=True, model=changed)


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path: Path) -> None:
    train(epochs=1, directory=tmp_path)
    with pytest.raises(CheckpointError, match="holds the checkpoints of a run already"):
        train(epochs=1, directory=tmp_path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    from convc.runtime.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "checkpoints", 3, {"w": np.zeros(2, np.float32)}, {})
    with pytest.raises(CheckpointError, match="saved by something else"):
        train(directory=tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoints from before stay; none is saved of what is spoilt."""
    run, count = Program.run, 0

    def spoilt(self: Program, n: int | None = None) -> dict[str, Any]:
        nonlocal count
        outputs = run(self, n)
        if "training/step" in self.parameters:
            count += 1
            if count == 9:
                outputs["loss"] = np.float32(np.nan)
        return outputs

    monkeypatch.setattr(Program, "run", spoilt)
    with pytest.raises(RunError) as caught:
        train(directory=tmp_path, checkpoint_every=4)
    message = str(caught.value)
    assert message.startswith("the loss is NaN at step 8 (epoch 2, batch 3)")
    assert "smaller learning rate" in message
    assert load_checkpoint(tmp_path / "checkpoints").step == 8


def test_a_rate_that_is_too_high_ends_with_an_error_not_with_a_bad_checkpoint(
    tmp_path: Path,
) -> None:
    with pytest.raises(RunError, match="is (NaN|infinite)"):
        train(epochs=9, optimizer=SGD(1e30), directory=tmp_path, checkpoint_every=1)
    saved = (tmp_path / "checkpoints").glob("*.json")
    for checkpoint in map(load_checkpoint, saved):
        assert all(np.isfinite(a).all() for a in checkpoint.tensors.values())


def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is finite when it is the update that overflows."""
    run = Program.run

    def spoilt(self: Program, n: int | None = None) -> dict[str, Any]:
        outputs = run(self, n)
        if int(self.parameters.get("training/step", 0)) == 2:
            self.parameters["conv/kernel"][0] = np.inf
        return outputs

    monkeypatch.setattr(Program, "run", spoilt)
    with pytest.raises(RunError, match="conv/kernel is infinite after step 2"):
        train(directory=tmp_path, checkpoint_every=1)
    assert load_checkpoint(tmp_path / "checkpoints").step == 1


def test_ctrl_c_ends_the_step_saves_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        at_step(patch, 7, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="interrupted after step 8.*resume"):
            train(directory=tmp_path)
    assert signal.getsignal(signal.SIGINT) is former
    assert load_checkpoint(tmp_path / "checkpoints").step == 8
    assert train(directory=tmp_path, resume=True).digest == train().digest


def test_ctrl_c_twice_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 1, twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        train()
    assert "interrupted after" not in str(caught.value)


def test_ctrl_c_without_a_run_directory_says_that_nothing_was_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_step(monkeypatch, 0, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="after step 1: nothing was kept"):
        train()


def test_the_memory_plan_comes_before_the_first_epoch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    history = train(epochs=1, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"training {history.program.memory}"
    assert lines[1].startswith("testing memory: ")
    assert lines[2].startswith("epoch 1/1  loss ")
    assert "  accuracy/train " in lines[2]
    assert "  accuracy/test " in lines[2]
    assert lines[-1] == f"sha256 of the weights: {history.digest}"


def test_without_progress_nothing_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(epochs=1)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, and is 0"),
        ({"batch": 0}, "batch must be at least 1, and is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, and is 0"),
        ({"resume": True}, "resume needs the directory of the run"),
        ({"checkpoint_every": 5}, "checkpoint_every needs the directory of the run"),
        ({"optimizer": Adam("runtime")}, "no learning rate to feed"),
        (
            {"train": Dataset(TRAIN.images, TRAIN.labels + 1, "shifted")},
            r"labels 0 .. 3\), and the highest label of shifted is 4",
        ),
        (
            {"validation": Dataset(TEST.images[:, :5], TEST.labels, "cut")},
            r"%image is f32\[N,6,6,1\], and cut have shape \[40, 5, 6, 1\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        train(**changes)


def test_check_mode_checks_every_pass() -> None:
    history = train(epochs=1, check=True)
    assert any(stage.checked for stage in history.program.stages)


def test_all_errors_of_a_run_are_of_one_family() -> None:
    assert issubclass(RunError, ConvcError)
    assert issubclass(CheckpointError, ConvcError)


def keeping(image: Tensor, share: Tensor) -> Tensor:
    return dense(dropout(flatten(image), keep=share), 4, name="logits")


def test_dropout_by_a_share_that_is_fed_trains_tests_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the number itself, whose tests leave dropout out."""

    def fixed(image: Tensor) -> Tensor:
        return dense(dropout(flatten(image), keep=0.5), 4, name="logits")

    kind = f"f32[N,{SIDE},{SIDE},1]"
    network = Model(keeping, image=kind, share=fed(train=0.5, test=1.0))
    whole, plain = train(model=network), train(model=Model(fixed, image=kind))
    assert state(whole.program) == state(plain.program)
    assert [untimed(e) for e in whole.epochs] == [untimed(e) for e in plain.epochs]
    settings = {"model": network, "directory": tmp_path, "validation": None}
    broken_off(monkeypatch, 8, **settings)
    resumed = train(**settings, resume=True)
    assert state(resumed.program) == state(whole.program)


def test_the_device_feeds_itself_what_the_host_would() -> None:
    kind = f"f32[N,{SIDE},{SIDE},1]"
    network = Model(keeping, image=kind, share=fed(train=0.5, test=1.0))
    settings = {"model": network, "train": TRAIN.first(20), "epochs": 1}
    one = train(**settings, validation=TEST.first(9))
    other = train(**settings, validation=TEST.first(9), backend="triton:interpret")
    assert one.epochs[0].accuracy == other.epochs[0].accuracy
    assert other.loss[0] == pytest.approx(one.loss[0], rel=1e-5)
    assert other.test_loss[0] == pytest.approx(one.test_loss[0], rel=1e-5)
