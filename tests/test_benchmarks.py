"""The benchmark of schedules takes every network, and goes on where it was stopped."""

import json
from pathlib import Path

import pytest
import schedule_choice
from click.testing import CliRunner
from schedule_choice import NAMES, jobs_of
from seed_networks import SEED_NETWORKS

from convc.networks import NETWORKS
from convc.tuning import Task


def run(out: Path, *arguments: str) -> schedule_choice.Row:
    short = ["--networks", "strided", "--batch", "2", "--rounds", "1", "--finals", "1"]
    command = [*short, *arguments, "--out", str(out)]
    result = CliRunner().invoke(schedule_choice.main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(out.read_text("utf-8")))


def test_every_network_is_trained_and_run_and_no_kernel_measured_twice() -> None:
    assert {*NETWORKS, *SEED_NETWORKS} == set(NAMES)
    jobs = jobs_of(",".join(NAMES), 8, 2)
    seen = {tuple(layer.split()[:2]) for job in jobs for layer in job.layers}
    assert seen == {(n, kind) for n in NAMES for kind in ("training", "inference")}
    assert len({job.task.key for job in jobs}) == len(jobs)
    assert any(
        {"two_conv", "convnet"} <= {w.split()[0] for w in j.layers} for j in jobs
    )


def test_what_was_measured_is_kept_and_what_is_predicted_anew_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked, row = tmp_path / "x.json", list[str](), schedule_choice.row
    most = 2

    def counted(task: Task, rounds: int, finals: int) -> schedule_choice.Row:
        if len(asked) == most:
            raise RuntimeError("stopped")
        asked.append(task.name)
        return row(task, rounds, finals)

    monkeypatch.setattr(schedule_choice, "row", counted)
    with pytest.raises(RuntimeError, match="stopped"):
        run(out)
    assert len(json.loads(out.read_text("utf-8"))["rows"]) == most
    most = 100
    whole = run(out)
    assert len(asked) == len(set(asked)) == whole["kernels"]
    assert run(out)["rows"] == whole["rows"]
    assert len(asked) == whole["kernels"]
    text = out.read_text("utf-8").replace("predicted", "predicted 1", 1)
    out.write_text(text, "utf-8")
    run(out)
    assert asked[whole["kernels"] :] == asked[:1]
    run(out, "--finals", "2")
    assert len(asked) == 2 * whole["kernels"] + 1
