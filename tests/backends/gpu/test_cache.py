"""An entry is private, whole, what it says it is, and made anew where it is not."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from convc.backends.gpu import cache
from convc.data.cache import user_cache
from convc.ir.errors import CompileError

MADE_FROM = {"source": "s", "target": "t"}


def maker(calls: list[Path]) -> Callable[[Path], None]:
    """Writes two files and notes that it was called."""

    def make(part: Path) -> None:
        calls.append(part)
        (part / "a").write_bytes(b"machine code")
        (part / "b").write_bytes(b"metadata")

    return make


def entry(folder: Path, calls: list[Path]) -> Path:
    return cache.entry(folder, MADE_FROM, maker(calls))


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []
    first = entry(tmp_path / "cache", calls)
    assert entry(tmp_path / "cache", calls) == first
    assert len(calls) == 1
    assert (first / "a").read_bytes() == b"machine code"
    assert cache.is_sound(first)


def test_what_is_made_from_something_else_is_another_entry(tmp_path: Path) -> None:
    calls: list[Path] = []
    first = entry(tmp_path / "cache", calls)
    changed = {**MADE_FROM, "target": "u"}
    other = cache.entry(tmp_path / "cache", changed, maker(calls))
    assert other != first
    assert len(calls) == 2


def flip(path: Path) -> None:
    data = bytearray((path / "a").read_bytes())
    data[3] ^= 1
    (path / "a").write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit flipped": flip,
    "a file cut short": lambda path: (path / "a").write_bytes(b"machine"),
    "a file gone": lambda path: (path / "b").unlink(),
    "a file too many": lambda path: (path / "c").write_bytes(b""),
    "no manifest": lambda path: (path / cache.MANIFEST).unlink(),
    "half a manifest": lambda path: (path / cache.MANIFEST).write_text('{"format":'),
    "a deep manifest": lambda path: (path / cache.MANIFEST).write_text("[" * 10**5),
    "another's manifest": lambda path: (path / cache.MANIFEST).write_text(
        (path / cache.MANIFEST).read_text().replace('"t"', '"u"')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_anew(damage: str, tmp_path: Path) -> None:
    calls: list[Path] = []
    folder = tmp_path / "cache"
    path = entry(folder, calls)
    DAMAGES[damage](path)
    assert damage == "another's manifest" or not cache.is_sound(path)
    assert entry(folder, calls) == path
    assert len(calls) == 2
    assert {file.name for file in path.iterdir()} == {"a", "b", cache.MANIFEST}
    assert cache.is_sound(path, MADE_FROM)


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        (part / "a").write_bytes(b"half of")
        raise CompileError("no")

    folder = tmp_path / "cache"
    with pytest.raises(CompileError):
        cache.entry(folder, MADE_FROM, fail)
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    """A process that is killed while it makes an entry leaves its part behind."""
    calls: list[Path] = []
    folder = tmp_path / "cache"
    path = entry(folder, calls)
    part = calls[0]
    part.mkdir()
    (part / "c").write_bytes(b"half of")
    (path / "a").unlink()
    assert cache.is_sound(entry(folder, calls))
    assert not part.exists()


def test_the_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    path = entry(tmp_path / "new" / "cache", [])
    for folder in (path, path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(CompileError, match=r"written by others \(mode 777\); chmod"):
        entry(tmp_path, [])


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = tmp_path.stat().st_uid
    monkeypatch.setattr(cache.os, "geteuid", lambda: me + 1)
    with pytest.raises(CompileError, match=f"belongs to user {me}, not to you"):
        entry(tmp_path, [])


def test_the_folder_lies_where_all_of_convc_keeps_such_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for set_to in ({"CONVC_CACHE_DIR": "a"}, {"XDG_CACHE_HOME": "b"}, {}):
        for name in ("CONVC_CACHE_DIR", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in set_to.items():
            monkeypatch.setenv(name, str(tmp_path / value))
        assert cache.cache_folder() == user_cache() / "triton"
