"""Targets are found by name, and their figures fit together."""

import pytest

from convc.backends.gpu.targets import TARGETS, target_named
from convc.ir.errors import CompileError


def test_a_target_is_found_by_its_name() -> None:
    assert target_named("sm_90").architecture == 90
    assert target_named("gfx942").warp_size == 64
    assert not target_named("interpret").compiles


def test_an_unknown_target_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(CompileError, match=r"unknown target 'sm_1', known: sm_80, sm_"):
        target_named("sm_1")


@pytest.mark.parametrize("name", TARGETS)
def test_a_block_may_use_no_more_than_its_multiprocessor_has(name: str) -> None:
    target = TARGETS[name]
    used = target.block_shared_bytes + target.reserved_shared_bytes
    assert used <= target.shared_bytes
    assert target.warps * target.warp_size == target.threads
    if target.compiles:
        assert target.flops["fp32"] <= target.flops["tf32"] < target.flops["bf16"]


def test_shared_memory_of_a_block_is_as_the_programming_guide_has_it() -> None:
    """163, 227, 227 and 99 KiB."""
    kib = [TARGETS[n].block_shared_bytes / 1024 for n in ("sm_80", "sm_90", "sm_100")]
    assert kib == [163, 227, 227]
    assert TARGETS["sm_120"].block_shared_bytes == 99 * 1024
