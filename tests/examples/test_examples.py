"""The examples run as they stand, and are short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from convc.networks import EXAMPLES as NOTES

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, tmp_path: Path, *arguments: str) -> str:
    """What an example prints, on the stand-in digits."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CONVC")}
    environment |= {
        "CONVC_OFFLINE": "1",
        "CONVC_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / name, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_under_80_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < 80


def test_two_conv_shows_every_step_and_learns(tmp_path: Path) -> None:
    printed = run("two_conv.py", tmp_path)
    assert "conv1 (conv2d)" in printed
    assert "%1 = conv2d(%image, %conv1/kernel)" in printed
    assert "import numpy as np" in printed
    assert "@ examples/two_conv.py:13 conv1" in printed
    (line,) = (x for x in printed.splitlines() if x.startswith("test accuracy "))
    # A tenth would be chance.
    assert float(line.split()[2]) > 50
    assert "this is not MNIST" in printed


def test_inspect_stages_shows_what_each_pass_changed(tmp_path: Path) -> None:
    printed = run("inspect_stages.py", tmp_path)
    lines = printed.splitlines()
    assert "  fused      conv2d %1  -> conv_bias_pool_relu" in lines
    assert "  deleted    conv2d_input_grad %25" in lines
    assert lines[-1].startswith("peak: launch ")


def test_inspect_stages_shows_the_passes_that_are_named(tmp_path: Path) -> None:
    printed = run("inspect_stages.py", tmp_path, "fuse-conv", "plan-memory")
    headings = [x.split(":")[0] for x in printed.splitlines() if " nodes, " in x]
    assert headings == ["fuse-conv", "plan-memory"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_example_of_a_note_begins_with_what_it_follows(path: Path) -> None:
    if path.stem not in {"filters", *NOTES.values()}:
        return
    first, second, third = path.read_text("utf-8").splitlines()[:3]
    assert re.fullmatch(r"# (Follows|Beyond the notes:) .*\.", first), first
    assert re.fullmatch(r"# Look at .*\.", second), second
    assert third.startswith('"""Run it with')


def test_the_note_of_2017_prints_its_scopes_and_accuracy_by_epoch(
    tmp_path: Path,
) -> None:
    lines = run("cs20si.py", tmp_path, "2", "256").splitlines()
    assert "conv1/weights            f32[5,5,1,32]" in lines
    assert "softmax_linear/biases    f32[10]" in lines
    at = lines.index("Epochs  Accuracy")
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["1", "2"]


def test_the_note_of_2018_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    run("cs20.py", tmp_path, folder, "1", "256")
    printed = run("cs20.py", tmp_path, folder, "2", "256")
    assert "resuming after step 2 in epoch 2" in printed
    logged = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8")
    assert logged.count("accuracy/test") == 2


def test_bad_weights_cost_more_than_sane_ones(tmp_path: Path) -> None:
    lines = run("ltfn5.py", tmp_path, "200").splitlines()
    costs = [
        float(line.split("loss ")[1].split()[0])
        for line in lines
        if line.startswith("epoch 1/1")
    ]
    assert len(costs) == 2
    assert costs[0] > 1000 * costs[1]


def test_the_fast_network_is_trained_as_its_recipe_says(tmp_path: Path) -> None:
    lines = run("fast.py", tmp_path, "256").splitlines()
    assert [x.split()[1] for x in lines if x.startswith("epoch ")][-1] == "3/3"
    assert re.fullmatch(r"\d+\.\d s, tests and compilation included", lines[-1])


def test_the_lectures_layers_have_their_sizes(tmp_path: Path) -> None:
    printed = run("csci1470.py", tmp_path, "1", "512")
    assert "f32[N,14,14,16]" in printed
    assert "f32[N,16,16,16]" in printed
    assert "epoch 1/1" in printed


def test_flat784_trains_by_hand_and_asks_for_images_of_another_number(
    tmp_path: Path,
) -> None:
    first, last = run("flat784.py", tmp_path, "384").splitlines()
    assert first.split()[0] == "0"
    assert first.split()[1::2] == ["loss", "accuracy"]
    # A tenth would be chance.
    assert float(last.removeprefix("accuracy on 256 test images: ")) > 0.3
