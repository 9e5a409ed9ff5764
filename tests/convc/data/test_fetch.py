"""Downloads do not hang, and leave nothing that was not proved.

The order of the search is tested with MNIST, in ``test_mnist.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from mirrors import HOSTS, Served, serve

from convc.data import fetch
from convc.data.idx import DataError

__all__ = ["serve"]


def test_a_mirror_that_hangs_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The question has a deadline of its own, whatever the resolver does."""
    release = threading.Event()
    monkeypatch.setattr(fetch, "_ANSWER_SECONDS", 0)
    monkeypatch.setattr(fetch, "_has_file", lambda url: release.wait())
    failures: list[str] = []
    try:
        assert list(fetch.answering(HOSTS, "x.gz", failures)) == []
    finally:
        release.set()
    assert failures == [f"{host}: no answer within 0 s" for host in HOSTS]


def test_a_file_comes_whole_and_proved_or_not_at_all(
    tmp_path: Path, serve: Callable[[Served], list[str]]
) -> None:
    def prove(path: Path) -> None:
        if path.read_bytes() != b"good":
            raise DataError("it is bad")

    url, place = f"{HOSTS[0]}x", tmp_path / "folder" / "x"
    serve({url: b"bad"})
    with pytest.raises(DataError, match=r"one.invalid/x: what came is not .*it is bad"):
        fetch.fetch(url, place, 1 << 20, prove)
    assert list(place.parent.iterdir()) == []
    serve({url: b"good"})
    fetch.fetch(url, place, 1 << 20, prove)
    assert [p.name for p in place.parent.iterdir()] == ["x"]
