"""Checkpoints come back whole or not at all, whatever happens to the process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from convc.runtime import checkpoint
from convc.runtime.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    weights_digest,
    weights_network,
)

ROOT = Path(__file__).parents[3]


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "conv1/kernel": generator.standard_normal((5, 5, 1, 4)).astype(np.float32),
        "conv1/biases": np.zeros(4, np.float32),
        "adam/step": np.array(7, np.int64),
        "half": np.ones((2, 3), np.float16),
        "empty": np.zeros((0, 3), np.float32),
    }


def assert_same(found: dict[str, np.ndarray], saved: dict[str, np.ndarray]) -> None:
    assert set(found) == set(saved)
    for name, array in saved.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("*.json"))


def damage(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def tensor_file(manifest: Path) -> Path:
    (found,) = manifest.parent.glob(f"{manifest.stem}-*.safetensors")
    return found


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    meta = {"seed": 2**63, "epoch": 3, "batch": 17, "score": 0.99, "note": "größe"}
    path = save_checkpoint(tmp_path / "run" / "a", 1200, tensors(), meta)
    for source in (path, path.parent):
        found = load_checkpoint(source)
        assert_same(found.tensors, tensors())
        assert (found.step, found.meta, found.path) == (1200, meta, path)
        assert found.skipped == ()


def test_views_are_stored_as_they_look(tmp_path: Path) -> None:
    """Transposed, strided and big-endian arrays, which lie otherwise in memory."""
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {"transposed": base.T, "strided": base[::2, 1::3], "scalar": base[1, 2]}
    path = save_checkpoint(tmp_path, 0, {**views, "big": base.astype(">f4")}, {})
    found = load_checkpoint(path).tensors
    for name, view in {**views, "big": base}.items():
        np.testing.assert_array_equal(found[name], view)
        assert found[name].shape == view.shape


def test_the_manifest_says_what_the_tensors_are(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, tensors(), {"epoch": 1})
    body = json.loads(path.read_text())["checkpoint"]
    data = tensor_file(path).read_bytes()
    assert body["sha256"] == hashlib.sha256(data).hexdigest()
    assert body["tensors"]["conv1/kernel"] == {
        "dtype": "float32",
        "shape": [5, 5, 1, 4],
    }
    assert (body["step"], body["meta"]) == (5, {"epoch": 1})


def test_the_newest_are_kept_and_the_best(tmp_path: Path) -> None:
    for step, score in enumerate([0.1, 0.9, 0.3, 0.4, 0.5, 0.9, 0.2, 0.1, 0.0]):
        save_checkpoint(tmp_path, step, tensors(step), {"score": score}, keep_last=2)
    assert steps(tmp_path) == [5, 7, 8]
    assert len(list(tmp_path.iterdir())) == 6
    assert load_checkpoint(tmp_path).step == 8
    assert load_checkpoint(tmp_path, which="best").step == 5


def test_keep_last_zero_keeps_all(tmp_path: Path) -> None:
    for step in range(5):
        save_checkpoint(tmp_path, step, tensors(), {}, keep_last=0)
    assert steps(tmp_path) == [0, 1, 2, 3, 4]


def test_what_was_just_saved_is_kept_beside_later_steps(tmp_path: Path) -> None:
    for step in (10, 20, 1):
        save_checkpoint(tmp_path, step, tensors(step), {}, keep_last=1)
    assert steps(tmp_path) == [1, 20]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, tensors(), {})
    assert load_checkpoint(tmp_path).step == 100_000_000


@pytest.mark.parametrize("victim", ["tensors", "manifest", "lost", "cut", "torn"])
def test_a_damaged_newest_is_passed_over_and_named(tmp_path: Path, victim: str) -> None:
    save_checkpoint(tmp_path, 1, tensors(1), {})
    newest = save_checkpoint(tmp_path, 2, tensors(2), {"epoch": 4})
    file = tensor_file(newest)
    if victim == "tensors":
        damage(file)
    elif victim == "lost":
        file.unlink()
    elif victim == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif victim == "torn":
        newest.write_bytes(newest.read_bytes()[:-30])
    else:
        damage(newest, newest.read_bytes().index(b'"epoch": 4') + 9)
    found = load_checkpoint(tmp_path)
    assert found.step == 1
    assert_same(found.tensors, tensors(1))
    (reason,) = found.skipped
    rule = {
        "tensors": "sha256 .* it is damaged",
        "manifest": "its seal is broken",
        "lost": "its tensors cannot be read",
        "cut": r"must have \d+ bytes .* and has \d+ bytes",
        "torn": "is not a checkpoint's manifest",
    }[victim]
    with pytest.raises(CheckpointError, match=rule) as caught:
        load_checkpoint(newest)
    assert str(caught.value) == reason
    assert "step-00000002" in reason


def test_a_damaged_best_is_passed_over_for_the_second(tmp_path: Path) -> None:
    for step, score in enumerate([0.5, 0.9, 0.7]):
        save_checkpoint(tmp_path, step, tensors(), {"score": score})
    damage(tensor_file(tmp_path / "step-00000001.json"))
    found = load_checkpoint(tmp_path, which="best")
    assert (found.step, len(found.skipped)) == (2, 1)


def test_a_folder_without_a_good_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint$"):
        load_checkpoint(tmp_path)
    damage(tensor_file(save_checkpoint(tmp_path, 3, tensors(), {})))
    with pytest.raises(CheckpointError, match=r"that can be loaded \(.*step-00000003-"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="nowhere: cannot be read"):
        load_checkpoint(tmp_path / "nowhere")


def test_saving_a_step_again_replaces_it_in_one_stroke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off just before the new manifest, the old checkpoint is still whole."""
    save_checkpoint(tmp_path, 1, tensors(1), {})
    write = checkpoint.write_atomically

    def full_disk(path: Path, data: bytes) -> None:
        if path.suffix == ".json":
            raise OSError("no space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_atomically", full_disk)
    with pytest.raises(CheckpointError, match="cannot be saved: no space left"):
        save_checkpoint(tmp_path, 1, tensors(2), {})
    assert_same(load_checkpoint(tmp_path).tensors, tensors(1))
    monkeypatch.undo()
    save_checkpoint(tmp_path, 1, tensors(2), {})
    assert_same(load_checkpoint(tmp_path).tensors, tensors(2))
    assert len(list(tmp_path.iterdir())) == 2


def test_leavings_of_dead_writers_go_and_other_files_stay(tmp_path: Path) -> None:
    """Old unfinished files and tensors no manifest names; nothing else is touched."""
    old, new = tmp_path / ".step-1.json.aa.part", tmp_path / ".step-2.json.bb.part"
    orphan = tmp_path / "step-00000009-00000000.safetensors"
    notes = tmp_path / "notes.txt"
    for path in (old, new, orphan, notes):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    save_checkpoint(tmp_path, 3, tensors(), {})
    assert [path.exists() for path in (old, new, orphan, notes)] == [
        *(False, True, False, True)
    ]


def test_an_unreadable_manifest_is_left_with_its_tensors(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path, 1, tensors(1), {}, keep_last=1)
    file = tensor_file(first)
    damage(first, 20)
    for step in (2, 3):
        save_checkpoint(tmp_path, step, tensors(step), {}, keep_last=1)
    assert first.exists()
    assert file.exists()
    assert steps(tmp_path) == [1, 3]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    ("step", "arrays", "meta", "rule"),
    [
        (-1, {}, {}, "whole number from 0, and is -1"),
        (1.5, {}, {}, "whole number from 0, and is 1.5"),
        (1, {}, {"a": float("nan")}, "meta must be plain JSON"),
        (1, {}, {"a": np.float32(1)}, "meta must be plain JSON"),
        (1, {}, {"a": (1, 2)}, "meta must be plain JSON: it would come back changed"),
        (1, {}, {"score": "high"}, "score must be a finite number, and is 'high'"),
        (1, {"": np.zeros(1)}, {}, "name is a non-empty text"),
        (1, {"x": np.array([None])}, {}, r"cannot be stored \(dtypes object\)"),
        (1, {"x": np.array(["a"])}, {}, r"cannot be stored \(dtypes str"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(
    tmp_path: Path, step: Any, arrays: Any, meta: Any, rule: str
) -> None:
    with pytest.raises(CheckpointError, match=rule):
        save_checkpoint(tmp_path, step, arrays, meta)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, tensors(), {})
    body = json.loads(path.read_text())["checkpoint"]
    body["file"] = f"../{body['file']}"
    path.write_text(json.dumps({"seal": checkpoint._seal(body), "checkpoint": body}))
    with pytest.raises(CheckpointError, match="no tensor file's name"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", [{"format": "convc checkpoint 9"}, {"step": "1"}])
def test_another_format_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    path = save_checkpoint(tmp_path, 1, tensors(), {})
    body = json.loads(path.read_text())["checkpoint"] | change
    path.write_text(json.dumps({"seal": checkpoint._seal(body), "checkpoint": body}))
    with pytest.raises(CheckpointError, match="must have format 'convc checkpoint 1'"):
        load_checkpoint(path)


def test_an_unknown_choice_is_refused(tmp_path: Path) -> None:
    which: Any = "worst"
    with pytest.raises(CheckpointError, match="'latest' or 'best', not 'worst'"):
        load_checkpoint(tmp_path, which=which)


SAVER = """
import sys
import numpy as np
from convc.runtime.checkpoint import save_checkpoint
step = 0
while True:
    array = np.full(300_000, step, np.float32)
    save_checkpoint(sys.argv[1], step // 2, {"w": array}, {"score": step % 7})
    print(step, flush=True)
    step += 1
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
@pytest.mark.parametrize("saves", [1, 4, 9])
def test_a_killed_process_leaves_only_checkpoints_that_load(
    tmp_path: Path, saves: int
) -> None:
    """Killed in the midst of saving, every manifest it left behind loads.

    Each step is saved twice, so the kill may also fall between a step's two forms.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        for _ in range(saves):
            assert process.stdout.readline()
        process.kill()
    manifests = list(tmp_path.glob("*.json"))
    assert manifests
    for manifest in manifests:
        found = load_checkpoint(manifest)
        assert found.tensors["w"][0] // 2 == found.step
    newest = load_checkpoint(tmp_path)
    assert newest.skipped == ()
    assert newest.step >= (saves - 1) // 2
    save_checkpoint(tmp_path, 10_000, tensors(), {})
    assert load_checkpoint(tmp_path).step == 10_000


def expected(arrays: dict[str, np.ndarray]) -> dict[str, tuple[Any, Any]]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def test_weights_come_back(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "w.safetensors", tensors())
    assert_same(load_weights(path, expected(tensors())), tensors())
    assert list(tmp_path.iterdir()) == [path]


def test_weights_from_elsewhere_need_no_hash(tmp_path: Path) -> None:
    safetensors.numpy.save_file(tensors(), tmp_path / "w")
    assert_same(load_weights(tmp_path / "w", expected(tensors())), tensors())


def test_weights_that_do_not_fit_are_refused_with_both_sides(tmp_path: Path) -> None:
    """Missing AND unexpected names, and every difference of shape or dtype."""
    path = save_weights(tmp_path / "w", tensors())
    wanted = expected(tensors())
    del wanted["empty"]
    wanted["fc/kernel"] = ((3, 2), "float32")
    wanted["conv1/biases"] = ((5,), "float32")
    wanted["half"] = ((2, 3), "float32")
    with pytest.raises(CheckpointError) as caught:
        load_weights(path, wanted)
    text = str(caught.value)
    assert "missing: fc/kernel; unexpected: empty; " in text
    assert "conv1/biases is float32[4] in the file, expected float32[5]" in text
    assert "half is float16[2, 3] in the file, expected float32[2, 3]" in text


def test_a_long_list_of_names_is_cut(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "w", {})
    wanted = {f"layer{i}": ((1,), "float32") for i in range(30)}
    with pytest.raises(CheckpointError, match="layer7 and 22 more"):
        load_weights(path, wanted)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    """A plain safetensors file would load it without a word."""
    path = save_weights(tmp_path / "w", tensors())
    damage(path)
    with pytest.raises(CheckpointError, match="must have sha256 .* file is damaged"):
        load_weights(path, expected(tensors()))


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02" + bytes(7) + b"{}x"])
def test_what_is_not_a_weight_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load_weights(path, {})


def test_weights_that_cannot_be_written_leave_the_old_ones(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "w", tensors(1))
    with pytest.raises(CheckpointError, match="cannot be stored"):
        save_weights(path, {"x": np.array([None])})
    assert_same(load_weights(path, expected(tensors())), tensors(1))
    with pytest.raises(CheckpointError, match="cannot be saved"):
        save_weights(tmp_path / "no folder" / "w", tensors())


def test_the_digest_tells_names_shapes_and_single_bits_apart() -> None:
    one = {"a": np.arange(6, dtype=np.float32)}
    flipped = {"a": one["a"].copy()}
    flipped["a"].view(np.uint32)[3] ^= 1
    others = [
        flipped,
        {"b": one["a"]},
        {"a": one["a"].reshape(2, 3)},
        {"a": one["a"].view(np.int32)},
    ]
    assert len({weights_digest(w) for w in (one, *others)}) == 5


def test_the_digest_does_not_depend_on_order_or_memory() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.ones(3)
    turned = np.ascontiguousarray(a.T).T
    assert weights_digest({"a": a, "b": b}) == weights_digest({"b": b, "a": turned})


def test_a_weight_file_says_which_network_it_is_of(tmp_path: Path) -> None:
    weights = {"w": np.ones(2, np.float32)}
    named = save_weights(tmp_path / "named", weights, network="two_conv")
    assert weights_network(named) == "two_conv"
    assert weights_network(save_weights(tmp_path / "bare", weights)) == ""
    assert load_weights(named, {"w": ((2,), np.float32)}).keys() == {"w"}


def test_a_file_that_is_no_weight_file_has_no_network(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        weights_network(tmp_path / "w")
    with pytest.raises(CheckpointError, match="cannot be read"):
        weights_network(tmp_path / "absent")
