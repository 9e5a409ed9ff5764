"""Lockfiles survive concurrent writers, kills and merges, and name what is damaged."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convc as cc
from convc import lockfile
from convc.ir.graph import Node
from convc.lockfile import (
    Entry,
    Key,
    LockfileError,
    Measured,
    check_writable,
    key_of,
    merged,
    read_lockfile,
    tuned,
    update_lockfile,
    using,
)
from convc.networks import Network, four_conv, strided
from convc.tracing import Tensor

TARGET = "numpy 2.4 x86_64 threads=2"


def entry(
    kernel: str = "t0 = relu(0); yield t0", rounds: int = 3, *seconds: float
) -> Entry:
    key = Key(kernel, "f32[N,4]{1,0} -> f32[N,4]{1,0}", 8, TARGET)
    measured = [
        Measured({"algorithm": "a", "images": i + 1}, s)
        for i, s in enumerate(seconds or (0.001, 0.002))
    ]
    return Entry(key, rounds, tuple(sorted(measured, key=lambda m: m.seconds)))


def kernels(network: Network = strided, batch: int = 8) -> list[Node]:
    stages = cc.Model(network).training_step().stages(batch=batch, threads=2)
    graph = next(s.graph for s in stages if s.name == "choose-layout")
    return [n for n in graph.nodes if n.region is not None]


def key(kernel: Node) -> Key:
    return key_of(kernel, 8, TARGET)


# -- the key


def test_a_kernels_key_holds_what_it_computes_and_its_types() -> None:
    node = next(n for n in kernels() if "conv1_conv" in str(n.attrs["name"]))
    assert key(node) == Key(
        "t0 = conv2d(0, 1) {padding=same, strides=[2,2]}; t1 = bias_add(t0, 2); "
        "t2 = relu(t1); yield t2",
        "f32[N,28,28,1]{1,2,3,0}, f32[5,5,1,16], f32[16] -> f32[N,14,14,16]{1,2,3,0}",
        8,
        TARGET,
    )


def test_the_names_and_lines_of_a_kernel_are_no_part_of_its_key() -> None:
    def other(image: Tensor) -> Tensor:
        x = cc.conv2d(image, 16, 5, strides=2, padding="same", name="first")
        return cc.dense(cc.flatten(cc.relu(x)), 10, name="last")

    assert {key(n) for n in kernels()} == {key(n) for n in kernels(other)}


def test_the_names_inside_a_body_and_the_order_of_attributes_do_not_matter() -> None:
    node = next(n for n in kernels() if "conv1_conv" in str(n.attrs["name"]))
    assert node.region is not None
    region = replace(
        node.region,
        nodes=tuple(
            replace(
                inner,
                operands=tuple(replace(v, name=f"x{v.name}") for v in inner.operands),
                results=tuple(replace(v, name=f"x{v.name}") for v in inner.results),
                attrs=dict(reversed(inner.attrs.items())),
            )
            for inner in node.region.nodes
        ),
        inputs=tuple(replace(v, name=f"x{v.name}") for v in node.region.inputs),
        yields=tuple(replace(v, name=f"x{v.name}") for v in node.region.yields),
    )
    assert key(replace(node, region=region)) == key(node)


def test_different_kernels_have_different_keys() -> None:
    nodes = kernels(four_conv)
    assert len({key(n) for n in nodes}) == len(nodes)
    assert key_of(nodes[0], 8, "a") != key_of(nodes[0], 8, "b")
    assert key_of(nodes[0], 8, "a") != key_of(nodes[0], 9, "a")


# -- the file


def test_a_file_holds_its_entries_one_a_line_sorted(tmp_path: Path) -> None:
    path, entries = tmp_path / "convc.lock", [entry("b"), entry("a"), entry("c")]
    update_lockfile(path, entries)
    header, *lines = path.read_text("utf-8").splitlines()
    assert header == lockfile.HEADER
    assert lines == sorted(e.line for e in entries)
    assert read_lockfile(path) == {e.key: e for e in entries}


def test_schedules_of_every_type_come_back_as_they_were(tmp_path: Path) -> None:
    schedule = {"a": 1, "b": 0.5, "c": "x\u2028y", "d": (1, (2, 3)), "e": True}
    made = replace(entry(), measured=(Measured(schedule, 0.1),))
    update_lockfile(tmp_path / "x", [made])
    (found,) = read_lockfile(tmp_path / "x").values()
    assert found == made
    assert [type(v) for v in found.fastest.schedule.values()] == [
        type(v) for v in schedule.values()
    ]


def test_the_fastest_comes_first_and_each_schedule_has_its_time() -> None:
    made = entry("k", 3, 0.3, 0.1, 0.2)
    assert made.fastest == Measured({"algorithm": "a", "images": 2}, 0.1)
    assert made.seconds({"algorithm": "a", "images": 3}) == 0.2
    assert made.seconds({"algorithm": "b"}) is None


entries_of_few_kernels = st.builds(
    entry,
    st.sampled_from("ab"),
    st.integers(1, 3),
    st.sampled_from([0.1, 0.2]),
    st.sampled_from([0.1, 0.2]),
)


@settings(derandomize=True)
@given(st.lists(entries_of_few_kernels, max_size=4))
def test_merging_does_not_depend_on_the_order(entries: list[Entry]) -> None:
    wanted = merged(entries)
    for order in itertools.permutations(entries):
        assert merged(order) == wanted
        assert merged(merged(order[:2]).values(), merged(order[2:]).values()) == wanted


def test_the_better_measured_entry_wins() -> None:
    few, many = entry("k", 3, 0.1, 0.2), entry("k", 9, 0.5)
    more = entry("k", 3, 0.2, 0.3, 0.4)
    fast, slow = entry("k", 3, 0.1), entry("k", 3, 0.2)
    assert merged([few, many])[few.key] is many
    assert merged([few, more])[few.key] is more
    assert merged([slow], [fast])[few.key] is fast


def test_what_was_only_compiled_is_kept_until_something_is_measured(
    tmp_path: Path,
) -> None:
    """An entry of 0 rounds, however fast it was said to be."""
    path, judged, measured = tmp_path / "x", entry("k", 0, 0.1), entry("k", 1, 0.5)
    update_lockfile(path, [judged])
    assert read_lockfile(path)[judged.key] == judged
    update_lockfile(path, [measured])
    assert read_lockfile(path)[judged.key] == measured


def test_an_update_merges_and_replaces_only_when_asked(tmp_path: Path) -> None:
    path, good, poor = tmp_path / "x", entry("k", 9), entry("k", 2)
    update_lockfile(path, [good, entry("other")])
    update_lockfile(path, [poor])
    assert read_lockfile(path)[good.key] == good
    update_lockfile(path, [poor], replacing=True)
    assert read_lockfile(path)[good.key] == poor
    assert len(read_lockfile(path)) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not an entry"),
        ("[1]", "an entry has kernel, types, batch, target, rounds, measured"),
        ("<<<<<<< ours", "an unsettled merge; keep the entries of both sides"),
        ("# convc lockfile 2", "this convc knows '# convc lockfile 1'"),
        (entry().line[:-5], "restore or delete the line"),
        (entry().line.replace('"rounds": 3', '"rounds": -1'), "rounds is no int"),
        (entry().line.replace('"rounds": 3', '"rounds": "3"'), "rounds is no int"),
        (entry().line.replace('"batch": 8', '"batch": true'), "batch is no int"),
        (entry().line.replace("0.002", "-1"), "not a schedule and its seconds"),
        (entry().line.replace("0.002", "NaN"), "not a schedule and its seconds"),
        (entry().line.replace('"a"', "null"), "a schedule cannot hold null"),
        (entry().line.split('"measured"')[0] + '"measured": []}', "measured is no"),
        ("[" * 100_000, ""),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(
    tmp_path: Path, line: str, said: str
) -> None:
    path = tmp_path / "convc.lock"
    text = f"{lockfile.HEADER}\n{entry('good').line}\n{line}\n"
    path.write_text(text, "utf-8")
    with pytest.raises(LockfileError) as read:
        read_lockfile(path)
    assert str(read.value).startswith(f"{path}:3: ")
    assert said in str(read.value)
    with pytest.raises(LockfileError):
        update_lockfile(path, [entry("new")])
    assert path.read_text("utf-8") == text


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(LockfileError, match="there is no lockfile .*x; convc tune"):
        read_lockfile(tmp_path / "x")
    with pytest.raises(LockfileError, match="cannot be read"):
        read_lockfile(tmp_path)
    with pytest.raises(LockfileError, match="cannot be written: no folder"):
        update_lockfile(tmp_path / "no" / "folder", [entry()])
    (tmp_path / ".y.guard").mkdir()
    with pytest.raises(LockfileError, match="cannot be written: "):
        update_lockfile(tmp_path / "y", [entry()])


def test_the_file_behind_a_link_is_written_and_the_link_stays(tmp_path: Path) -> None:
    """Who writes through a link waits for those who write the file itself."""
    real, link = tmp_path / "real", tmp_path / "there" / "link"
    link.parent.mkdir()
    link.symlink_to(real)
    update_lockfile(link, [entry("one")])
    update_lockfile(real, [entry("two")])
    assert link.is_symlink()
    assert {k.kernel for k in read_lockfile(link)} == {"one", "two"}
    assert [p.name for p in link.parent.iterdir()] == ["link"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(LockfileError, match="pipe: cannot be written: .* no regular"):
        update_lockfile(path, [entry()])
    assert path.is_fifo()


def test_whether_a_file_can_be_written_is_found_out_without_writing_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x"
    check_writable(path)
    assert not path.exists()
    update_lockfile(path, [entry()])
    before = path.read_bytes()
    check_writable(path)
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"x", ".x.guard"}
    with pytest.raises(LockfileError, match="cannot be written: no folder"):
        check_writable(tmp_path / "no" / "folder")


def test_a_name_with_odd_letters_is_no_pattern(tmp_path: Path) -> None:
    other = tmp_path / ".a.b.part"
    other.touch()
    update_lockfile(tmp_path / "[a]", [entry()])
    update_lockfile(tmp_path / "*", [entry()])
    assert other.exists()


def test_a_writer_that_waits_too_long_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr(lockfile, "_PATIENCE", 0.01)
    guard = tmp_path / ".x.guard"
    with FileLock(guard), pytest.raises(LockfileError, match="another process has"):
        update_lockfile(tmp_path / "x", [entry()])


# -- writers beside each other, and killed ones


WRITER = """
import sys
from convc.lockfile import update_lockfile
from writers import entry

for number in range(10):
    shared = entry("shared", 1 + (int(sys.argv[2]) + number) % 8)
    update_lockfile(sys.argv[1], [entry(f"{sys.argv[2]}/{number}"), shared])
"""

KILLED = """
import os, sys
from pathlib import Path
from convc.lockfile import update_lockfile
from writers import entry

def hang(*_):
    print("half", flush=True)
    sys.stdin.read()

PATCH
update_lockfile(sys.argv[1], [entry("new")])
"""


def start(code: str, path: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """A process that runs ``code``, which may use this file's functions."""
    shutil.copy(__file__, path.parent / "writers.py")
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), *arguments],
        cwd=path.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_eight_processes_write_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "convc.lock"
    writers = [start(WRITER, path, str(i)) for i in range(8)]
    for writer in writers:
        writer.communicate()
    assert [w.returncode for w in writers] == [0] * 8
    found = {k.kernel: e for k, e in read_lockfile(path).items()}
    assert found.keys() == {
        "shared",
        *(f"{i}/{j}" for i in range(8) for j in range(10)),
    }
    assert found["shared"].rounds == 8


@pytest.mark.parametrize(
    "patch", ["os.fsync = hang", "Path.replace = hang"], ids=["written", "renaming"]
)
def test_a_killed_writer_leaves_the_old_file_and_blocks_nobody(
    tmp_path: Path, patch: str
) -> None:
    path = tmp_path / "convc.lock"
    update_lockfile(path, [entry("old")])
    before = path.read_bytes()
    writer = start(KILLED.replace("PATCH", patch), path)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"half\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert path.read_bytes() == before
    assert len(list(tmp_path.glob(".convc.lock.*.part"))) == 1
    update_lockfile(path, [entry("next")])
    assert {k.kernel for k in read_lockfile(path)} == {"old", "next"}
    assert list(tmp_path.glob(".*.part")) == []


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_merges_two_branches_by_putting_their_lines_together(
    tmp_path: Path,
) -> None:
    def git(*arguments: str) -> None:
        name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", *name, *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    path = tmp_path / "convc.lock"
    git("init", "-q", "-b", "main")
    (tmp_path / ".gitattributes").write_text("convc.lock merge=union\n")
    update_lockfile(path, [entry("m")])
    git("add", "convc.lock", ".gitattributes")
    git("commit", "-q", "-m", "one")
    git("checkout", "-q", "-b", "side")
    update_lockfile(path, [entry("l"), entry("both", 3), entry("m", 9)])
    git("commit", "-q", "-a", "-m", "side")
    git("checkout", "-q", "main")
    update_lockfile(path, [entry("n"), entry("both", 5), entry("m", 8)])
    git("commit", "-q", "-a", "-m", "main")
    git("merge", "-q", "side", "-m", "merge")
    found = {k.kernel: e.rounds for k, e in read_lockfile(path).items()}
    assert found == {"l": 3, "m": 9, "n": 3, "both": 5}


# -- which file is in force


def test_the_lockfile_in_force_is_the_named_the_environments_or_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(lockfile.VARIABLE, raising=False)
    assert tuned() == {}
    for name in ("convc.lock", "environment", "named"):
        update_lockfile(name, [entry(name)])

    def kernel() -> str:
        (found,) = tuned()
        return found.kernel

    assert kernel() == "convc.lock"
    monkeypatch.setenv(lockfile.VARIABLE, "environment")
    assert kernel() == "environment"
    with using("named"):
        assert kernel() == "named"
    monkeypatch.setenv(lockfile.VARIABLE, "")
    assert tuned() == {}


def test_a_named_lockfile_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with using("nowhere"), pytest.raises(LockfileError, match="no lockfile nowhere"):
        tuned()
    monkeypatch.setenv(lockfile.VARIABLE, "nowhere")
    with pytest.raises(LockfileError, match="no lockfile nowhere"):
        tuned()
