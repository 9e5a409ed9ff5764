"""Peaks are measured once and kept; a kernel's roof follows from its intensity."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from convc import roofline
from convc.model import Model
from convc.networks import two_conv
from convc.roofline import Peaks, machine_peaks, measure_peaks, peaks_for

PEAKS = Peaks(gemm=100e9, memory=10e9, cache=40e9)


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The thread counts that were measured, each a little faster than the last."""
    asked: list[int] = []

    def measure(threads: int) -> Peaks:
        asked.append(threads)
        return Peaks(1e9 + len(asked), 2e9, 3e9)

    monkeypatch.setattr(roofline, "measure_peaks", measure)
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "cache"))
    return asked


def test_below_the_ridge_memory_is_the_roof_and_above_it_arithmetic() -> None:
    assert PEAKS.seconds(flops=1e9, nbytes=1e9) == 0.1
    assert PEAKS.seconds(flops=10e9, nbytes=1e9) == 0.1
    assert PEAKS.seconds(flops=1e12, nbytes=1e9) == 10
    assert PEAKS.seconds(flops=0, nbytes=0) == 0


def test_a_copy_has_a_share_of_the_roof_though_it_computes_nothing() -> None:
    assert PEAKS.share(flops=0, nbytes=1e9, seconds=0.2) == 0.5
    assert PEAKS.share(flops=1e9, nbytes=8, seconds=0.01) == 1.0


def test_the_probes_find_rates_above_nothing() -> None:
    found = measure_peaks(2)
    assert all(rate > 1e6 for rate in asdict(found).values())


def test_peaks_are_measured_once_for_each_number_of_threads(probes: list[int]) -> None:
    first = machine_peaks(1)
    assert machine_peaks(2) != first
    assert machine_peaks(1) == first
    assert probes == [1, 2]


def test_a_programs_peaks_are_its_threads_and_a_gpus_are_not_measured(
    probes: list[int],
) -> None:
    step = Model(two_conv).inference()
    assert peaks_for(step.compile(batch=1, threads=2)) == machine_peaks(2)
    assert peaks_for(step.compile("triton", batch=1)) is None
    assert probes == [2]


def test_asked_again_they_are_measured_again_and_kept(probes: list[int]) -> None:
    first = machine_peaks(1)
    other = machine_peaks(2)
    second = machine_peaks(1, again=True)
    assert second != first
    assert (machine_peaks(1), machine_peaks(2)) == (second, other)
    assert probes == [1, 2, 1]


def test_peaks_of_another_numpy_do_not_count(
    probes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_peaks(1)
    monkeypatch.setattr("numpy.__version__", "9.9")
    machine_peaks(1)
    assert probes == [1, 1]


DAMAGE = {
    "nothing": "",
    "cut": '{"format": "convc peaks 1", "pea',
    "a list": "[]",
    "nested": "[" * 100_000,
    "other format": '{"format": "convc peaks 0", "peaks": {}}',
    "no table": '{"format": "convc peaks 1", "peaks": [1]}',
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("text", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_says_nothing_is_measured_over(
    text: str, probes: list[int], tmp_path: Path
) -> None:
    file = tmp_path / "cache" / "peaks.json"
    file.parent.mkdir()
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = machine_peaks(1)
    assert machine_peaks(1) == found
    assert probes == [1]


@pytest.mark.parametrize("rate", [0, -1.0, "nan", "fast", None])
def test_a_rate_that_cannot_be_is_measured_over(
    rate: object, probes: list[int], tmp_path: Path
) -> None:
    machine_peaks(1)
    file = tmp_path / "cache" / "peaks.json"
    body = json.loads(file.read_text())
    for entry in body["peaks"].values():
        entry["memory"] = rate
    file.write_text(json.dumps(body))
    machine_peaks(1)
    assert probes == [1, 1]


def test_a_cache_that_cannot_be_written_does_no_harm(
    probes: list[int], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert machine_peaks(1) != machine_peaks(1)
    assert probes == [1, 1]


def test_peaks_say_themselves_in_a_line() -> None:
    said = "100 GFLOP/s, 10 GB/s from memory, 40 GB/s from private caches"
    assert str(PEAKS) == said
