"""CONTRIBUTING.md is so: its walk-throughs are walked, the map is compared."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
SOURCES = ("convc", "ir", "backends", "examples")
MAP = (ROOT / "docs" / "files.md").read_text("utf-8")


def section(title: str) -> str:
    """The text below a heading of the second level."""
    (_, after) = TEXT.split(f"\n## {title}\n")
    return after.split("\n## ")[0]


def blocks(text: str) -> list[tuple[str, str]]:
    """Every fenced block with its kind."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


STEPS = [
    (kind, *hunk.split("\n", maxsplit=1))
    for walk in ("add an op", "write a pass")
    for kind, block in blocks(section(f"Walk-through: {walk}"))
    for hunk in re.split(r"^(?=@@ )", block, flags=re.MULTILINE)
    if hunk
]
FILES = [first.strip("@# ") for _, first, _ in STEPS]
"""The file of each step, which its first line names."""


def do(kind: str, path: Path, rest: str) -> None:
    """Take a step: a hunk of a diff changes a file, Python text is a new one.

    The context of a hunk must occur exactly once.
    """
    if kind == "python":
        assert not path.exists()
        path.write_text(rest, "utf-8")
        return
    lines = [line or " " for line in rest.splitlines()]
    old, new = (
        "".join(f"\n{line[1:]}" for line in lines if line[0] in side) + "\n"
        for side in (" -", " +")
    )
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{path} has no single place for:{old}"
    path.write_text(text.replace(old, new), "utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, both walk-throughs done."""
    copy = tmp_path_factory.mktemp("walked")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in (*SOURCES, "tests", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for file in ("pyproject.toml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / file, copy)
    for (kind, _, rest), file in zip(STEPS, FILES, strict=True):
        do(kind, copy / file, rest)
    return copy


def run(tree: Path, *command: str | Path) -> str:
    """What Python prints when it runs a command in the copy; it must succeed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    env["PYTHONPATH"] = str(tree)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


USE_THE_OP = """
import numpy as np
import convc as cc

def network(image):
    x = cc.absolute(cc.dense(cc.flatten(image), 6, name="hidden"))
    return cc.dense(x, 3, name="last")

def total(logits, labels):
    return cc.reduce_sum(logits, [0, 1])

rng = np.random.default_rng(1)
whole = lambda *shape: rng.integers(-3, 4, shape).astype(np.float32)
image, first, last = whole(5, 2, 2, 1), whole(4, 6), whole(6, 3)
image[0] = 0  # the slope at 0
weights = {"hidden/kernel": first, "last/kernel": last}

model = cc.Model(network, image="f32[N,2,2,1]")
step = model.training_step(loss=total, optimizer=cc.SGD(0.5), keep_gradients=True)
program = step.compile(batch=8, threads=2, check=True)
program.initialize(0)
program.load({**program.state(), **weights})
found = program(image=image, labels=np.zeros(5, np.int32))

x = image.reshape(5, 4)
slope = np.sign(x @ first) * last.sum(1)
print(np.array_equal(found["loss"], (np.abs(x @ first) @ last).sum()))
print(np.array_equal(found["gradient/hidden/kernel"], x.T @ slope))
print("np.absolute" in program.source, cc.__file__)
"""


def test_the_new_op_has_the_right_numbers_and_gradient_on_numpy(tree: Path) -> None:
    """On whole numbers, where float32 rounds nothing: equal to the formulas."""
    printed = run(tree, "-c", USE_THE_OP).split()
    assert printed == ["True", "True", "True", str(tree / "convc" / "__init__.py")]


USE_THE_PASS = """
import numpy as np
import convc as cc

def network(image):
    x = cc.max_pool2d(cc.relu(image), 2)
    return cc.relu(cc.flatten(cc.relu(x)))

step = cc.Model(network, image="f32[N,4,4,3]").inference()
program = step.compile(batch=5, threads=2, check=True)
stages = {stage.name: stage for stage in program.stages}
for name in ("canonicalize", "drop-relu"):
    print([node.op for node in stages[name].graph.nodes].count("relu"))
image = np.random.default_rng(1).normal(size=(5, 4, 4, 3)).astype(np.float32)
best = image.reshape(5, 2, 2, 2, 2, 3).max((2, 4))
found = program(image=image)["output"]
print(np.array_equal(found, np.maximum(best, 0).reshape(5, 12)))
"""


def test_the_new_pass_drops_what_it_says_and_no_number_changes(tree: Path) -> None:
    """Of three relus one is left, and the compiled program gives the same."""
    assert run(tree, "-c", USE_THE_PASS).split() == ["3", "1", "True"]


def test_the_tests_of_the_walk_throughs_pass(tree: Path) -> None:
    """Those of the new op and the new pass, and those that count what there is."""
    files = {
        *(file for file in FILES if Path(file).name.startswith("test_")),
        *("tests/ir/ops/test_forward.py", "tests/convc/test_autodiff.py"),
        *("tests/backends/cpu/test_ops.py", "tests/test_contributing.py"),
    }
    chosen = "absolute or every_op or exactly_these or drop_relu or map_names"
    options = ("-p", "no:cacheprovider", "--assert=plain", "-q", "-rA", "-k", chosen)
    printed = run(tree, "-m", "pytest", *options, *sorted(files))
    passed = re.findall(r"^PASSED (\S+)::(\S+)", printed, re.MULTILINE)
    assert {file for file, _ in passed} == files


def test_what_the_walk_throughs_write_is_formatted_and_clean(tree: Path) -> None:
    ruff = Path(sys.executable).parent / "ruff"
    if not ruff.exists():
        pytest.skip("needs ruff")
    written = sorted({file for file in FILES if file.endswith(".py")})
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *command, "--no-cache", *written],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def rows() -> list[str]:
    """The files of the map, by their paths from the top."""
    found, folder = [], ""
    for line in MAP.splitlines():
        if line.startswith("## "):
            heading = re.match(r"## `(\S+/)`: \S", line)
            folder = heading.group(1) if heading else ""
        elif row := re.fullmatch(r"- `(\S+)`: \S.*", line):
            found.append(folder + row.group(1))
        else:
            assert not line.startswith("- "), f"no row of the map: {line}"
    return found


def test_the_map_names_every_module_once_and_nothing_else() -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for folder in SOURCES
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".html", ".css", ".js"}
    }
    listed = [row for row in rows() if row.startswith(SOURCES)]
    assert sorted(listed) == sorted(modules)


def test_every_other_file_of_the_map_exists_and_is_named_once() -> None:
    others = [row for row in rows() if not row.startswith(SOURCES)]
    assert others
    assert len(set(others)) == len(others)
    assert [row for row in others if not (ROOT / row).is_file()] == []


def test_every_make_target_and_every_link_leads_somewhere() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^## (.*)", TEXT, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert link.removeprefix("#") in headings or (ROOT / link).is_file(), link
