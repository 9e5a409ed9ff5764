"""Candidates are ranked by a cost that follows the work."""

import pytest

import convc as cc
from convc.backends import backend_named
from convc.backends.base import Cost
from convc.backends.cpu.cost import gemm, passes, traffic
from convc.backends.cpu.kernel import Kernel
from convc.networks import two_conv
from convc.program import Program
from convc.tuning import tasks_of


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


def test_small_products_run_slower_than_large_ones() -> None:
    def rate(m: int, k: int, n: int) -> float:
        cost = gemm(m, k, n)
        return cost.flops / cost.seconds

    large = rate(512, 512, 512)
    assert rate(512, 8, 512) < 0.7 * large
    assert rate(8, 512, 512) < 0.7 * large
    assert rate(512, 512, 8) < 0.7 * large
    assert rate(8, 8, 8) < rate(64, 64, 64) < large


def test_one_call_costs_less_than_many_on_its_parts() -> None:
    assert passes(1e5, 2).seconds < passes(1e4, 2, 10).seconds
    assert gemm(64, 64, 640).seconds < gemm(64, 64, 64, 10).seconds


def test_a_pass_is_slower_where_less_of_it_fits_a_cache() -> None:
    near, far = passes(1e5, 2).seconds, passes(1e5, 2, resident=1e7).seconds
    beyond = passes(1e5, 2, resident=1e9).seconds
    assert near < far < beyond
    assert passes(1e5, 2).local == passes(1e5, 2, resident=1e9).local


def test_traffic_counts_operands_and_results_once() -> None:
    stages = {s.name: s for s in cc.Model(two_conv).inference().stages(batch=16)}
    nodes = stages["choose-layout"].graph.nodes
    node = next(n for n in nodes if "fc" in str(n.attrs.get("name")))
    values = (*node.operands, *node.results)
    found = traffic(Kernel(node, 2), 16)
    assert found.nbytes == sum(v.type.nbytes(16) for v in values)
    assert found.seconds == pytest.approx(traffic(Kernel(node, 1), 16).seconds / 2)


CONVOLUTIONS = {
    "plain": {},
    "strided": {"strides": 2},
    "dilated": {"dilation_rate": 2},
    "depthwise": {"groups": 8},
    "strided and grouped": {"strides": 2, "groups": 4},
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_cost_counts_the_calls_that_the_code_makes(case: str) -> None:
    """But for zeros at borders, and a few that every tile needs."""

    def net(image: cc.Tensor) -> cc.Tensor:
        x = cc.conv2d(image, 8, 3, padding="same", activation="relu")
        x = cc.conv2d(x, 8, 3, padding="same", name="b", **CONVOLUTIONS[case])
        return cc.dense(cc.flatten(cc.max_pool2d(cc.relu(x), 2)), 10)

    step = cc.Model(net, image="f32[N,16,16,4]").training_step()
    tasks = [t for t in tasks_of(step, "numpy", 64, 2)[0] if "conv2d" in t.key.kernel]
    assert len(tasks) == 4
    for task in tasks:
        for candidate in task.candidates:
            real = calls_of(task.program(candidate))
            assert 0.75 * real <= candidate.cost.calls <= real, candidate.schedule


def calls_of(program: Program) -> int:
    """NumPy calls of a worker, without those that only write zeros at borders."""
    inside = {
        "fill_windows": lambda copies: copies,
        "fold_windows": lambda copies: copies,
        "pool": lambda taps: taps - 1,
        "pool_argmax": lambda taps: 4 * taps - 5,
    }
    found = 0
    for kernel in program.engine.functions:
        for step in kernel(program.engine.emitted.memory, program.batch, 0):
            name = getattr(getattr(step, "func", None), "__name__", "")
            parts = len(step.args[0]) if name in inside else 0
            found += inside[name](parts) if parts else 1
    return found
