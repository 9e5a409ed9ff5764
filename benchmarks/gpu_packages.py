"""What the benchmark on a GPU needs, looked for before any work; standard library only.

Where a machine has no network, what it lacks is carried there as wheels, which are
unpacked into a folder of the checkout.
"""

import os
import shutil
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNPACKED = ROOT / "build" / "benchmark-packages"
NEEDED = {
    "torch": "torch",
    "triton": "triton",
    "numpy": "numpy",
    "ml_dtypes": "ml_dtypes",
    "networkx": "networkx",
    "click": "click",
    "rich": "rich",
    "markdown_it": "markdown-it-py",
    "mdurl": "mdurl",
    "pygments": "pygments",
    "safetensors": "safetensors",
    "filelock": "filelock",
    "pooch": "pooch",
    "platformdirs": "platformdirs",
    "packaging": "packaging",
    "threadpoolctl": "threadpoolctl",
    "pytest": "pytest",
    "iniconfig": "iniconfig",
    "pluggy": "pluggy",
    "hypothesis": "hypothesis",
    "sortedcontainers": "sortedcontainers",
}
"""Modules, and what they are called where packages are had."""
COMPILERS = ("cc", "gcc", "clang")


def prepare(wheels: Path | None) -> None:
    """Make the checkout and all it needs importable, here and in child processes.

    SystemExit that says what is missing and how to get it.
    """
    if wheels is not None:
        unpack(wheels)
    folders = [ROOT, ROOT / "benchmarks", ROOT / "tests" / "helpers", UNPACKED]
    paths = [str(folder) for folder in folders if folder.is_dir()]
    sys.path[:0] = [p for p in paths[:-1] if p not in sys.path]
    sys.path += [p for p in paths[-1:] if p not in sys.path]  # what is here wins
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = [p for p in [*paths, *known] if p]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(named))
    complaint = missing()
    if complaint:
        raise SystemExit(f"error: {complaint}")


def missing() -> str:
    """What is not here and how to get it; empty if nothing is missing."""
    lacking = [NEEDED[name] for name in NEEDED if find_spec(name) is None]
    compilers = [os.environ.get("CC", ""), *COMPILERS]
    complaints = []
    if lacking:
        version = "{}.{}".format(*sys.version_info)
        names = " ".join(lacking)
        complaints.append(
            f"not installed: {names}; pip install them, or, without a network, have "
            "another machine run\n  python -m pip download -d build/wheels "
            f"--only-binary=:all: --python-version {version} "
            "--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 "
            f"{names}\nand give the folder: --wheels build/wheels"
        )
    if not any(shutil.which(name) for name in compilers if name):
        complaints.append(
            "no C compiler: Triton makes a launcher with one of "
            f"{', '.join(COMPILERS)}; install gcc, or name one in CC"
        )
    return "; ".join(complaints)


def unpack(wheels: Path) -> None:
    """Put what the wheels in a folder hold, and cannot be imported, into UNPACKED."""
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise SystemExit(f"error: {wheels} holds no wheels (*.whl)")
    for path in found:
        with zipfile.ZipFile(path) as wheel:
            if not all(find_spec(name) for name in modules_in(wheel)):
                wheel.extractall(UNPACKED)


def modules_in(wheel: zipfile.ZipFile) -> set[str]:
    """The top-level modules and packages of a wheel."""
    tops = {name.split("/", 1)[0].partition(".")[0] for name in code_in(wheel)}
    return tops - {""}


def code_in(wheel: zipfile.ZipFile) -> list[str]:
    """The files of a wheel that can be imported."""
    names = [n for n in wheel.namelist() if ".dist-info/" not in n]
    return [n for n in names if ".data/" not in n and n.endswith((".py", ".so"))]
