"""No kernel needs more of its device than it did, and none breaks a rule.

The rules hold with any Triton. The figures are compared where they were kept for its
version; ``tests/helpers/kernel_baseline.py`` writes them anew.
"""

from pathlib import Path

import pytest
from emitted_sample import SAMPLE
from kernel_baseline import (
    PROGRAMS,
    Figures,
    baseline_file,
    broken_rules,
    programs_figures,
    read_baseline,
    regressions,
    source_of,
    text_of,
)

from convc.backends.gpu.compiling import compile_source
from convc.backends.gpu.resources import resources_of


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_kernels_need_no_more_than_they_did(
    program: tuple[str, str, str], kept: Path
) -> None:
    source = source_of(*program)
    compiled = compile_source(source, program[-1], folder=kept)
    found = resources_of(compiled)
    assert broken_rules(source, compiled, found) == []
    baseline = read_baseline()
    if baseline is None:
        pytest.skip(f"no {baseline_file().name}; tests/helpers/kernel_baseline.py")
    assert regressions(baseline[" ".join(program)], programs_figures(found)) == []


def test_the_baseline_is_as_it_is_written_and_has_no_other_programs() -> None:
    baseline = read_baseline()
    if baseline is None:
        pytest.skip(f"no {baseline_file().name}; tests/helpers/kernel_baseline.py")
    assert baseline_file().read_text("utf-8") == text_of(baseline)
    assert set(baseline) == {" ".join(program) for program in PROGRAMS}


OLD: Figures = {
    "registers": 65,
    "spills": 0,
    "shared": 1024,
    "blocks": 4,
    "tensor": True,
    "bytes": 16,
}


@pytest.mark.parametrize(
    ("change", "worse"),
    [
        ({}, []),
        ({"registers": 72}, []),
        ({"registers": 73}, ["f: registers 73, was 65"]),
        ({"spills": 1}, ["f: spills 1, was 0"]),
        ({"shared": 1040}, ["f: shared 1040, was 1024"]),
        ({"shared": 512, "registers": 32, "blocks": 5}, []),
        ({"blocks": 3}, ["f: blocks 3, was 4"]),
        ({"tensor": False}, ["f: tensor False, was True"]),
        ({"bytes": 8}, ["f: bytes 8, was 16"]),
    ],
)
def test_what_is_worse_shows(change: Figures, worse: list[str]) -> None:
    assert regressions({"f": OLD}, {"f": {**OLD, **change}}) == worse


def test_kernels_that_only_one_side_has_show() -> None:
    assert regressions({"f": OLD}, {"g": OLD}) == [
        "g: not in the baseline",
        "f: in the baseline only",
    ]


@pytest.mark.parametrize(
    ("old", "new", "target", "wrong"),
    [
        ('"tf32"', '"ieee"', "sm_90", ""),
        (
            '"y"), 4, 3)',
            '"y"), 4, 8)',
            "sm_80",
            "bytes of shared memory, sm_80 has 166912",
        ),
        ('"y"), 4, 3)', '"y"), 1, 1)', "sm_90", " spills"),
    ],
)
def test_broken_rules_show(
    old: str, new: str, target: str, wrong: str, kept: Path
) -> None:
    source = SAMPLE.replace(old, new)
    compiled = compile_source(source, target, folder=kept)
    found = broken_rules(source, compiled, resources_of(compiled))
    assert bool(found) == bool(wrong)
    assert all("product" in said for said in found)
    assert not wrong or any(wrong in said for said in found)


def test_a_product_without_tensor_cores_shows(kept: Path) -> None:
    """The kernel is that of an exact product, the text says tf32."""
    exact = SAMPLE.replace('"tf32"', '"ieee"')
    compiled = compile_source(exact, "sm_90", folder=kept)
    found = resources_of(compiled)
    assert broken_rules(exact, compiled, found) == []
    assert broken_rules(SAMPLE, compiled, found) == [
        "product: no instruction multiplies matrices"
    ]
