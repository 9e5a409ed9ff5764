"""Files are whole or not there, and nothing is left beside them."""

import os
from pathlib import Path

import pytest

from convc.files import part_of, write_atomically


def test_a_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    for data in (b"old", b"new\n"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_refuses_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError("no space left")

    path = tmp_path / "kept.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_lies_beside_its_file_and_is_gone_unless_renamed(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    with part_of(path) as part:
        part.touch()
        assert part.parent == tmp_path
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []
