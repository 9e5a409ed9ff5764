"""convc compile writes its folder whole, and removes nothing of a person's."""

from pathlib import Path

import pytest

from convc.cli.folder import write_folder
from convc.ir.errors import CompileError

FILES = {"training.py": "a = 1\n", "training.ir/00-trace.ir": "graph\n"}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_is_absent_or_empty_gets_the_files(
    tmp_path: Path, exists: bool
) -> None:
    folder = tmp_path / "out"
    if exists:
        folder.mkdir()
    write_folder(folder, FILES)
    assert set(tree(folder)) == {*FILES, "manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_was_written_before_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", FILES)
    (tmp_path / "out" / "__pycache__").mkdir()
    (tmp_path / "out" / "__pycache__" / "training.pyc").write_bytes(b"")
    write_folder(tmp_path / "out", {"inference.py": "b = 2\n"})
    assert set(tree(tmp_path / "out")) == {"inference.py", "manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["notes.txt", "training.py", "training.ir/mine.ir"])
def test_a_file_of_the_users_is_never_lost(tmp_path: Path, name: str) -> None:
    """Neither an added nor an edited one."""
    write_folder(tmp_path / "out", FILES)
    (tmp_path / "out" / name).write_text("by hand", encoding="utf-8")
    before = tree(tmp_path / "out")
    with pytest.raises(CompileError, match=rf"has not written \({name}\); move it"):
        write_folder(tmp_path / "out", FILES)
    assert tree(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "manifest", ["", "{}", "[1]", '{"format": "other", "files": {"mine.txt": ""}}']
)
def test_a_folder_of_somebody_elses_is_refused(tmp_path: Path, manifest: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("1", encoding="utf-8")
    (folder / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(CompileError, match=r"mine\.txt"):
        write_folder(folder, FILES)


def test_a_lone_manifest_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "web"}', encoding="utf-8")
    with pytest.raises(CompileError, match=r"manifest\.json"):
        write_folder(tmp_path, FILES)


@pytest.mark.parametrize("name", [".", ".."])
def test_the_current_folder_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompileError, match="is the current folder or around it"):
        write_folder(Path(name), FILES)


def test_a_disk_that_refuses_is_an_error_and_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "out", FILES)
    before = tree(tmp_path / "out")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CompileError, match="out: cannot be written: no space left"):
        write_folder(tmp_path / "out", {"inference.py": ""})
    assert tree(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_where_the_folder_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(CompileError, match="out"):
        write_folder(tmp_path / "out" / "deeper", FILES)
