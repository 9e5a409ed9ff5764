"""CIFAR-10 is read from its files or their archive, and refused when it is not that."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mirrors import HOSTS, Served, serve

from convc.cli import main
from convc.data import cifar10
from convc.data.choice import load_for
from convc.data.cifar10 import load_cifar10, read_folder
from convc.data.idx import DataError

__all__ = ["serve"]
EACH = 2
PIXELS = np.random.default_rng(0).integers(0, 256, (6, EACH, 32, 32, 3), np.uint8)
LABELS = np.arange(6 * EACH).reshape(6, EACH) % 10


def record(pixels: np.ndarray, label: int) -> bytes:
    """The format word for word: the label, then plane after plane, row after row."""
    data = [label]
    for channel in range(3):
        for row in range(32):
            data += [int(pixels[row, column, channel]) for column in range(32)]
    return bytes(data)


@pytest.fixture(scope="module")
def made() -> Served:
    """Six files of two images each."""
    return {
        file: b"".join(record(*pair) for pair in zip(pixels, labels, strict=True))
        for file, pixels, labels in zip(cifar10.SHA256, PIXELS, LABELS, strict=True)
    }


@pytest.fixture
def files(made: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Served:
    """The same, passing for CIFAR-10, with an empty cache and no mirrors."""
    for file, data in made.items():
        monkeypatch.setitem(cifar10.SHA256, file, hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(cifar10, "RECORDS", EACH)
    monkeypatch.setattr(cifar10, "MIRRORS", HOSTS)
    for variable in ("CONVC_CIFAR10", "CONVC_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "cache"))
    return dict(made)


def put(folder: Path, files: Served) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def archive(files: Served, folder: str = cifar10.FOLDER) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in {"readme.html": b"<html>", **files}.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


@pytest.mark.parametrize("form", ["files", "folder", "archive"])
def test_images_come_back_pixel_by_pixel(
    form: str, files: Served, tmp_path: Path
) -> None:
    where = tmp_path / "given"
    if form == "archive":
        put(where, {cifar10.ARCHIVE: archive(files)})
    else:
        put(where / cifar10.FOLDER if form == "folder" else where, files)
    before = set(where.rglob("*"))
    splits = load_cifar10(where)
    train = (PIXELS[:5].reshape(-1, 32, 32, 3) / np.float32(255)).astype(np.float32)
    assert np.array_equal(splits.train.images, train)
    assert np.array_equal(splits.test.images[1], PIXELS[5, 1] / np.float32(255))
    assert splits.train.labels.tolist() == LABELS[:5].ravel().tolist()
    assert splits.test.labels.tolist() == LABELS[5].tolist()
    assert (splits.train.name, splits.test.name) == ("CIFAR-10 train", "CIFAR-10 test")
    assert splits.train.source == str(where)
    assert before == set(where.rglob("*")), "something was unpacked"


@pytest.mark.parametrize(
    ("name", "damage", "rule"),
    [
        ("data_batch_3.bin", lambda d: d[:-1], "6146 bytes, and the file has 6145"),
        ("data_batch_3.bin", lambda d: d + d, "2 records of 3073 bytes are 6146 bytes"),
        ("test_batch.bin", lambda d: d[:-1] + b"?", "must have sha256 .*, and has"),
        ("data_batch_5.bin", None, r"six files .*, and data_batch_5\.bin is not there"),
    ],
)
def test_a_damaged_folder_is_refused_with_both_sides(
    name: str,
    damage: Callable[[bytes], bytes] | None,
    rule: str,
    files: Served,
    tmp_path: Path,
) -> None:
    if damage:
        files[name] = damage(files[name])
    else:
        del files[name]
    with pytest.raises(DataError, match=rule):
        load_cifar10(put(tmp_path / "given", files))


def test_other_data_of_the_same_form_is_checked_for_its_form(
    made: Served, tmp_path: Path
) -> None:
    """As many records as there are, as long as they are whole and have ten classes."""
    other = {**made, cifar10.TEST: made[cifar10.TEST] + record(PIXELS[0, 0], 9)}
    splits = read_folder(put(tmp_path / "a", other), name="Other", sha256=None)
    assert (splits.test.name, len(splits.test)) == ("Other test", 3)
    other[cifar10.TEST] = record(PIXELS[0, 0], 10)
    with pytest.raises(DataError, match=r"0 \.\. 9, and the highest is 10"):
        read_folder(put(tmp_path / "b", other), sha256=None)
    other[cifar10.TEST] = bytes(3074)
    with pytest.raises(DataError, match=r"is 3073 bytes, and the file has 3074, which"):
        read_folder(put(tmp_path / "c", other), sha256=None)


@pytest.mark.parametrize(
    ("packed", "rule"),
    [
        (lambda f: archive(f)[:-900], "cannot be read"),
        (lambda _: b"<html>please log in</html>", "read: Not a gzipped file"),
        (lambda f: archive({"x": bytes(2 << 20), **f}), "more than 1085452 bytes"),
        (lambda f: archive(f, f"../{cifar10.FOLDER}"), "holds no data_batch_1.bin,"),
        (lambda f: archive({**f, cifar10.TEST: b"12"}), "6146 .*, and the file has 2"),
    ],
)
def test_an_archive_is_read_with_suspicion(
    packed: Callable[[Served], bytes], rule: str, files: Served, tmp_path: Path
) -> None:
    folder = put(tmp_path / "given", {cifar10.ARCHIVE: packed(files)})
    with pytest.raises(DataError, match=rule):
        load_cifar10(folder)


def test_a_link_in_an_archive_is_not_followed(files: Served, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in files:
            entry = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(entry)
    folder = put(tmp_path / "given", {cifar10.ARCHIVE: packed.getvalue()})
    with pytest.raises(DataError, match="must hold 6 files"):
        load_cifar10(folder)


def test_the_archive_is_downloaded_once_and_only_if_it_is_the_one(
    files: Served, serve: Callable[[Served], list[str]], tmp_path: Path
) -> None:
    """The first mirror has another; what was fetched stays an archive."""
    urls = [f"{host}{cifar10.ARCHIVE}" for host in HOSTS]
    other = {**files, cifar10.TEST: bytes(2 * 3073)}
    fetched = serve({urls[0]: archive(other)})
    with pytest.raises(DataError, match=r"failed \(.*one.invalid.*must have sha256"):
        load_cifar10(notify=lambda _: None)
    fetched = serve({urls[0]: archive(other), urls[1]: archive(files)})
    said: list[str] = []
    cache = tmp_path / "cache" / "cifar10"
    assert load_cifar10(notify=said.append).train.source == str(cache)
    assert said == [f"downloading CIFAR-10 into {cache}"]
    assert [path.name for path in cache.iterdir()] == [cifar10.ARCHIVE]
    count = len(fetched)
    load_cifar10(notify=said.append)
    assert len(fetched) == count


def test_nothing_stands_in_and_the_error_says_where_to_put_the_files(
    files: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONVC_OFFLINE", "1")
    with pytest.raises(DataError, match=r"forbids the download\. Name a folder that"):
        load_for([32, 32, 3])
    with pytest.raises(
        DataError, match=r"holds neither data_batch_1\.bin nor cifar-10"
    ):
        load_for([32, 32, 3], put(tmp_path / "empty", {}))
    monkeypatch.setenv("CONVC_CIFAR10", str(put(tmp_path / "given", files)))
    assert load_for([3072]).train.images.shape == (10, 3072)


def test_the_cifar_network_trains_on_files_that_are_named(
    files: Served, tmp_path: Path
) -> None:
    folder = str(put(tmp_path / "given", files))
    sizes = ("--batch", "4", "--epochs", "1", "--threads", "1")
    command = ["train", "csci1470_cifar", "--data", folder, *sizes]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.stderr
    assert "of 2 images of CIFAR-10 test)" in result.stdout
