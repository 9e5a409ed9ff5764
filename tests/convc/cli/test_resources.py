"""``convc resources`` compiles for a GPU without one, and says what is needed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convc.cli import main

pytest.importorskip("triton", reason="triton exists for Linux only")

NET = """
import convc as cc


def net(image):
    return cc.dense(cc.flatten(image), 16, name="logits")
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def resources(cache: Path, folder: Path, *options: str) -> Result:
    file = folder / "net.py"
    file.write_text(NET)
    words = ["resources", str(file), "--step", "inference", "--batch", "64", *options]
    environment = {"CONVC_CACHE_DIR": str(cache), "TRITON_INTERPRET": "1"}
    return CliRunner().invoke(main, words, env=environment)


def test_the_table_has_a_line_for_each_launch(cache: Path, tmp_path: Path) -> None:
    result = resources(cache, tmp_path, "--precision", "tf32")
    assert result.exit_code == 0, result.output
    heading, _, line = (s for s in result.stdout.splitlines() if s.strip())
    assert heading.split()[:4] == ["kernel", "warps", "registers", "spills"]
    assert line.split()[0] == "logits_dense_bias"
    assert line.split()[3] == "0"


def test_json_has_the_same_as_records(cache: Path, tmp_path: Path) -> None:
    result = resources(cache, tmp_path, "--precision", "tf32", "--json")
    (record,) = json.loads(result.stdout)
    assert record["kernel"] == "logits_dense_bias"
    assert record["target"] == "sm_90"
    assert record["tensor"] > 0
    assert record["instructions"] == sum(record["mix"].values())


def test_a_backend_without_a_gpu_has_no_resources(cache: Path, tmp_path: Path) -> None:
    result = resources(cache, tmp_path, "--backend", "numpy")
    assert result.exit_code == 1
    assert "backend 'numpy' has none; --backend triton" in result.stderr
