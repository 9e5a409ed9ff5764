"""run takes a dumped stage, edited or not, to numbers."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from convc.cli import main
from convc.dump import VARIABLE
from convc.model import Model
from convc.networks import NETWORKS
from convc.pipeline import LOWERING
from convc.runtime.checkpoint import save_weights

SMALL = {"batch": 4, "threads": 1}


def convc(*arguments: str | Path | int, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="convc")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stages of an inference program and of a training program."""
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path / "dump"))
        model = Model(NETWORKS["strided"], image="f32[N,8,8,1]")
        model.inference().compile(**SMALL)
        model.training_step().compile(**SMALL)
    return tmp_path / "dump"


def stage(dump: Path, name: str, kind: str = "inference") -> Path:
    (path,) = dump.glob(f"*-{kind}/*-{name}")
    return path


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    return path


def checksum(result: Result) -> str:
    (found,) = re.findall(r"^sha256 (\w{64})$", result.stdout, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize("kind", ["training", "inference"])
def test_every_stage_gives_the_same_numbers_and_the_interpreter_agrees(
    dump: Path, kind: str
) -> None:
    sums = set()
    for path in sorted(dump.glob(f"*-{kind}/*.ir")):
        result = convc("run", path, "--compare", "--batch", 4, "--threads", 1)
        assert "agree with the interpreter within their bounds" in result.stdout
        sums.add(checksum(result))
    assert len(sums) == 1


def test_it_says_what_was_done_and_what_came_out(dump: Path) -> None:
    path = stage(dump, "choose-layout.ir")
    lines = convc("run", path, "--batch", 4, "--threads", 1).stdout.splitlines()
    names = [p.name for p in LOWERING]
    left = ", ".join(names[names.index("choose-layout") + 1 :])
    assert lines[0] == f"strided: kernel stage; passes that were left: {left}"
    assert lines[1].startswith("memory: one arena of ")
    assert lines[2].startswith("output = float32[4,10] -")
    assert re.fullmatch(r"sha256 \w{64}", lines[3])
    assert re.fullmatch(r"time .* ms, the median of 5 steps", lines[4])
    scalar = convc("run", stage(dump, "plan-memory.ir", "training")).stdout
    assert re.search(r"^loss = 2\.\d+$", scalar, re.MULTILINE)


def test_it_says_which_optimizer_a_stage_without_one_gets(dump: Path) -> None:
    """The one it was compiled with may be another; the stage does not know it."""
    said = "optimizer: adam with its defaults, for the stage has none yet\n"
    where = ("--batch", 4, "--threads", 1)
    early = stage(dump, "differentiate.ir", "training")
    assert said in convc("run", early, *where).stdout
    late = stage(dump, "apply-optimizer.ir", "training")
    assert "optimizer" not in convc("run", late, *where).stdout.replace(
        "fuse-optimizer", ""
    )


def test_the_program_can_be_kept(dump: Path, tmp_path: Path) -> None:
    path, out = stage(dump, "fuse-dense.ir"), tmp_path / "p.py"
    convc("run", path, "--source", out, "--batch", 4, "--threads", 1)
    assert out.read_text("utf-8") == stage(dump, "program.py").read_text("utf-8")
    nowhere = tmp_path / "no" / "p.py"
    result = convc("run", path, "--source", nowhere, code=1)
    assert "p.py: cannot be written" in result.stderr


def test_data_and_weights_can_be_given(dump: Path, tmp_path: Path) -> None:
    model = Model(NETWORKS["strided"], image="f32[N,8,8,1]")
    program = model.inference().compile(**SMALL)
    program.initialize(5)
    image = np.random.default_rng(1).random((3, 8, 8, 1), np.float32)
    np.save(tmp_path / "image.npy", image)
    save_weights(tmp_path / "w.safetensors", program.state())
    path = stage(dump, "plan-memory.ir")
    given = ("--input", f"image={tmp_path / 'image.npy'}")
    given += ("--weights", str(tmp_path / "w.safetensors"))
    result = convc("run", path, *given)
    first = " ".join(f"{x:.6g}" for x in program(image=image)["output"].flat[:8])
    assert "output = float32[3,10] " in result.stdout
    assert f": {first} …" in result.stdout
    assert checksum(result) != checksum(convc("run", path, *given[:2]))


def test_the_trained_weights_of_a_training_stage_can_be_given(
    dump: Path, tmp_path: Path
) -> None:
    """They come without the optimizer's moments and the step."""
    program = Model(NETWORKS["strided"], image="f32[N,8,8,1]").inference().compile()
    save_weights(tmp_path / "w.safetensors", program.state())
    path = stage(dump, "plan-memory.ir", "training")
    assert convc("run", path, "--weights", tmp_path / "w.safetensors").exit_code == 0


def test_images_and_seed_choose_the_data(dump: Path) -> None:
    path = stage(dump, "plan-memory.ir")
    two = convc("run", path, "--images", 2)
    assert "float32[2,10]" in two.stdout
    assert checksum(two) == checksum(convc("run", path, "--images", 2))
    assert checksum(two) != checksum(convc("run", path, "--images", 2, "--seed", 1))


def test_to_prints_the_ir_and_runs_nothing(dump: Path) -> None:
    path = stage(dump, "fuse-dense.ir")
    shown = convc("run", path, "--to", "form-kernels").stdout
    assert shown == stage(dump, "form-kernels.ir").read_text("utf-8")
    assert convc("run", path, "--to", "trace").stdout == path.read_text("utf-8")
    idle = ("--compare", "--source", "p.py")
    result = convc("run", path, "--to", "trace", *idle, code=2)
    assert "--to runs nothing; leave out --source and --compare" in result.stderr
    result = convc("run", path, "--to", "differentiate", code=1)
    assert "no pass that is left is called 'differentiate'; left are fuse-" in (
        result.stderr
    )


def test_an_edited_schedule_takes_effect(dump: Path, tmp_path: Path) -> None:
    """In front of the plan, and behind it where the scratch is large enough."""
    path = stage(dump, "choose-schedule.ir")
    conv = re.search(r"schedule \{[^}]*\}(?=.*conv1\n)", path.read_text("utf-8"))
    assert conv
    edit(path, conv.group(), "schedule {algorithm=im2col_rows, images=4, rows=1}")
    plan = convc("run", path, "--to", "plan-memory", "--batch", 4, "--threads", 1)
    planned = tmp_path / "planned.ir"
    planned.write_text(plan.stdout, "utf-8")
    for file in (path, planned):
        sources = []
        for images in (4, 1):
            edit(file, "images=4", f"images={images}")
            out = tmp_path / "p.py"
            where = ("--batch", 4, "--threads", 1)
            convc("run", file, "--source", out, "--compare", *where)
            sources.append(out.read_text("utf-8"))
        assert sources[0] != sources[1]


@pytest.mark.parametrize("name", ["choose-schedule.ir", "plan-memory.ir"])
@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("algorithm=gemm_rows", "algorithm=magic", "unknown algorithm 'magic', known:"),
        ("piece=131072", "rows=3", "its schedule has ['algorithm', 'rows'], the numpy"),
        ("piece=131072", "piece=0", "piece"),
    ],
)
def test_an_impossible_schedule_is_refused_with_the_rule(
    dump: Path, name: str, old: str, new: str, rule: str
) -> None:
    path = edit(stage(dump, name), old, new)
    result = convc("run", path, "--batch", 4, "--threads", 1, code=1)
    assert rule in result.stderr
    assert "kernel " in result.stderr


def test_a_planned_kernel_without_a_schedule_is_refused(dump: Path) -> None:
    path = stage(dump, "plan-memory.ir")
    text = path.read_text("utf-8")
    path.write_text(re.sub(r" schedule \{algorithm=gemm.*?\}", "", text), "utf-8")
    result = convc("run", path, code=1)
    assert re.search(r"kernel \w+: unknown algorithm None, known: gemm_", result.stderr)


def test_a_plan_that_a_schedule_no_longer_fits_is_refused(dump: Path) -> None:
    path = stage(dump, "plan-memory.ir")
    text = path.read_text("utf-8")
    scratch = re.search(r"^    %\S+!\S+ \d+ (\d+) live", text, re.MULTILINE)
    assert scratch
    size = scratch.group(1)
    edit(path, scratch.group(), scratch.group().replace(f" {size} ", " 8 "))
    assert "the plan has 8" in convc("run", path, code=1).stderr


def test_a_planned_stage_has_decided_on_batch_and_threads(dump: Path) -> None:
    path = stage(dump, "plan-memory.ir")
    assert convc("run", path, "--batch", 4, "--threads", 1).exit_code == 0
    result = convc("run", path, "--batch", 8, code=1)
    assert "is planned for batch 4, not 8; resume a stage in front of" in result.stderr


def test_a_mistake_made_by_hand_is_shown_in_its_file(dump: Path) -> None:
    path = edit(stage(dump, "trace.ir"), "= relu(", "= rleu(")
    result = convc("run", path, code=1)
    assert re.search(rf"error: {re.escape(str(path))}:\d+:8: unknown op", result.stderr)
    assert "^" in result.stderr


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ("image", 2, "--input: wanted NAME=FILE.npy, got image"),
        ("image=none.npy", 1, "none.npy: cannot be read"),
        ("image=net.py", 1, "net.py: cannot be read"),
        ("picture=x.npy", 1, "this program takes image, got image, picture"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    dump: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("pass")
    np.save("x.npy", np.zeros((2, 8, 8, 1), np.float32))
    path = stage(dump, "plan-memory.ir")
    assert message in convc("run", path, "--input", given, code=code).stderr


def test_an_answer_the_interpreter_does_not_give_is_an_error(
    dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emitted code is made to leave the bias out."""
    from convc.program import Program

    run = Program.run

    def wrong(self: Program, n: int | None = None) -> dict[str, np.ndarray]:
        return {name: array + 1 for name, array in run(self, n).items()}

    monkeypatch.setattr(Program, "run", wrong)
    result = convc("run", stage(dump, "plan-memory.ir"), "--compare", code=1)
    assert "error: the interpreter disagrees" in result.stderr
    assert "output: 40 of 40 elements are out of bounds" in result.stderr
