"""The rules of CONTRIBUTING.md that a program can check."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = ("convc", "ir", "backends", "examples")
FOLDERS = (*SOURCES, "tests", "docs", "benchmarks", ".ci")
NOT_OURS = {"LICENSE", ".git", ".coverage"}
LONGEST_FILE = 500
LONGEST_FUNCTION = 60
# Flat tables and templates that read better in one piece: "file::function" -> why.
LONG_FUNCTIONS: dict[str, str] = {}

# Written so that no pattern matches its own text.
FORBIDDEN = {
    "a note to self": r"\b(TOD[O]|FIXM[E]|XX[X])\b",
    "a path of one machine": r"(?<![\w.])/(work|tmp/w|root|opt)/",
    "a registry's host": r"pypi\.org|pythonhosted\.org|download\.pytorch\.org",
    "a ticket's number": r"(?i)\b(issue|ticket|pull request) ?#?\d+",
}


def project_files() -> Iterator[Path]:
    """Every text file of the project that a person wrote."""
    paths = [*ROOT.iterdir()]
    for folder in FOLDERS:
        paths.extend((ROOT / folder).rglob("*"))
    for path in sorted(paths):
        written = path.suffix in {"", ".py", ".md", ".toml", ".ir"}
        if written and path.is_file() and path.name not in NOT_OURS:
            yield path


def source_files() -> list[Path]:
    """Every program: Python, TOML, the Makefile; not what a test keeps as golden."""
    return [
        path
        for path in project_files()
        if (path.suffix in {".py", ".toml"} or path.name == "Makefile")
        and "golden" not in path.parts
    ]


def module_name(path: Path) -> str:
    """The name a file of the three source folders is imported under."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    prefix = () if parts[0] == "convc" else ("convc",)
    return ".".join(part for part in (*prefix, *parts) if part != "__init__")


def copy_checkout(destination: Path) -> Path:
    """Copy what a wheel is built from to an empty folder, as in a bare clone."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, destination / folder, ignore=ignore)
    for path in project_files():
        if path.parent == ROOT:
            shutil.copy(path, destination)
    shutil.copy(ROOT / "LICENSE", destination)
    return destination


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, apart from the make and the pytest around it."""
    outer = ("MAKE", "MFLAGS", "PYTEST", "PYTHONPATH", "COVERAGE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(outer)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_files_are_short_enough_to_read() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in source_files()
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def long_functions(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of one file that are too long, with their lengths."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{path.relative_to(ROOT)}::{node.name}", length


def test_functions_are_short_enough_to_read() -> None:
    found = {
        name: length
        for path in source_files()
        if path.suffix == ".py"
        for name, length in long_functions(path)
    }
    assert {k: n for k, n in found.items() if k not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) <= set(found), "an exception that is no longer needed"


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in project_files()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if re.search(FORBIDDEN[what], line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a note to self", "# TO~DO: later"),
        ("a path of one machine", "see /wo~rk/shared"),
        ("a registry's host", "https://py~pi.org/simple"),
        ("a ticket's number", "see issue~ #12"),
    ],
)
def test_the_forbidden_patterns_find_what_they_name(what: str, line: str) -> None:
    assert re.search(FORBIDDEN[what], line.replace("~", ""))


def test_every_package_of_the_tree_is_in_the_wheels_list() -> None:
    tree = {
        module_name(path)
        for folder in SOURCES
        for path in (ROOT / folder).rglob("__init__.py")
    }
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(tree)


def test_every_module_lies_in_a_package() -> None:
    """A folder without __init__.py would be left out of the wheel."""
    folders = {path.parent for name in SOURCES for path in (ROOT / name).rglob("*.py")}
    bare = [
        str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").exists()
    ]
    assert bare == []


def test_the_typing_links_lead_to_the_mapped_folders() -> None:
    for name in ("ir", "backends", "examples"):
        link = ROOT / ".typings" / "convc" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


def test_importing_convc_is_light() -> None:
    """A fresh `import convc` loads no library that only some commands need."""
    code = "import sys, convc; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    result = run(sys.executable, "-c", code, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    heavy = {
        *("click", "matplotlib", "networkx", "pooch", "requests", "rich", "scipy"),
        *("sklearn", "tensorboardX", "torch", "triton"),
    }
    assert heavy & set(result.stdout.split()) == set()


def test_a_wheel_holds_every_module_once_and_imports_alone(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    built = run(*pip, *options, "--wheel-dir", tmp_path, checkout, cwd=tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("convc-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(site)

    modules = {name for name in names if name.endswith(".py")}
    expected = set()
    for folder in SOURCES:
        for path in (checkout / folder).rglob("*.py"):
            relative = path.relative_to(checkout).as_posix()
            expected.add(relative if folder == "convc" else f"convc/{relative}")
    assert modules == expected
    assert "convc/py.typed" in names
    page = {p.name for p in (ROOT / "convc" / "report").glob("*.[hcj][ts]*")}
    assert {"page.html", "page.css", "page.js"} <= page
    assert {f"convc/report/{name}" for name in page} <= names
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"convc"}

    packages = PROJECT["tool"]["setuptools"]["packages"]
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(site)!r})\n"
        f"for name in {packages!r}:\n"
        "    print(importlib.import_module(name).__file__)\n"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    imported = run(sys.executable, "-I", "-c", code, cwd=empty)
    assert imported.returncode == 0, imported.stderr
    files = imported.stdout.splitlines()
    assert len(files) == len(packages)
    assert all(Path(file).is_relative_to(site) for file in files)


def test_a_bare_checkout_imports_its_own_folders(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    code = (
        "import convc, convc.ir, convc.backends, convc.examples as examples\n"
        "for m in (convc, convc.ir, convc.backends, examples): print(m.__file__)"
    )
    result = run(sys.executable, "-c", code, cwd=checkout)
    assert result.returncode == 0, result.stderr
    expected = [str(checkout / folder / "__init__.py") for folder in SOURCES]
    assert result.stdout.splitlines() == expected


@pytest.mark.skipif(
    not (ROOT / "convc" / "__main__.py").exists(), reason="no command line yet"
)
def test_a_bare_checkout_has_the_command_line(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    result = run(sys.executable, "-m", "convc", "--help", cwd=checkout)
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout


PLANTED = [
    ("ir/planted.py", "import convc.backends.cpu", "convc.ir knows nothing else"),
    ("ir/planted.py", "import convc.passes", "convc.ir knows nothing else"),
    ("ir/planted.py", "import rich.table", "convc.ir knows nothing else"),
    ("ir/planted.py", "import convc", "do not import the front door"),
    ("backends/planted.py", "from convc.passes import x", "imports go down only"),
    ("backends/cpu/planted.py", "import click", "no part of the command line"),
    ("convc/data/planted.py", "import convc.runtime", "imports go down only"),
    ("convc/planted.py", "import numpy", "imports go down only"),
]


def imports_are_lawful(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run `make imports` in a copy, with the tools of this environment."""
    tools = Path(sys.executable).parent
    if shutil.which("make") is None or not (tools / "lint-imports").exists():
        pytest.skip("needs make and import-linter")
    return run("make", "imports", f"BIN={tools}", cwd=checkout)


def test_the_import_contracts_hold(tmp_path: Path) -> None:
    result = imports_are_lawful(copy_checkout(tmp_path / "checkout"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(("file", "line", "contract"), PLANTED)
def test_the_import_linter_sees_a_planted_violation(
    tmp_path: Path, file: str, line: str, contract: str
) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    (checkout / file).write_text(line + "\n", encoding="utf-8")
    result = imports_are_lawful(checkout)
    assert result.returncode != 0
    broken = [row for row in result.stdout.splitlines() if row.endswith("BROKEN")]
    assert any(contract in row for row in broken), result.stdout
