"""What a plan says of itself, and how near it is to what no plan can beat."""

import pytest
from ir_samples import PLANNED, TENSOR

from convc.ir.graph import Graph
from convc.ir.parser import parse
from convc.memory import MemoryPlan
from convc.model import Model
from convc.networks import NETWORKS
from convc.optimizers import Adam
from convc.pipeline import Step

STEPS = ("training", "evaluation", "inference")


def step_of(name: str, kind: str) -> Step:
    model = Model(NETWORKS[name])
    if kind == "training":
        return model.training_step(optimizer=Adam())
    return model.evaluation_step() if kind == "evaluation" else model.inference()


def counted(graph: Graph) -> int:
    """The most bytes alive at once, found by stepping through the launches."""
    arena = graph.arena
    assert arena is not None
    last, views = dict[str, int](), {}
    for at, node in enumerate(graph.nodes):
        if node.region is None:
            source = node.operands[0].name
            views[node.name] = views.get(source, source)
        for value in (*node.operands, *node.results):
            last[views.get(value.name, value.name)] = at
    kept = {v.name for v in graph.inputs} | {p.value.name for p in graph.parameters}
    always = sum(v.type.nbytes(arena.batch) for v in graph.values() if v.name in kept)
    shown = {views.get(v.name, v.name) for _, v in graph.outputs}
    updates = {value.name for _, value in graph.updates}
    alive: dict[str, int] = {}
    most = 0
    for at, node in enumerate(graph.nodes):
        for value in node.results:
            if value.name not in views and value.name not in updates:
                alive[value.name] = value.type.nbytes(arena.batch)
        private = [b.size for b in arena.buffers if b.name.startswith(f"{node.name}!")]
        most = max(most, always + sum(alive.values()) + sum(private))
        for name in [n for n in alive if last[n] <= at and n not in shown]:
            del alive[name]
    return most


@pytest.mark.parametrize(
    ("batch", "threads"),
    [(1, 1), (1, 4), (3, 2), (8, 2), (33, 3), (128, 1), (128, 2), (129, 16)],
)
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_arena_is_within_a_tenth_of_the_liveness_bound(
    name: str, kind: str, batch: int, threads: int
) -> None:
    stage = step_of(name, kind).stages(batch=batch, threads=threads)[-1]
    plan = MemoryPlan.of(stage.graph)
    told = f"{name} {kind} batch {batch} threads {threads}: {plan}; {plan.peak}"
    assert plan.bound_bytes <= plan.arena_bytes <= 1.1 * plan.bound_bytes, told
    assert 0.99 * counted(stage.graph) <= plan.bound_bytes <= counted(stage.graph), told


def test_it_is_told_in_one_line() -> None:
    plan = MemoryPlan(3 * 2**20, 2**20, 2 * 2**20, 7, 5, (2**20, 2**21, 0), ("a", "b"))
    assert str(plan) == (
        "memory: one arena of 3,145,728 bytes (3.0 MiB) for batch 7: "
        "1.0 MiB parameters and state, 2.0 MiB activations and scratch; "
        "50.0% above the liveness bound of 2.0 MiB"
    )
    assert plan.peak == "peak: launch 1, b, with 2,097,152 bytes alive"


def test_every_launch_has_its_bytes_and_its_name() -> None:
    plan = MemoryPlan.of(parse(PLANNED))
    assert plan.launches == ("act", "b", "the end")
    # x, and 32 bytes of a and b, which is a view; scratch at the first launch
    assert plan.alive_bytes == (96, 64, 64)
    assert (plan.bound_bytes, plan.peak_launch, plan.peak_kernel) == (96, 0, "act")


def test_a_graph_without_a_plan_needs_nothing() -> None:
    plan = MemoryPlan.of(parse(TENSOR))
    assert plan == MemoryPlan(0, 0, 0, 0, 0)
    assert plan.above_bound == 0.0
