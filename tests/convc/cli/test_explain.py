"""explain and plan print what is known of a layer and of the whole step."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convc.cli import main
from convc.model import Model
from convc.networks import strided
from convc.plan_table import plan_table

SMALL = ("--batch", "4", "--threads", "1")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "cache"))


def convc(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="convc")


def test_explain_without_a_layer_lists_them_with_their_lines() -> None:
    result = convc("explain", "strided")
    assert result.exit_code == 0
    first = result.stdout.splitlines()[0]
    assert first.split()[:2] == ["conv1", "conv2d"]
    assert "networks.py:" in first


def test_explain_unmeasured_says_nothing_of_measurements(tmp_path: Path) -> None:
    result = convc("explain", "strided", "conv1", "--no-measure", *SMALL)
    assert result.exit_code == 0
    assert result.stdout.startswith("conv1 (conv2d) ")
    assert "measured" not in result.stdout
    assert "of the step's predicted time" in result.stdout
    assert not (tmp_path / "cache").exists()


def test_explain_measures_and_compares_with_the_roof(tmp_path: Path) -> None:
    result = convc("explain", "strided", "conv1", "--step", "inference", *SMALL)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())  # where lines are wrapped depends on times
    for part in ("measured ", "ratio ", "% of the roofline", "of the step's time"):
        assert part in text
    assert (tmp_path / "cache" / "peaks.json").exists()


def test_explain_as_json_has_every_record() -> None:
    arguments = ("explain", "strided", "conv1", "--no-measure", "--json")
    found = json.loads(convc(*arguments, *SMALL).stdout)
    assert found["layer"] == "conv1"
    assert found["kernels"][0]["code"]["lines"][0].startswith("def ")


def test_json_is_for_a_layer() -> None:
    result = convc("explain", "strided", "--json")
    assert result.exit_code == 2
    assert "--json is for a LAYER" in result.stderr


def test_explain_of_no_layer_names_those_it_may_be() -> None:
    result = convc("explain", "strided", "conv_1", *SMALL)
    assert result.exit_code == 1
    assert "error: no layer is called 'conv_1'; did you mean conv1" in result.stderr


def test_plan_prints_the_table() -> None:
    stages = Model(strided).inference().stages(batch=4, threads=1)
    result = convc("plan", "strided", "--step", "inference", *SMALL)
    assert result.stdout == f"{plan_table(stages)}\n"


def test_plan_after_a_run_has_predicted_and_measured() -> None:
    result = convc("plan", "strided", "--measure", *SMALL)
    assert result.exit_code == 0
    heading = result.stdout.splitlines()[1]
    assert heading.split()[-4:] == ["predicted", "measured", "ratio", "roof"]
    assert "GFLOP/s" in result.stdout.splitlines()[-1]


def test_plan_measures_the_peaks_again_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "peaks.json"
    file.parent.mkdir()
    convc("plan", "strided", "--measure", *SMALL)
    old = json.loads(file.read_text())
    for peaks in old["peaks"].values():
        peaks["gemm"] = 1.0
    file.write_text(json.dumps(old))
    convc("plan", "strided", "--measure", *SMALL)
    assert json.loads(file.read_text()) == old
    convc("plan", "strided", "--measure", "--new-peaks", *SMALL)
    assert json.loads(file.read_text()) != old


def test_new_peaks_without_a_measurement_cannot_be_meant() -> None:
    result = convc("plan", "strided", "--new-peaks", *SMALL)
    assert result.exit_code == 2
    assert "--new-peaks needs --measure" in result.stderr


def test_neither_command_colours_what_is_piped() -> None:
    for command in (
        ("explain", "strided", "conv1", "--no-measure"),
        ("plan", "strided"),
    ):
        assert "\x1b" not in convc(*command, *SMALL).stdout
