"""What kernels need is read from their machine code, without a GPU."""

import re
from pathlib import Path

import pytest
from emitted_sample import ONLY_SCALE, SAMPLE

from convc.backends.gpu import resources
from convc.backends.gpu.compiling import compile_source
from convc.backends.gpu.resources import blocks_together, resources_of
from convc.backends.gpu.targets import TARGETS
from convc.ir.errors import CompileError


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_a_product_and_an_elementwise_kernel(target: str, kept: Path) -> None:
    product, scale, same = resources_of(compile_source(SAMPLE, target, folder=kept))
    assert same is scale
    assert not product.fault
    assert not scale.fault
    assert (product.warps, scale.warps) == (4, 4)
    if target != "sm_100":  # which keeps sums in a memory of their own
        assert product.registers > 128 * 64 // (4 * product.target.warp_size)
    assert max(product.registers, scale.registers) <= product.target.thread_registers
    # stages of a 128 x 32 and a 64 x 32 tile, of 4 bytes
    assert product.shared_bytes >= 2 * 4 * 32 * (128 + 64)
    assert product.tensor > 0
    assert scale.tensor == scale.shared_bytes == 0
    assert product.spills == scale.spills == product.stack_bytes == 0
    amd = target == "gfx942"  # loads a whole wave's number with another instruction
    assert set(scale.loads) == ({16} if amd else {16, 4})
    assert set(scale.stores) == {16}
    assert 16 in (product.loads if amd else product.copies)
    assert scale.instructions == sum(scale.mix.values()) > 20


def test_pointers_that_are_not_aligned_load_less_at_a_time(kept: Path) -> None:
    """The report sees what the places of an emitted file lead to."""
    shifted = ONLY_SCALE.replace('"z": ("float32", 1376272', '"z": ("float32", 1376276')
    found = resources_of(compile_source(shifted, "sm_90", folder=kept))
    assert [set(r.stores) for r in found] == [{4}, {16}]
    assert [set(r.loads) for r in found] == [{16, 4}, {4}]


@pytest.mark.parametrize(
    ("target", "numbers"), [("sm_90", 1 << 14), ("gfx942", 1 << 15)]
)
def test_registers_that_do_not_suffice_show_as_spills(
    target: str, numbers: int, kept: Path
) -> None:
    """All numbers are needed until their sum is known, 512 by each thread of a warp."""
    crowded = ONLY_SCALE.replace("1024", str(numbers)).replace(
        "y * 0.5", "y - tl.sum(y, axis=0)"
    )
    crowded = crowded.replace('"z"), 4, 1)', '"z"), 1, 1)')
    crowd, easy = resources_of(compile_source(crowded, target, folder=kept))
    assert crowd.spills > 0
    assert crowd.stack_bytes > 0
    assert (easy.warps, easy.spills) == (4, 0)


def test_llvm_finds_the_same_occupancy_from_registers(kept: Path) -> None:
    """It writes how many waves a SIMD unit can hold; a block of 4 has one on each."""
    compiled = compile_source(SAMPLE, "gfx942", folder=kept)
    for binary, found in zip(compiled.binaries, resources_of(compiled), strict=True):
        text = re.search(r"; Occupancy: (\d+)", binary.text("amdgcn"))
        assert text is not None
        blocks, _ = blocks_together(compiled.target, 4, found.registers, 0)
        assert blocks == int(text.group(1))


@pytest.mark.parametrize(
    ("target", "warps", "registers", "shared", "blocks", "limit"),
    [
        # Worked by hand from the limits: 64 warps, 65,536 registers, 164 or 228 KiB.
        ("sm_80", 8, 32, 0, 8, "warps"),
        ("sm_80", 8, 64, 0, 4, "registers"),
        ("sm_80", 8, 65, 0, 3, "registers"),  # 72 each: 28 warps, 7 a partition
        ("sm_80", 4, 255, 0, 2, "registers"),
        ("sm_80", 1, 16, 0, 32, "blocks"),
        ("sm_80", 4, 32, 81 * 1024, 2, "shared memory"),
        ("sm_80", 4, 32, 81 * 1024 + 1, 1, "shared memory"),
        ("sm_90", 8, 32, 113 * 1024, 2, "shared memory"),
        ("sm_120", 8, 32, 0, 6, "warps"),
        ("gfx942", 4, 128, 0, 4, "registers"),
        ("gfx942", 4, 129, 0, 3, "registers"),
        ("gfx942", 4, 64, 32 * 1024, 2, "shared memory"),
    ],
)
def test_blocks_that_run_together(
    target: str, warps: int, registers: int, shared: int, blocks: int, limit: str
) -> None:
    found = blocks_together(TARGETS[target], warps, registers, shared)
    assert found == (blocks, limit)


def test_a_kernel_that_no_block_has_room_for_is_a_fault(kept: Path) -> None:
    stages = SAMPLE.replace('"y"), 4, 3)', '"y"), 4, 8)')
    product, scale, _ = resources_of(compile_source(stages, "sm_80", folder=kept))
    assert re.fullmatch(
        r"kernel product needs \d+ bytes of shared memory, sm_80 has 166912 for a "
        r"block",
        product.fault,
    )
    assert product.blocks == 0
    assert not scale.fault


def test_a_tool_that_is_not_there_is_an_error(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = compile_source(ONLY_SCALE, "sm_90", folder=kept)
    monkeypatch.setattr(resources, "triton_folder", lambda: kept)
    with pytest.raises(CompileError, match="cuobjdump, which reads machine code"):
        resources.resources_of(compiled)
