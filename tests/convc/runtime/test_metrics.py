"""Curves: every point is on disk at once, and a resumed run does not fork them."""

from __future__ import annotations

import json
import math
import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from convc.runtime import metrics
from convc.runtime.metrics import MetricsError, MetricsLog, Point, read_metrics


class FakeWriter:
    """A SummaryWriter that keeps what it is told."""

    made: list[FakeWriter]

    def __init__(self, logdir: str, purge_step: int | None = None) -> None:
        self.logdir, self.purge_step = logdir, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.closed = False
        FakeWriter.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int, walltime: float) -> None:
        assert walltime > 0
        self.scalars.append((tag, value, step))

    def close(self) -> None:
        self.closed = True


def install(monkeypatch: pytest.MonkeyPatch, *names: str, loaded: str = "") -> None:
    """Pretend that just these of torch, tensorboardX and tensorboard are installed."""
    FakeWriter.made = []
    monkeypatch.setattr(metrics, "_installed", lambda name: name in names)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("tensorboardX", "torch.utils.tensorboard"):
        module: Any = types.ModuleType(name)
        module.SummaryWriter = FakeWriter
        monkeypatch.setitem(sys.modules, name, module)
    if loaded:
        for name in ("torch", "torch.utils"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))


def triples(source: Path) -> list[tuple[str, int, float]]:
    return [(point.tag, point.step, point.value) for point in read_metrics(source)]


def test_each_point_is_on_disk_before_the_next(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "run", tensorboard=False) as log:
        log.log("loss/train", 2.5, 0)
        assert triples(log.path) == [("loss/train", 0, 2.5)]
        log.log("accuracy/test", 0.125, 1)
        assert triples(tmp_path / "run") == [
            ("loss/train", 0, 2.5),
            ("accuracy/test", 1, 0.125),
        ]
    line = json.loads(log.path.read_text().splitlines()[0])
    assert set(line) == {"tag", "step", "value", "time"}


def test_a_reopened_log_goes_on(tmp_path: Path) -> None:
    for step in range(3):
        with MetricsLog(tmp_path, tensorboard=False) as log:
            log.log("loss/train", step / 2, step)
    assert [point.step for point in read_metrics(tmp_path)] == [0, 1, 2]


def test_values_come_back_exactly_and_every_line_is_json(tmp_path: Path) -> None:
    """Also those that JSON has no number for."""
    values = [0.1, 1 / 3, 5e-324, math.inf, -math.inf, math.nan]
    with MetricsLog(tmp_path, tensorboard=False) as log:
        for step, value in enumerate(values):
            log.log("x", value, step)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    for line in log.path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    found = [point.value for point in read_metrics(log.path)]
    assert found[:5] == values[:5]
    assert math.isnan(found[5])


def test_truncation_drops_later_points_and_logging_goes_on(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log:
        for step in range(5):
            log.log("a", step, step)
            log.log("b", -step, step)
        log.truncate_after(2)
        log.log("a", 30.0, 3)
    expected = [(tag, s, s if tag == "a" else -s) for s in range(3) for tag in "ab"]
    assert triples(tmp_path) == [*expected, ("a", 3, 30.0)]
    assert list(tmp_path.iterdir()) == [log.path]


def test_a_torn_last_line_is_left_out_and_not_continued(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.log("a", 1.0, 0)
    with log.path.open("a") as file:
        file.write('{"tag": "a", "step": 1, "val')
    assert triples(tmp_path) == [("a", 0, 1.0)]
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.log("a", 3.0, 2)
    assert triples(tmp_path) == [("a", 0, 1.0), ("a", 2, 3.0)]


@pytest.mark.parametrize(
    "line", ["", "nonsense", "[1]", '{"tag": "a"}', '{"tag": "a", "step": "x"}']
)
def test_a_damaged_line_within_is_refused_with_its_number(
    tmp_path: Path, line: str
) -> None:
    good = '{"tag": "a", "step": 1, "value": 1.0, "time": 0.0}'
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(MetricsError, match=r"metrics\.jsonl:2: a line must be a point"):
        read_metrics(path)
    with MetricsLog(tmp_path, tensorboard=False) as log:
        with pytest.raises(MetricsError, match="a line must be a point"):
            log.truncate_after(0)
        log.log("a", 2.0, 2)
    assert path.read_text().startswith(f"{good}\n{line}\n{good}\n")


def test_a_file_that_is_not_there_or_not_writable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match="nothing: cannot be read"):
        read_metrics(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(MetricsError, match="cannot be written"):
        MetricsLog(tmp_path / "file", tensorboard=False)


def test_a_closed_log_refuses(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    log.close()
    log.close()
    with pytest.raises(MetricsError, match="a cannot be logged, it is closed"):
        log.log("a", 1.0, 0)
    with pytest.raises(MetricsError, match="cannot be truncated, it is closed"):
        log.truncate_after(0)


@pytest.mark.parametrize(
    ("installed", "loaded", "asked", "module"),
    [
        ((), "", None, None),
        (("tensorboardX",), "", None, "tensorboardX"),
        (("tensorboardX",), "", False, None),
        (("tensorboardX", "torch", "tensorboard"), "", None, None),
        (("tensorboardX", "torch"), "torch", None, "tensorboardX"),
        (("tensorboardX", "torch"), "", True, "tensorboardX"),
        (("torch", "tensorboard"), "", None, None),
        (("torch", "tensorboard"), "torch", None, "torch.utils.tensorboard"),
        (("torch", "tensorboard"), "", True, "torch.utils.tensorboard"),
        (("torch",), "torch", None, None),
    ],
)
def test_torch_is_never_imported_for_curves_that_nobody_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    installed: tuple[str, ...],
    loaded: str,
    asked: bool | None,
    module: str | None,
) -> None:
    """TensorboardX imports torch where there is one, so it counts as torch does."""
    install(monkeypatch, *installed, loaded=loaded)
    assert metrics._writer_module(asked) == module


def test_asking_in_vain_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "torch")
    with pytest.raises(MetricsError, match=r'pip install "convc\[tensorboard\]"'):
        MetricsLog(tmp_path, tensorboard=True)


def test_tensorboard_gets_every_point_and_the_step_to_purge_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "tensorboardX")
    with MetricsLog(tmp_path) as log:
        log.log("loss/train", 2.5, 0)
        log.log("loss/train", 1.5, 1)
        log.truncate_after(0)
        log.log("loss/train", 1.25, 1)
    before, after = FakeWriter.made
    assert before.scalars == [("loss/train", 2.5, 0), ("loss/train", 1.5, 1)]
    assert after.scalars == [("loss/train", 1.25, 1)]
    assert (before.purge_step, after.purge_step) == (None, 1)
    assert before.closed
    assert after.closed
    assert before.logdir == str(tmp_path)


def test_a_bare_folder_is_not_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "barefolder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not metrics._installed("barefolder")
    assert not metrics._installed("nosuchpackage")
    assert metrics._installed("json")


def test_the_real_writer_leaves_an_event_per_point(tmp_path: Path) -> None:
    """Read back from the event file's records: u64 length, u32 crc, data, u32 crc."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2

    with MetricsLog(tmp_path, tensorboard=True) as log:
        log.log("loss/train", 2.5, 7)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + length :]
    assert found == [("loss/train", 7, 2.5)]


def test_a_point_is_what_the_line_says(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text('{"tag": "a", "step": 1, "value": "inf", "time": 2.5}\n')
    assert read_metrics(path) == [Point("a", 1, math.inf, 2.5)]
