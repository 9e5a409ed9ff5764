"""profile prints a table or JSON, and writes a trace where it is told."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from convc.cli import main

SMALL = ("--input", "f32[N,8,8,1]", "--threads", "2", "--batch", "4", "--rounds", "2")


def convc(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="convc")


def test_a_table_of_kernels_and_a_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    result = convc("profile", "strided", *SMALL, "--trace", str(trace))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].strip() == "strided, batch 4, 2 threads, numpy"
    assert lines[1].split()[:4] == ["kernel", "with", "time", "share"]
    assert any(line.split()[:1] == ["optimizer"] for line in lines)
    total = next(line for line in lines if "all kernels" in line)
    assert "100%" in total
    assert any(line.startswith("a step takes ") for line in lines)
    assert any(line.startswith("roof: ") for line in lines)
    assert lines[-1] == f"written: {trace}"
    assert json.loads(trace.read_text("utf-8"))["traceEvents"]


def test_json_has_the_same_numbers() -> None:
    result = convc("profile", "strided", "--step", "inference", *SMALL, "--json")
    assert result.exit_code == 0, result.output
    body = json.loads(result.output)
    assert body["step_seconds"] > 0
    for kernel in body["kernels"]:
        assert kernel["flops_per_second"] == kernel["flops"] / kernel["seconds"]
        assert kernel["roof"] > 0


def test_interpreted_triton_has_no_roof() -> None:
    result = convc(
        "profile", "strided", "--interpret", *SMALL[:2], "--batch", "2", "--json"
    )
    assert result.exit_code == 0, result.output
    assert all(k["roof"] is None for k in json.loads(result.output)["kernels"])
