"""What a measurement was made with: the command, the machine, the versions."""

import platform
import shlex
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def conditions(*packages: str) -> dict[str, object]:
    """The command, the machine and the installed versions of ``packages``."""
    program = Path(sys.argv[0])
    name = "convc" if program.stem in ("convc", "__main__") else f"python {sys.argv[0]}"
    return {
        "command": " ".join([name, shlex.join(sys.argv[1:])]).strip(),
        "machine": {
            "cpu": processor(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "versions": {name: installed(name) for name in packages},
    }


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name":
                return name.strip()
    return platform.processor() or platform.machine()


def installed(package: str) -> str:
    """A package's version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
