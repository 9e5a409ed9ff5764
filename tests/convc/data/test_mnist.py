"""MNIST is searched in the stated order; what was asked for never falls back."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pooch
import pytest
from mirrors import HOSTS, Served, serve

from convc.data import mnist
from convc.data.idx import DataError
from convc.data.mnist import load_mnist, read_folder

__all__ = ["serve"]


def idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Served:
    """Four small files that pass for MNIST: their hashes are the ones looked for."""
    small = {
        mnist.TRAIN_IMAGES: idx(np.arange(6 * 784).reshape(6, 28, 28) % 251),
        mnist.TRAIN_LABELS: idx(np.arange(6)),
        mnist.TEST_IMAGES: idx(np.arange(3 * 784).reshape(3, 28, 28) % 13),
        mnist.TEST_LABELS: idx(np.array([9, 0, 4])),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in small.items()}
    for name, digest in hashes.items():
        monkeypatch.setitem(mnist.SHA256, name, digest)
    return small


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no folder asked for, and mirrors that do not exist."""
    monkeypatch.delenv("CONVC_DATA", raising=False)
    monkeypatch.delenv("CONVC_OFFLINE", raising=False)
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "MIRRORS", HOSTS)
    return tmp_path / "cache" / "mnist"


def put(folder: Path, files: Served, zipped: bool = False) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder


def on(host: str, files: Served) -> Served:
    return {f"{host}{name}.gz": gzip.compress(data) for name, data in files.items()}


@pytest.mark.parametrize("zipped", [False, True])
def test_a_named_folder_is_read_plain_or_gzipped(
    tmp_path: Path, files: Served, zipped: bool
) -> None:
    said: list[str] = []
    folder = put(tmp_path / "given", files, zipped)
    splits = load_mnist(folder, notify=said.append)
    assert splits.train.images.shape == (6, 28, 28, 1)
    assert splits.train.images[0, 0, :3, 0].tolist() == [0, *np.float32([1, 2]) / 255]
    assert splits.test.labels.tolist() == [9, 0, 4]
    assert splits.train.source == str(folder)
    assert (splits.train.name, splits.test.name) == ("MNIST train", "MNIST test")
    assert splits.notice == ""
    assert said == []


def test_a_named_folder_wins_over_the_environment(
    tmp_path: Path, files: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVC_DATA", str(put(tmp_path / "b", files)))
    assert load_mnist().train.source == str(tmp_path / "b")
    assert load_mnist(put(tmp_path / "a", files)).train.source == str(tmp_path / "a")


def test_the_environment_wins_over_the_cache(
    tmp_path: Path, files: Served, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, files)
    assert load_mnist().train.source == str(cache)
    monkeypatch.setenv("CONVC_DATA", str(put(tmp_path / "b", files)))
    assert load_mnist().train.source == str(tmp_path / "b")


def test_the_cache_follows_the_system_where_no_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONVC_CACHE_DIR")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    assert mnist.cache_folder() == tmp_path / "convc" / "mnist"


@pytest.mark.parametrize("asked", ["argument", "environment"])
@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("lacks", "holds neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte.gz"),
        ("cut", r"shape \[3\] needs 11 bytes, and the file holds at most 10"),
        ("flipped", "must have sha256 [0-9a-f]{64}, and has [0-9a-f]{64}"),
        ("no folder", "this is not a folder"),
    ],
)
def test_a_folder_that_was_asked_for_never_falls_back(
    tmp_path: Path,
    files: Served,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    damage: str,
    rule: str,
) -> None:
    """Not even to a cache that has everything."""
    put(cache, files)
    folder = put(tmp_path / "given", files)
    victim = folder / mnist.TEST_LABELS
    if damage == "lacks":
        victim.unlink()
    elif damage == "cut":
        victim.write_bytes(files[mnist.TEST_LABELS][:-1])
    elif damage == "flipped":
        victim.write_bytes(files[mnist.TEST_LABELS][:-1] + b"\x05")
    else:
        folder = folder / mnist.TRAIN_LABELS
    if asked == "environment":
        monkeypatch.setenv("CONVC_DATA", str(folder))
    with pytest.raises(DataError, match=rule):
        load_mnist(folder if asked == "argument" else None)


@pytest.mark.parametrize(
    ("name", "array", "rule"),
    [
        (mnist.TRAIN_IMAGES, np.zeros((6, 28, 27)), "are 28x28, and these are 28x27"),
        (mnist.TRAIN_IMAGES, np.zeros(6), "uint8 of rank 3, and holds uint8 of rank 1"),
        (mnist.TRAIN_LABELS, np.zeros(5), "6 images, and .* holds 5 labels"),
        (mnist.TRAIN_LABELS, np.full(6, 10), r"0 \.\. 9, and the highest is 10"),
    ],
)
def test_other_data_of_the_same_form_is_checked_for_its_form(
    tmp_path: Path, files: Served, name: str, array: np.ndarray, rule: str
) -> None:
    folder = put(tmp_path / "other", {**files, name: idx(array)})
    with pytest.raises(DataError, match=rule):
        read_folder(folder, name="Other", sha256=None)


def test_other_data_of_the_same_form_is_read_under_its_name(
    tmp_path: Path, files: Served
) -> None:
    other = {**files, mnist.TEST_LABELS: idx(np.array([1, 1, 1]))}
    splits = read_folder(put(tmp_path / "other", other), name="Other", sha256=None)
    assert splits.test.name == "Other test"
    assert splits.test.labels.tolist() == [1, 1, 1]


def test_an_empty_cache_is_filled_and_used_again(
    files: Served, cache: Path, serve: Callable[[Served], list[str]]
) -> None:
    said: list[str] = []
    fetched = serve(on(HOSTS[1], files))
    first = load_mnist(notify=said.append)
    assert first.train.source == str(cache)
    assert said == [f"downloading MNIST into {cache}"]
    assert fetched == [f"{HOSTS[1]}{name}.gz" for name in files]
    assert {path.name for path in cache.iterdir()} == {f"{name}.gz" for name in files}
    load_mnist(notify=said.append)
    assert len(fetched) == 4
    assert len(said) == 1


def test_only_what_the_cache_lacks_or_holds_damaged_is_fetched(
    files: Served, cache: Path, serve: Callable[[Served], list[str]]
) -> None:
    put(cache, files)
    (cache / mnist.TEST_LABELS).write_bytes(b"damaged")
    (cache / mnist.TRAIN_IMAGES).unlink()
    fetched = serve(on(HOSTS[0], files))
    assert load_mnist(notify=lambda _: None).test.labels.tolist() == [9, 0, 4]
    wanted = [mnist.TRAIN_IMAGES, mnist.TEST_LABELS]
    assert fetched == [f"{HOSTS[0]}{name}.gz" for name in wanted]


@pytest.mark.parametrize("fault", ["wrong", "html", "endless"])
def test_a_bad_download_leaves_nothing_and_the_next_mirror_serves(
    files: Served,
    cache: Path,
    serve: Callable[[Served], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    """The first mirror has the files under their names, but not their content."""
    monkeypatch.setattr(mnist, "_MAX_DOWNLOAD", 1 << 17)
    bad = {
        "wrong": gzip.compress(idx(np.zeros((6, 28, 28)))),
        "html": b"<html>please log in</html>",
        "endless": bytes(1 << 18),
    }[fault]
    monkeypatch.setattr(mnist, "MIRRORS", HOSTS[:1])
    serve(dict.fromkeys(on(HOSTS[0], files), bad))
    failures: list[str] = []
    with pytest.raises(DataError, match=r"one\.invalid") as caught:
        mnist._fill(cache, failures.append)
    rule = {"wrong": "must have sha256", "html": "begins with", "endless": "more than"}
    assert rule[fault] in str(caught.value)
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(mnist, "MIRRORS", HOSTS)
    serve(dict.fromkeys(on(HOSTS[0], files), bad) | on(HOSTS[1], files))
    assert load_mnist(notify=failures.append).notice == ""


def test_without_a_network_the_digits_stand_in_and_say_so(
    cache: Path, serve: Callable[[Served], list[str]]
) -> None:
    pytest.importorskip("sklearn.datasets")
    serve({})
    said: list[str] = []
    splits = load_mnist(notify=said.append)
    assert len(splits.train) == 1500
    assert splits.notice.startswith("this is not MNIST")
    assert said[-1].startswith("this is not MNIST")
    for host in HOSTS:
        assert f"{host}: ConnectionError" in said[-1]
    assert not cache.exists()


def test_offline_asks_no_mirror(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[[Served], list[str]], files: Served
) -> None:
    pytest.importorskip("sklearn.datasets")
    monkeypatch.setenv("CONVC_OFFLINE", "1")
    fetched = serve(on(HOSTS[0], files))
    said: list[str] = []
    load_mnist(notify=said.append)
    assert fetched == []
    assert len(said) == 1
    assert "CONVC_OFFLINE forbids the download" in said[0]


def test_a_damaged_cache_is_named_when_the_digits_stand_in(
    monkeypatch: pytest.MonkeyPatch, cache: Path, files: Served
) -> None:
    pytest.importorskip("sklearn.datasets")
    monkeypatch.setenv("CONVC_OFFLINE", "1")
    put(cache, files)
    (cache / mnist.TEST_LABELS).write_bytes(b"damaged")
    said: list[str] = []
    load_mnist(notify=said.append)
    assert f"the cache does not serve ({cache / mnist.TEST_LABELS}: " in said[0]


def test_where_nothing_serves_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise DataError("scikit-learn is not installed")

    monkeypatch.setenv("CONVC_OFFLINE", "1")
    monkeypatch.setattr(mnist, "load_digits", missing)
    with pytest.raises(DataError, match=r"cannot be had: .*--data or CONVC_DATA"):
        load_mnist()


def test_notices_go_to_stderr_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn.datasets")
    monkeypatch.setenv("CONVC_OFFLINE", "1")
    load_mnist()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("convc: this is not MNIST")


REAL = os.environ.get("CONVC_DATA")


@pytest.mark.skipif(not REAL, reason="CONVC_DATA does not name a folder with MNIST")
def test_the_real_mnist_has_its_known_sizes() -> None:
    splits = load_mnist(REAL)
    assert splits.train.images.shape == (60_000, 28, 28, 1)
    assert splits.test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(splits.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    # The published mean and deviation of the training pixels, to their four digits.
    pixels = splits.train.images.astype(np.float64)
    assert (round(pixels.mean(), 4), round(pixels.std(), 4)) == (0.1307, 0.3081)
