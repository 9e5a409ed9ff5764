"""Kernels are compiled without a GPU, once, and every failure is an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from emitted_sample import ONLY_SCALE, SAMPLE, entry_in

from convc.backends.gpu import compiling
from convc.backends.gpu.compiling import Compiled, compile_source
from convc.backends.gpu.workers import Workers, shared_workers
from convc.ir.errors import CompileError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests of this module share."""
    return tmp_path_factory.mktemp("cache")


class NoWorkers(Workers):
    """Fails if anything is compiled."""

    def run(self, jobs: object, progress: object = None) -> list[str]:
        raise AssertionError("something is compiled")


def test_launches_of_one_kernel_share_its_machine_code(kept: Path) -> None:
    told: list[tuple[int, int, str]] = []
    compiled = compile_source(
        SAMPLE, "sm_90", folder=kept, progress=lambda *now: told.append(now)
    )
    assert [b.kernel for b in compiled.binaries] == ["product", "scale", "scale"]
    assert compiled.binaries[1] is compiled.binaries[2]
    assert [(done, total) for done, total, _ in told] == [(1, 2), (2, 2)]
    assert {name for *_, name in told} == {"product", "scale"}
    product = compiled.binaries[0]
    assert product.metadata["num_warps"] == 4
    assert "wgmma" in product.text("ptx")
    assert product.files["cubin"].read_bytes().startswith(b"\x7fELF")


def test_the_second_time_comes_from_the_cache(kept: Path) -> None:
    first = compile_source(SAMPLE, "sm_90", folder=kept)
    again = compile_source(SAMPLE, "sm_90", folder=kept, workers=NoWorkers())
    assert again == first


@pytest.mark.parametrize("what", ["source", "target", "version", "variable"])
def test_whatever_decides_the_code_makes_another_entry(
    what: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = ONLY_SCALE, "sm_90"
    compile_source(source, target, folder=kept)
    if what == "source":
        source = source.replace("0.5", "0.25")
    if what == "target":
        target = "sm_80"
    if what == "version":
        monkeypatch.setattr(compiling, "triton_version", lambda: "3.0.0")
    if what == "variable":
        monkeypatch.setenv("DISABLE_LLVM_OPT", "1")
    with pytest.raises(AssertionError, match="something is compiled"):
        compile_source(source, target, folder=kept, workers=NoWorkers())


def test_workers_compile_where_the_parent_interprets(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    workers = Workers(1)
    try:
        source = ONLY_SCALE.replace("0.5", "0.125")
        compiled = compile_source(source, "gfx942", folder=kept, workers=workers)
    finally:
        workers.close()
    assert "global_store_dwordx4" in compiled.binaries[0].text("amdgcn")


def test_what_does_not_compile_is_an_error_with_kernel_target_and_reason(
    kept: Path,
) -> None:
    source = ONLY_SCALE.replace("y * 0.5", "y * nothing")
    with pytest.raises(CompileError) as caught:
        compile_source(source, "sm_90", folder=kept)
    assert str(caught.value).startswith("kernel scale for sm_90: ")
    assert "nothing is not defined" in str(caught.value)
    assert "y * nothing" in str(caught.value)


def test_a_compiler_that_dies_is_an_error(kept: Path) -> None:
    source = f"import os, sys\nsys.stderr.write('oh no')\nos._exit(3)\n{ONLY_SCALE}"
    said = r"(?s)kernel scale for sm_90: .* ended with code 3\n  oh no"
    with pytest.raises(CompileError, match=said):
        compile_source(source, "sm_90", folder=kept)
    compile_source(ONLY_SCALE, "sm_80", folder=kept)  # with another process


def test_a_compiler_that_never_ends_is_an_error(kept: Path) -> None:
    workers = Workers(1, seconds=0.1)
    source = f"import signal\nwhile True:\n    signal.pause()\n{ONLY_SCALE}"
    with pytest.raises(CompileError, match=r"took longer than 0\.1 s"):
        compile_source(source, "sm_90", folder=kept, workers=workers)
    workers.close()


def test_ctrl_c_ends_the_compilers(kept: Path) -> None:
    def interrupt(done: int, total: int, name: str) -> None:
        raise KeyboardInterrupt

    workers = Workers(1)
    source = ONLY_SCALE.replace("0.5", "0.75")
    with pytest.raises(KeyboardInterrupt):
        compile_source(
            source, "sm_90", folder=kept, workers=workers, progress=interrupt
        )
    assert not workers.processes()
    compile_source(source, "sm_90", folder=kept)


def test_processes_stay_for_the_next_source(kept: Path) -> None:
    compile_source(ONLY_SCALE.replace("0.5", "3.5"), "sm_90", folder=kept)
    there = set(shared_workers().processes())
    compile_source(ONLY_SCALE.replace("0.5", "4.5"), "sm_90", folder=kept)
    assert there & set(shared_workers().processes())


def test_without_triton_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling, "find_spec", lambda _: None)
    with pytest.raises(CompileError, match=r"pip install 'convc\[triton\]'"):
        compile_source(SAMPLE, "sm_90")


def test_triton_is_not_imported_to_have_it_compile(kept: Path, tmp_path: Path) -> None:
    """So that the process may still become one that interprets."""
    file = tmp_path / "source.py"
    file.write_text(ONLY_SCALE)
    code = f"{EIGHT}\nfrom convc.backends.gpu.resources import resources_of\n"
    code += "resources_of(compiled)\nassert 'triton' not in sys.modules"
    command = python(code, file, kept)
    done = subprocess.run(command, env=outside(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_interpreter_is_no_target_to_compile_for() -> None:
    with pytest.raises(CompileError, match="nothing is compiled for target"):
        compile_source(SAMPLE, "interpret")


def test_a_damaged_entry_is_compiled_again(tmp_path: Path) -> None:
    first = compile_source(ONLY_SCALE, "sm_90", folder=tmp_path / "cache")
    cubin = first.binaries[0].files["cubin"]
    whole = cubin.read_bytes()
    cubin.write_bytes(whole[:-10])
    again = compile_source(ONLY_SCALE, "sm_90", folder=tmp_path / "cache")
    assert again == first
    assert len(cubin.read_bytes()) == len(whole)


EIGHT = """
import sys
from pathlib import Path
from convc.backends.gpu.compiling import compile_source
told = []
compiled = compile_source(
    Path(sys.argv[1]).read_text(), "sm_90", folder=Path(sys.argv[2]),
    progress=lambda *now: told.append(now),
)
print(len(told), len(compiled.binaries[0].files["cubin"].read_bytes()))
"""


def python(code: str, *arguments: str | Path) -> list[str]:
    """The command that runs code in another process."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def outside() -> dict[str, str]:
    """This environment for another process: a compiler, from this checkout."""
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**kept, "PYTHONPATH": path}


def test_eight_processes_compile_a_source_once(tmp_path: Path) -> None:
    file = tmp_path / "source.py"
    file.write_text(ONLY_SCALE)
    running = [
        subprocess.Popen(
            python(EIGHT, file, tmp_path / "cache"),
            env=outside(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    answers = [process.communicate()[0].split() for process in running]
    assert sorted(told for told, _ in answers) == ["0"] * 7 + ["1"]
    assert len({size for _, size in answers}) == 1
    assert entry_in(tmp_path / "cache")


READY = """
import importlib.util, json, sys
from pathlib import Path
import triton
from convc.backends.gpu.compiling import compile_source, ready
from convc.backends.gpu.workers import Workers

def never(*_, **__):
    raise AssertionError("something is compiled")

spec = importlib.util.spec_from_file_location("emitted", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
triton.compile = triton.compiler.compile = Workers.run = never
source, folder = Path(sys.argv[1]).read_text(), Path(sys.argv[2])
kernels = ready(module, compile_source(source, sys.argv[3], folder=folder))
print(json.dumps([
    [type(k).__name__, k.name, k.metadata.num_warps, k.src.fn.arg_names, len(k.kernel)]
    for k in kernels
]))
"""


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_another_process_gets_ready_kernels_and_compiles_nothing(
    target: str, tmp_path: Path, kept: Path
) -> None:
    file = tmp_path / "source.py"
    file.write_text(SAMPLE)
    compiled = compile_source(SAMPLE, target, folder=kept)
    done = subprocess.run(
        python(READY, file, kept, target),
        env=outside(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected(compiled)


def expected(compiled: Compiled) -> list[list[object]]:
    """What the other process should say of each of its kernels."""
    kind = "cubin" if compiled.target.vendor == "cuda" else "hsaco"
    return [
        [
            "CompiledKernel",
            launch.kernel,
            launch.machine.warps,
            [name for name, _ in launch.machine.signature],
            binary.files[kind].stat().st_size,
        ]
        for launch, binary in zip(compiled.launches, compiled.binaries, strict=True)
    ]
