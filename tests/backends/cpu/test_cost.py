"""Candidates are ranked by a cost that follows the work."""

import pytest

import convc as cc
from convc.backends import backend_named
from convc.backends.base import Cost
from convc.backends.cpu.cost import gemm, passes
from convc.networks import two_conv


def test_costs_add_up() -> None:
    a, b = Cost(1, 2, 3, 4, 5), Cost(10, 20, 30, 40, 50)
    assert a + b == Cost(11, 22, 33, 44, 55)


def test_twice_the_work_costs_twice() -> None:
    assert gemm(64, 800, 3136, 2) == gemm(64, 800, 3136) + gemm(64, 800, 3136)
    assert passes(1000, 3, 2) == passes(1000, 3) + passes(1000, 3)


def test_every_kernel_has_candidates_and_the_first_is_the_cheapest() -> None:
    model = cc.Model(two_conv)
    stages = {s.name: s for s in model.training_step().stages(batch=16, threads=2)}
    backend = backend_named("numpy")
    for node in stages["choose-layout"].graph.nodes:
        if node.region is None:
            continue
        found = backend.candidates(node, 16, 2)
        assert found
        seconds = [c.cost.seconds for c in found]
        assert seconds == sorted(seconds)
        assert min(seconds) > 0


def test_the_source_says_where_each_kernel_stands() -> None:
    program = cc.Model(two_conv).inference().compile(batch=4, threads=1)
    lines = program.source.splitlines()
    nodes = [n.name for n in program.graph.nodes if n.region is not None]
    assert [k.node for k in program.kernels] == nodes
    for kernel in program.kernels:
        assert lines[kernel.first - 1] == f"def {kernel.function}(mem, n, t):"
        assert lines[kernel.last - 1].startswith("    ")
        assert not lines[kernel.last].strip()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_target_names_what_measurements_are_valid_for(threads: int) -> None:
    assert f"threads={threads}" in backend_named("numpy").target(threads)
