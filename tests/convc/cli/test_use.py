"""train, evaluate and predict, as a person runs them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from convc.cli import main
from convc.data.batches import Dataset, Splits
from convc.data.idx import DataError
from convc.program import Program
from convc.runtime.checkpoint import load_checkpoint, save_weights

ROOT = Path(__file__).parents[3]

# It stops its own process in the middle of a step, if the environment says so.
NETWORK = """
import os
import signal

import convc.layers as cc
from convc.program import Program

steps, run = 0, Program.run


def counted(self, n=None):
    global steps
    steps += "training/step" in self.parameters
    if str(steps) == os.environ.get("KILLED_IN_STEP"):
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self, n)


Program.run = counted


def tiny(image):
    x = cc.max_pool2d(image, 4)
    x = cc.dropout(cc.flatten(x), keep=0.75)
    return cc.dense(x, 10, name="logits")
"""
PLAIN = NETWORK[NETWORK.index("def tiny") :]


def convc(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="convc")


def blobs(count: int, seed: int, notice: str = "") -> Dataset:
    """Images with one bright row of the pooled 7, whose number is the label."""
    random = np.random.default_rng(seed)
    images = random.random((count, 28, 28, 1), dtype=np.float32) / 2
    labels = random.integers(0, 7, count).astype(np.int32)
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 4] += 0.5
    return Dataset(images, labels, f"blobs {seed}", notice=notice)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A network in a file of the working folder, and small data."""
    (tmp_path / "net.py").write_text(f"import convc.layers as cc\n\n\n{PLAIN}")
    monkeypatch.chdir(tmp_path)
    asked: list[str | None] = []

    def load(data: str | None = None) -> Splits:
        asked.append(data)
        return Splits(blobs(64, 1), blobs(20, 2))

    monkeypatch.setattr("convc.data.mnist.load_mnist", load)
    return "net.py:tiny"


QUICK = ("--batch", "16", "--threads", "1")
LEARNED = ("--epochs", "20", "--learning-rate", "0.05")


def digest(output: str) -> str:
    (line,) = (x for x in output.splitlines() if x.startswith("sha256 of the weights"))
    return line.split()[-1]


def test_train_prints_a_line_per_epoch_the_accuracy_and_the_digest(tiny: str) -> None:
    result = convc("train", tiny, "--epochs", "3", *QUICK)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/3", "2/3", "3/3"]
    assert all("  accuracy/test " in line for line in epochs)
    assert lines[0].startswith("training memory: one arena of ")
    assert lines[-2].startswith("test accuracy ")
    assert lines[-2].endswith(" of 20 images of blobs 2)")
    assert len(digest(result.stdout)) == 64


def test_train_is_the_same_run_after_run(tiny: str) -> None:
    first, second = (convc("train", tiny, "--epochs", "1", *QUICK) for _ in range(2))
    assert digest(first.stdout) == digest(second.stdout)
    other = convc("train", tiny, "--epochs", "1", "--seed", "1", *QUICK)
    assert digest(other.stdout) != digest(first.stdout)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_train_with_every_optimizer(tiny: str, optimizer: str) -> None:
    arguments = ("--epochs", "1", "--optimizer", optimizer, "--learning-rate", "0.01")
    result = convc("train", tiny, *arguments, *QUICK)
    assert result.exit_code == 0, result.stderr


COOKED = f"""
import convc as cc


@cc.recipe(epochs=2, batch=32, optimizer=cc.SGD(0.25), augment=cc.Shifts(2))
{PLAIN}"""


@pytest.mark.parametrize(
    ("options", "epochs", "told"),
    [
        ((), 2, ("SGD(learning_rate=0.25", 32, "Shifts(pixels=2)")),
        (("--shifts", "0"), 2, ("SGD(learning_rate=0.25", 32, "Augmentation()")),
        (("--epochs", "1", "--batch", "16"), 1, ("SGD(", 16, "Shifts(pixels=2)")),
        (("--learning-rate", "0.5"), 2, ("SGD(learning_rate=0.5", 32, "Shifts(")),
        (("--optimizer", "adam"), 2, ("Adam(learning_rate=0.001", 32, "Shifts(")),
    ],
)
def test_train_does_as_the_recipe_says_unless_it_is_told_otherwise(
    tiny: str,
    options: tuple[str, ...],
    epochs: int,
    told: tuple[str, int, str],
) -> None:
    Path("cooked.py").write_text(COOKED)
    result = convc("train", "cooked.py:tiny", "--run", "r", "--threads", "1", *options)
    assert result.exit_code == 0, result.stderr
    checkpoint = load_checkpoint(Path("r/checkpoints"))
    settings = checkpoint.meta["settings"]
    assert len(checkpoint.meta["position"]["records"]) == epochs
    assert settings["optimizer"].startswith(told[0])
    assert settings["batch"] == told[1]
    assert settings["augment"].startswith(told[2])


def test_train_with_a_limit_sees_that_many_images(tiny: str) -> None:
    convc("train", tiny, "--epochs", "1", "--limit", "20", "--run", "r", *QUICK)
    metrics = Path("r/metrics.jsonl").read_text("utf-8")
    assert metrics.count('"loss/train"') == 2


def test_a_notice_of_the_data_stands_beside_the_result(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Splits(blobs(64, 1, "this is not MNIST"), blobs(20, 2, "this is not MNIST"))
    monkeypatch.setattr("convc.data.mnist.load_mnist", lambda _: data)
    result = convc("train", tiny, "--epochs", "1", "--weights-out", "w", *QUICK)
    lines = result.stdout.splitlines()
    assert lines[-2] == "notice: this is not MNIST"
    result = convc("evaluate", tiny, "--weights", "w", *QUICK)
    assert result.stdout.splitlines()[-1] == "notice: this is not MNIST"


def test_evaluate_gives_what_training_ended_with(tiny: str) -> None:
    trained = convc("train", tiny, "--epochs", "2", "--weights-out", "w", *QUICK)
    assert trained.stdout.splitlines()[-1] == "weights written to w"
    result = convc("evaluate", tiny, "--weights", "w", *QUICK)
    assert result.exit_code == 0, result.stderr
    (line,) = (x for x in trained.stdout.splitlines() if x.startswith("test accuracy"))
    assert line.removeprefix("test ") in result.stdout


def test_predict_answers_with_class_and_probabilities(tiny: str) -> None:
    convc("train", tiny, "--weights-out", "w", *LEARNED, *QUICK)
    images = blobs(3, 7)
    np.save("images.npy", images.images)
    result = convc("predict", tiny, "--weights", "w", "images.npy", *QUICK)
    assert result.exit_code == 0, result.stderr
    rows = [x.split() for x in result.stdout.splitlines() if "images.npy[" in x]
    assert [row[1] for row in rows] == [str(label) for label in images.labels]
    assert all(row[3] == "%" for row in rows)


ROWS = """

@takes(x="f32[N,784]", share=fed(train=0.5, test=1.0))
def rows(x, share):
    return cc.dense(cc.dropout(x, keep=share), 10, name="logits")
"""


def test_a_network_of_rows_that_is_fed_a_share_is_trained_and_asked(tiny: str) -> None:
    path = Path("net.py")
    path.write_text(f"from convc import fed, takes\n{path.read_text()}{ROWS}")
    trained = convc("train", "net.py:rows", "--weights-out", "w", *LEARNED, *QUICK)
    assert trained.exit_code == 0, trained.stderr
    np.save("images.npy", blobs(3, 7).images)
    for command in (("evaluate",), ("predict", "images.npy")):
        name, *images = command
        result = convc(name, "net.py:rows", *images, "--weights", "w", *QUICK)
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("network", ["strided", ""])
def test_predict_without_a_model_asks_the_weight_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    from convc.cli.group import load_model
    from convc.cli.use import expected_weights

    monkeypatch.chdir(tmp_path)
    expected = expected_weights(load_model("strided"))
    arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in expected.items()}
    save_weights("w", arrays, network)
    np.save("x.npy", np.zeros((28, 28), np.uint8))
    result = convc("predict", "--weights", "w", "x.npy", *QUICK)
    if network:
        assert result.exit_code == 0, result.stderr
        assert "10.00 %" in result.stdout
    else:
        assert result.exit_code == 2
        assert "does not say which network it is of" in result.stderr


def test_a_file_that_a_weight_file_names_is_not_run_unasked(tiny: str) -> None:
    convc("train", tiny, "--epochs", "1", "--weights-out", "w", *QUICK)
    np.save("x.npy", np.zeros((28, 28), np.uint8))
    result = convc("predict", "--weights", "w", "x.npy", *QUICK)
    assert result.exit_code == 2
    assert "belongs to net.py:tiny; name the model" in result.stderr


def test_weights_of_another_network_are_refused_with_both_sides(tiny: str) -> None:
    convc("train", tiny, "--epochs", "1", "--weights-out", "w", *QUICK)
    result = convc("evaluate", "strided", "--weights", "w", *QUICK)
    assert result.exit_code == 1
    assert "missing: conv1/kernel" in result.stderr
    assert "float32[49, 10] in the file, expected float32[3136, 10]" in result.stderr


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_absent_weights_are_an_error(tiny: str, command: str) -> None:
    image = ("x.npy",) if command == "predict" else ()
    result = convc(command, tiny, *image, "--weights", "none", *QUICK)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: none: cannot be read")


def test_data_that_cannot_be_had_are_an_error_before_anything_is_made(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(data: str | None) -> Splits:
        raise DataError(f"{data}: is not a folder")

    monkeypatch.setattr("convc.data.mnist.load_mnist", load)
    result = convc("train", tiny, "--data", "nowhere", "--run", "r", *QUICK)
    assert (result.exit_code, result.stderr) == (1, "error: nowhere: is not a folder\n")
    assert not Path("r").exists()


def test_resume_goes_on_and_refuses_another_seed(tiny: str) -> None:
    whole = convc("train", tiny, "--epochs", "2", *QUICK)
    convc("train", tiny, "--epochs", "1", "--run", "r", *QUICK)
    again = ("train", tiny, "--epochs", "2", "--run", "r", *QUICK)
    assert "a run already" in convc(*again).stderr
    refused = convc(*again, "--resume", "--seed", "3")
    assert refused.exit_code == 1
    assert "seed was 0 and is now 3" in refused.stderr
    resumed = convc(*again, "--resume")
    assert "resuming after step 4 in epoch 2" in resumed.stdout
    assert digest(resumed.stdout) == digest(whole.stdout)


def test_ctrl_c_says_how_to_go_on(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Program.run

    def pressed(self: Program, n: int | None = None) -> dict[str, np.ndarray]:
        os.kill(os.getpid(), signal.SIGINT)
        return run(self, n)

    monkeypatch.setattr(Program, "run", pressed)
    result = convc("train", tiny, "--run", "r", *QUICK)
    assert result.exit_code == 130
    assert "interrupted after step 1" in result.stderr
    assert result.stderr.endswith("(the same command with --resume)\n")


def test_a_run_killed_by_sigkill_and_resumed_ends_with_the_same_digest(
    tmp_path: Path,
) -> None:
    """The whole command line, on the stand-in digits, killed within an epoch."""
    (tmp_path / "net.py").write_text(NETWORK)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CONVC")}
    environment |= {
        "CONVC_OFFLINE": "1",
        "CONVC_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }

    def train(*more: str, **variables: str) -> subprocess.CompletedProcess[str]:
        module = (sys.executable, "-m", "convc", "train", "net.py:tiny")
        sizes = ("--epochs", "2", "--limit", "600", "--threads", "1")
        return subprocess.run(
            [*module, *sizes, *more],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    run = ("--run", "run", "--checkpoint-every", "3")
    killed = train(*run, KILLED_IN_STEP="9")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed, whole = train(*run, "--resume"), train()
    assert "resuming after step 6 in epoch 2" in resumed.stdout
    assert digest(resumed.stdout) == digest(whole.stdout)
    assert "this is not MNIST" in whole.stdout


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_missing_gpu_is_an_error_before_any_work(
    command: str, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the data are looked for."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def never(data: str | None = None) -> Splits:
        raise AssertionError("the data are loaded")

    monkeypatch.setattr("convc.data.mnist.load_mnist", never)
    Path("w").write_bytes(b"")
    weights = ("--weights", "w") if command == "evaluate" else ()
    for name, device in ("cuda", ()), ("cuda:1", ("--device", "cuda:1")):
        result = convc(command, tiny, "--backend", "triton", *device, *weights)
        assert result.exit_code == 1
        assert f"error: device {name} is a GPU" in result.stderr
        assert "run interpreted on the CPU: --interpret" in result.stderr


def test_a_network_is_trained_and_asked_in_tritons_interpreter(tiny: str) -> None:
    """The weights do not say by whom they were trained."""
    pytest.importorskip("triton")
    few = ("--interpret", "--batch", "16")
    digests = set()
    for graphed in ((), ("--steps-per-graph", "2")):
        trained = convc(
            *("train", tiny, *few, "--epochs", "1", "--limit", "24", *graphed),
            *("--test-limit", "16", "--weights-out", "w"),
        )
        assert trained.exit_code == 0, trained.stderr
        assert "of 16 images of blobs 2" in trained.stdout
        lines = trained.stdout.splitlines()
        digests.add(next(line for line in lines if line.startswith("sha256")))
    assert len(digests) == 1
    np.save("x.npy", blobs(1, 3).images[0, :, :, 0])
    asked = [
        convc("predict", tiny, "x.npy", "--weights", "w", *where).stdout
        for where in (few, ("--threads", "1"))
    ]
    assert asked[0] == asked[1]
    assert "x.npy" in asked[0]


def test_another_backends_device_is_refused(tiny: str) -> None:
    result = convc("train", tiny, "--device", "cuda", *QUICK)
    assert result.exit_code == 1
    assert "numpy backend runs on cpu or cpu:processes, not on 'cuda'" in result.stderr
