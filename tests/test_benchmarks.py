"""Schedules and seeds are measured in small, and go on where they were stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import schedule_choice
import seeds
from click.testing import CliRunner
from schedule_choice import NAMES, jobs_of
from seed_networks import SEED_NETWORKS

from convc.networks import NETWORKS, built_in
from convc.runtime import trainer
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


def train_seeds(folder: Path, *arguments: str) -> dict[str, Any]:
    """What is kept of the smallest network, on a slice of the stand-in digits."""
    slice_of = ["--limit", "64", "--test-limit", "50", "--threads", "1"]
    places = ["--out", str(folder / "out"), "--runs", str(folder / "runs")]
    seeds.main(["csci1470", *slice_of, *places, *arguments])
    result = folder / "out" / "numpy" / "csci1470.json"
    return dict(json.loads(result.read_text("utf-8")))


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CONVC_DATA", raising=False)
    monkeypatch.setenv("CONVC_OFFLINE", "1")
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_seeds_are_kept_as_they_are_done_and_epochs_added(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a run is broken off, the seeds before it stay, and it goes on there."""
    end, left = trainer._Run._end_epoch, [3]

    def stopped(self: Any) -> None:
        end(self)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Run, "_end_epoch", stopped)
        with pytest.raises(SystemExit, match="stopped .the same command again"):
            train_seeds(digits, "--epochs", "2", "--seeds", "0", "1")
    first = train_seeds(digits, "--epochs", "1", "--seeds", "0")
    assert list(first["seeds"]) == ["0"]
    both = train_seeds(digits, "--epochs", "2", "--seeds", "0", "1")
    assert both["seeds"]["0"] == first["seeds"]["0"], "it was trained again"
    assert [e["number"] for e in both["seeds"]["1"]["epochs"]] == [1, 2]
    assert (both["parameters"], both["batch"]) == (31_770, 128)
    assert both["arena_bytes"] > 4 * 3 * both["parameters"]
    more = train_seeds(digits, "--epochs", "3", "--seeds", "1")
    epochs = more["seeds"]["1"]["epochs"]
    assert epochs[:2] == both["seeds"]["1"]["epochs"], "it was not resumed"
    assert len(epochs) == 3
    with pytest.raises(SystemExit, match=r"images was 64 and is now 32\. Name another"):
        train_seeds(digits, "--limit", "32")


def test_a_network_is_trained_as_its_recipe_says(digits: Path) -> None:
    places = ["--out", str(digits), "--runs", str(digits / "runs"), "--threads", "1"]
    slices = ["--limit", "64", "--test-limit", "50"]
    seeds.main(["fast", "--epochs", "1", "--seeds", "0", *slices, *places])
    result = json.loads((digits / "numpy" / "fast.json").read_text("utf-8"))
    assert result["augment"] == "Shifts(pixels=1)"
    assert "CosineDecay" in result["optimizer"]
    seconds = result["seeds"]["0"]["seconds_in_all"]
    assert seconds > result["seeds"]["0"]["epochs"][0]["seconds"]


def made(name: str, **accuracies: list[float]) -> dict[str, Any]:
    """A result with the test accuracies of each seed."""
    kept = {
        seed: {"epochs": [{"test_accuracy": a, "seconds": 12.34} for a in shares]}
        for seed, shares in accuracies.items()
    }
    facts = {"parameters": 1234, "arena_bytes": 3 << 20, "kernels_per_step": 9}
    return {"network": name, **facts, "seeds": kept}


def test_the_table_sets_ours_beside_the_notes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = {
        "own": made("own", a=[0.5]),
        "ltfn5": made("ltfn5", a=[0.8, 0.9], b=[0.9, 0.92, 0.93]),
        "cs20": made("cs20", a=[0.97, 0.98, 0.981, 0.99]),
    }
    device = made("ltfn5", a=[0.7, 0.8]) | {"kernels_per_step": 8}
    for place, result in (
        *((f"numpy/{name}", result) for name, result in results.items()),
        ("triton/ltfn5", device),
    ):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / f"{place}.json").write_text(json.dumps(result), "utf-8")
    seeds.main(["--table", "--out", str(tmp_path)])
    *head, cs20, ltfn5, own = capsys.readouterr().out.splitlines()
    assert len(head) == 2
    assert "| 1: 91.31<br>2: 93.63<br>3: 94.78<br>5: 95.73<br>10: 97.10<br>" in cs20
    assert "2: 98.00<br>3: 98.10<br>4: 99.00 | – | 12.3 / – / 250 |" in cs20
    assert ltfn5.endswith("| 1,234 | 3.0 MiB | 9 / 8 |")
    assert (
        "| at the end: 81.88 | 1: 85.00 ± 5.00<br>2: 91.00 ± 1.00"
        "<br>3: 93.00 (1 of 2 seeds) | 1: 70.00<br>2: 80.00 | 12.3 / 12.3 / – " in ltfn5
    )
    assert own.startswith("| `own` | – | – | 1: 50.00 | – | 12.3 / – / – |")
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- seeds -->\nold\n<!-- /seeds -->\nb\n", "utf-8")
    seeds.main(["--table", "--out", str(tmp_path), "--into", str(page)])
    text = page.read_text("utf-8")
    assert text.startswith("a\n<!-- seeds -->\n\n| network |")
    assert text.endswith(f"{own}\n\n<!-- /seeds -->\nb\n")


def test_every_network_of_the_notes_is_built_in() -> None:
    assert set(seeds.NOTES) <= set(built_in())


def test_the_readme_has_the_table_of_the_results() -> None:
    page = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    opening, closing = seeds.MARKERS
    shown = page.partition(opening)[2].partition(closing)[0]
    assert shown == f"\n{seeds.table()}\n"
