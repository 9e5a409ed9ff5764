"""With CONVC_DUMP every compilation leaves a folder, also one that fails."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from convc.dump import VARIABLE, dumped, memory_table, schedule_table
from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.parser import parse
from convc.model import Model
from convc.networks import strided
from convc.passes.manager import Context, Pass
from convc.pipeline import Step

MODEL = Model(strided, image="f32[N,8,8,1]")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "dump"))
    return tmp_path / "dump"


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in sorted(folder.iterdir())}


def test_nothing_is_written_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv(VARIABLE, raising=False)
        else:
            monkeypatch.setenv(VARIABLE, value)
        MODEL.inference().compile(batch=2, threads=1)
    assert list(tmp_path.iterdir()) == []


def test_a_compilation_leaves_all_that_it_made_in_order(folder: Path) -> None:
    program = MODEL.training_step().compile(batch=2, threads=1)
    found = files_of(folder / "01-strided-training")
    stages = [f"{n:02d}-{s.name}.ir" for n, s in enumerate(program.stages)]
    end = len(stages)
    others = [f"{end}-schedule.txt", f"{end + 1}-memory.txt", f"{end + 2}-program.py"]
    assert list(found) == [*stages, *others]
    assert [found[name] for name in stages] == [s.text for s in program.stages]
    assert found[others[0]] == schedule_table(program.graph)
    assert found[others[1]] == memory_table(program.graph)
    assert found[others[2]] == program.source


def test_the_schedule_names_every_kernel_with_its_line() -> None:
    graph = MODEL.inference().compile(batch=2, threads=1).graph
    rows = [row.split("  ") for row in schedule_table(graph).splitlines()]
    kernels = [n for n in graph.nodes if n.region]
    assert [row[0] for row in rows] == [n.attrs["name"] for n in kernels]
    for row, node in zip(rows, kernels, strict=True):
        assert all(
            f"{k}={v}" in "  ".join(row) for k, v in (node.schedule or {}).items()
        )
        assert not node.locs or row[-1].strip().startswith(str(node.locs[0]))


def test_no_compilation_overwrites_another(folder: Path) -> None:
    for step in (MODEL.training_step(), MODEL.evaluation_step(), MODEL.training_step()):
        step.compile(batch=2, threads=1)
    (folder / "07-mine").mkdir()
    MODEL.inference().compile(batch=2, threads=1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "01-strided-training",
        "02-strided-evaluation",
        "03-strided-training",
        "07-mine",
        "08-strided-inference",
    ]


def test_a_name_taken_meanwhile_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when two processes write at once."""
    theirs = folder / "01-net"
    rename = Path.rename

    def slow(self: Path, target: Path) -> Path:
        if not theirs.exists():
            theirs.mkdir()
            (theirs / "trace").write_text("theirs")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", slow)
    with dumped("net") as record:
        record.source = "pass\n"
    assert sorted(path.name for path in folder.iterdir()) == ["01-net", "02-net"]
    assert files_of(theirs) == {"trace": "theirs"}


def test_check_mode_leaves_a_certificate_for_every_pass(folder: Path) -> None:
    program = MODEL.inference().compile(batch=2, threads=1, check=True)
    found = files_of(folder / "01-strided-inference")
    lines = [json.loads(x) for x in found["certificates.jsonl"].splitlines()]
    assert [x["pass"] for x in lines] == [s.name for s in program.stages[1:]]
    texts = [text for name, text in found.items() if name.endswith(".ir")]
    hashes = [sha256(text.encode()).hexdigest() for text in texts]
    assert [x["before"] for x in lines] == hashes[:-1]
    assert [x["after"] for x in lines] == hashes[1:]
    assert all(x["checked"] and x["verdict"] for x in lines)


def failing(kind: str) -> Step:
    """A step whose third pass breaks."""

    def rewrite(graph: Graph, context: Context) -> Graph:
        if kind == "error":
            raise CompileError("it does not want to")
        if kind == "bug":
            raise ZeroDivisionError("it cannot")
        nodes = graph.nodes[1:]
        if kind == "wrong":
            nodes = tuple(
                replace(n, op="tanh") if n.op == "relu" else n for n in graph.nodes
            )
        return Graph(graph.name, graph.inputs, graph.parameters, nodes, graph.outputs)

    step = MODEL.inference()
    return Step(step.graph, (*step.passes[:2], Pass("broken", rewrite)), "inference")


@pytest.mark.parametrize("kind", ["error", "bug", "illegal", "wrong"])
def test_a_compilation_that_fails_leaves_how_far_it_came(
    folder: Path, kind: str
) -> None:
    error = ZeroDivisionError if kind == "bug" else CompileError
    with pytest.raises(error) as caught:
        failing(kind).compile(batch=2, threads=1, check=kind == "wrong")
    found = files_of(folder / "01-strided-inference")
    names = ["00-trace.ir", "01-remove-dropout.ir", "02-canonicalize.ir"]
    rejected = ["03-broken.failed.ir"] if kind in ("illegal", "wrong") else []
    passed = ["certificates.jsonl"] if kind == "wrong" else []
    assert list(found) == [*names, *rejected, *passed, "error.txt"]
    assert found["error.txt"] == f"{caught.value}\n"
    assert parse(found[names[0]]) == MODEL.graph
    if rejected:
        assert "matmul" in found[rejected[0]]


def test_a_program_that_cannot_be_emitted_leaves_its_plan(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise CompileError("no ink")

    monkeypatch.setattr("convc.backends.cpu.backend.emit_program", refuse)
    with pytest.raises(CompileError, match="no ink"):
        MODEL.inference().compile(batch=2, threads=1)
    found = files_of(folder / "01-strided-inference")
    assert [name.split("-", 1)[-1] for name in found][-3:] == [
        "schedule.txt",
        "memory.txt",
        "error.txt",
    ]


def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(CompileError, match="CONVC_DUMP: .*file cannot be written"):
        MODEL.inference().compile(batch=2, threads=1)


def test_the_error_of_a_pass_goes_before_that_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(CompileError, match="it does not want to") as caught:
        failing("error").compile(batch=2, threads=1)
    assert "cannot be written" in caught.value.__notes__[0]


def test_what_cannot_be_finished_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CompileError, match="no space left"):
        MODEL.inference().compile(batch=2, threads=1)
    assert list(folder.iterdir()) == []


def test_a_graphs_name_is_no_path(folder: Path) -> None:
    with dumped("../../etc/x y") as record:
        record.source = "pass\n"
    assert [path.name for path in folder.iterdir()] == ["01-.._.._etc_x_y"]
