"""The examples run as they stand, and are short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
