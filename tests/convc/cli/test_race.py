"""``convc race``, as a person runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from convc.cli import main
from convc.data.batches import Dataset, Splits

NETWORK = """
import convc.layers as cc


def tiny(image):
    return cc.dense(cc.flatten(cc.max_pool2d(image, 4)), 10, name="logits")
"""
NOTICE = "this is not MNIST"


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network in a file of the working folder, and images whose labels are all 3."""
    (tmp_path / "net.py").write_text(NETWORK, "utf-8")
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).random((40, 28, 28, 1), dtype=np.float32)
    threes = Dataset(images, np.full(40, 3, np.int32), "threes", notice=NOTICE)
    monkeypatch.setattr("convc.data.mnist.load_mnist", lambda _: Splits(threes, threes))


def race(*arguments: str) -> Result:
    fixed = ("--batch", "16", "--threads", "1", "--learning-rate", "0.1")
    return CliRunner().invoke(main, ["race", "net.py:tiny", *fixed, *arguments])


def test_a_row_for_each_seed_then_median_and_spread() -> None:
    result = race("--target", "90", "--seeds", "2")
    assert result.exit_code == 0, result.stderr
    first, *lines = result.stdout.splitlines()
    assert first == "net.py:tiny to 90 % of threes, in seconds"
    headings = "seed accuracy epochs total compile data kernels test host"
    assert " ".join(lines[0].split()) == headings
    named = {line.split()[0]: line.split() for line in lines[2:] if line.strip()}
    assert list(named) == ["0", "1", "median", "spread", "notice:"]
    assert float(named["0"][1]) >= 90
    assert len(named["median"]) == 1 + 7
    assert len(named["spread"]) == 1 + 3 * 7
    assert result.stderr.startswith("seed 0  epoch 1  accuracy/test ")


def test_a_run_that_misses_the_target_makes_the_exit_code_1() -> None:
    result = race("--target", "100", "--epochs", "1", "--seeds", "1", "--limit", "1",
                  "--optimizer", "sgd", "--learning-rate", "0")  # fmt: skip
    assert result.exit_code == 1
    assert "error: 1 of 1 runs missed 100 % within 1 epochs" in result.stderr
    assert " > 1 " in result.stdout
    assert "median" not in result.stdout


def test_a_run_that_breaks_off_says_why() -> None:
    result = race("--optimizer", "sgd", "--learning-rate", "1e38", "--seeds", "1")
    assert result.exit_code == 1
    assert "seed 0 broke off: the loss is " in result.stdout


def test_json_has_the_settings_and_the_laps() -> None:
    result = race("--target", "90", "--seeds", "1", "--test-every", "1", "--json")
    told = json.loads(result.stdout)
    assert (told["network"], told["data"]) == ("net.py:tiny", "threes")
    assert told["images"] == 40
    assert (told["batch"], told["threads"], told["precision"]) == (16, 1, "fp32")
    assert told["optimizer"].startswith("Adam(learning_rate=0.1")
    (lap,) = told["laps"]
    assert lap["reached"]
    assert told["median"]["seconds"] == lap["seconds"] == sum(lap["split"].values())


COOKED = f"""
import convc as cc


@cc.recipe(epochs=2, batch=8, optimizer=cc.SGD(RATE), augment=cc.Shifts(1))
{NETWORK[NETWORK.index("def ") :]}"""


@pytest.mark.parametrize(
    ("rate", "epochs"), [("0.5", 20), ("cc.CosineDecay(0.5, 10)", 2)]
)
def test_a_race_is_run_as_the_recipe_says(rate: str, epochs: int) -> None:
    """It is given up where the schedule ends; 20 epochs are for a rate that stays."""
    Path("net.py").write_text(COOKED.replace("RATE", rate), "utf-8")
    command = ["race", "net.py:tiny", "--seeds", "1", "--threads", "1", "--json"]
    result = CliRunner().invoke(main, [*command, "--target", "90"])
    told = json.loads(result.stdout)
    assert (told["batch"], told["epochs"]) == (8, epochs)
    assert told["optimizer"].startswith("SGD(learning_rate=")
    assert told["augment"] == "Shifts(pixels=1)"


def test_a_target_that_is_no_accuracy_is_refused() -> None:
    result = race("--target", "0")
    assert result.exit_code == 2
    assert "--target" in result.stderr
