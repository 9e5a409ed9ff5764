"""What is missing is said with how to get it, and nothing that is missing crashes."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from convc import doctor
from convc.backends.gpu import cache
from convc.doctor import EXTRA, Finding, examine
from convc.ir.errors import ConvcError


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No driver, an empty cache, and attempts that are not made here."""
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(doctor, "_seen_by_driver", list)
    monkeypatch.setattr(doctor, "_compile_a_kernel", lambda: "compiles")
    monkeypatch.setattr(doctor, "_interpret_a_kernel", lambda: "interprets")
    install(monkeypatch)


def install(
    patch: pytest.MonkeyPatch, triton: str = "3.9.0", gpus: int = 0, cuda: str = "12.9"
) -> None:
    """Put stand-ins where torch and Triton would be imported from."""
    properties = SimpleNamespace(
        name="NVIDIA H200", major=9, minor=0, total_memory=141 * 2**30
    )
    torch = ModuleType("torch")
    vars(torch).update(
        __version__="2.13.0",
        version=SimpleNamespace(cuda=cuda, hip=None),
        cuda=SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            get_device_properties=lambda _: properties,
        ),
    )
    patch.setitem(sys.modules, "torch", torch)
    module = ModuleType("triton")
    vars(module).update(__version__=triton)
    patch.setitem(sys.modules, "triton", module)


def findings() -> dict[str, Finding]:
    report = examine()
    return {f.name: f for found in report.findings.values() for f in found}


def test_numpy_is_tried_and_decides_whether_convc_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert examine().works
    found = findings()
    assert found["program"].says == "compiles and runs (tried)"
    assert found["BLAS"].facts["libraries"]

    def broken() -> str:
        raise ConvcError("gives nonsense")

    monkeypatch.setattr(doctor, "_run_a_program", broken)
    report = examine()
    assert not report.works
    failed = report.findings["numpy"][-1]
    assert failed.says == "fails: gives nonsense"
    assert failed.remedy


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_what_is_not_installed_is_said_with_how_to_get_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # an import now fails
    found = findings()
    assert (found[name].says, found[name].remedy) == ("not installed", EXTRA)
    assert "interpreter" not in found
    assert ("compiler" in found) == (name == "torch")
    assert not found["GPU"].fine
    assert examine().works


def test_an_installation_that_cannot_be_imported_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "triton.py").write_text("import libtriton_that_is_not_there")
    monkeypatch.delitem(sys.modules, "triton")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = findings()["triton"]
    assert "No module named 'libtriton_that_is_not_there'" in found.says
    assert found.remedy == EXTRA


@pytest.mark.parametrize(("version", "fine"), [("3.5.1", False), ("3.10.0+git", True)])
def test_an_old_triton_is_to_be_upgraded(
    version: str, fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, triton=version)
    found = findings()["triton"]
    assert found.fine == fine
    assert found.says.startswith(version)
    assert fine or "triton>=3.6" in found.remedy


def test_a_gpu_is_named_with_its_target_memory_and_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, gpus=1)
    line = "NVIDIA H200, 9.0, 143771 MiB, 570.1"
    monkeypatch.setattr(doctor, "_seen_by_driver", lambda: [line])
    gpu = findings()["GPU"]
    assert gpu.says == "NVIDIA H200, sm_90, 141 GiB, driver 570.1"
    assert gpu.fine
    assert gpu.facts["gpus"][0]["known"]


def test_a_gpu_that_torch_is_not_built_for_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_seen_by_driver", lambda: ["NVIDIA H200, 9.0"])
    gpu = findings()["GPU"]
    assert gpu.says == "NVIDIA H200, 9.0: torch cannot use it"
    assert "torch that is built for it" in gpu.remedy


@pytest.mark.parametrize("there", [True, False])
def test_launching_takes_a_c_compiler(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, gpus=1)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "a/gcc" if there else None)
    monkeypatch.delenv("CC", raising=False)
    found = findings()["C compiler"]
    assert found.says.startswith("a/gcc" if there else "none")
    assert there or "gcc" in found.remedy


def test_the_cache_says_what_it_holds_and_what_is_damaged(tmp_path: Path) -> None:
    assert findings()["cache"].says.startswith("no machine code yet")
    folder = cache.cache_folder()
    for name in "ab":
        path = cache.entry(
            folder, {"name": name}, lambda part: (part / "code").write_text("code")
        )
    (path / "code").write_text("cod")
    found = findings()["cache"]
    assert found.says.startswith("2 compiled files, ")
    assert "1 damaged" in found.says
    assert found.fine
    folder.chmod(0o777)
    assert "chmod 700" in findings()["cache"].remedy
