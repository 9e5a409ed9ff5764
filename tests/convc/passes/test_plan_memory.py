"""The memory plan, checked byte by byte and without the verifier's help."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from compiled import agrees, inputs_for, parameters_for, ran
from pass_bench import graph_of, stage_after

from convc.backends.base import flat_groups
from convc.ir.graph import VIEWS, Buffer, Graph, Value
from convc.ir.ops import OPS
from convc.layers import batch_norm, conv2d, dense, dropout, flatten, max_pool2d
from convc.model import Model
from convc.networks import NETWORKS
from convc.optimizers import SGD, Adam, Momentum
from convc.passes.plan_memory import ALIGN, PLAN_MEMORY, _Block, _place
from convc.pipeline import LOWERING, Step
from convc.tracing import Tensor


def branched(image: Tensor) -> Tensor:
    """Two branches of one image, batch norm and dropout: many lives that cross."""
    x = conv2d(image, 4, 3, padding="same", name="a")
    y = conv2d(image, 4, 3, padding="same", activation="relu", name="b")
    z = batch_norm(x + y, name="norm")
    z = max_pool2d(z, 2, name="pool")
    z = dropout(dense(flatten(z), 12, activation="relu", name="fc"), keep=0.5)
    return dense(z, 10, name="logits")


SMALL = Model(branched, image="f32[N,8,6,1]")


def _networks() -> dict[str, Step]:
    steps = {
        "branched-sgd": SMALL.training_step(optimizer=SGD(0.1)),
        "branched-momentum": SMALL.training_step(
            optimizer=Momentum(0.1), keep_gradients=True
        ),
        "branched-evaluation": SMALL.evaluation_step(),
        "branched-inference": SMALL.inference(),
    }
    for name, network in NETWORKS.items():
        steps[f"{name}-training"] = Model(network).training_step(optimizer=Adam())
        steps[f"{name}-inference"] = Model(network).inference()
    return steps


STEPS = _networks()
TRAINED = [name for name in STEPS if not name.endswith(("inference", "evaluation"))]


def planned(step: Step, batch: int = 3, threads: int = 2) -> Graph:
    """The last stage of ``step``."""
    return step.stages(batch=batch, threads=threads)[-1].graph


def buffers_of(graph: Graph) -> dict[str, Buffer]:
    assert graph.arena is not None
    return {b.name: b for b in graph.arena.buffers}


def home_of(graph: Graph) -> dict[str, str]:
    """Whose memory each value is, by a reading of the graph that is our own."""
    home = {v.name: v.name for v in graph.values()}
    for target, value in graph.updates:
        home[value.name] = target.name
    for node in graph.nodes:
        if node.op in VIEWS:
            home[node.result.name] = home[node.operands[0].name]
    return home


def writers_and_readers(graph: Graph) -> list[tuple[set[str], set[str]]]:
    """For each launch the values it reads and those it writes, scratch included."""
    steps = []
    buffers = buffers_of(graph)
    for node in graph.nodes:
        reads = {v.name for v in node.operands}
        writes = {v.name for v in node.results}
        if node.region is not None:
            writes |= {b for b in buffers if b.startswith(f"{node.name}!")}
        else:
            reads, writes = set(), set()  # a view touches no memory
        steps.append((reads, writes))
    return steps


GRAIN = 4
"""Bytes that are owned together: offsets within a flat block are multiples of it."""


def stale(graph: Graph) -> list[str]:
    """Values whose bytes were not their own when somebody read them.

    Plays two steps over an arena that remembers who wrote each byte last. Inputs,
    parameters and outputs must be intact at the end of each.
    """
    assert graph.arena is not None
    buffers, home = buffers_of(graph), home_of(graph)
    owner = {name: number for number, name in enumerate(buffers)}
    arena = np.full(graph.arena.size // GRAIN, -1)

    def span(value: str) -> slice:
        b = buffers[value]
        return slice(b.offset // GRAIN, -(-(b.offset + b.size) // GRAIN))

    def write(values: Iterable[str]) -> None:
        for value in values:
            arena[span(value)] = owner[home.get(value, value)]

    def lost(values: Iterable[str]) -> list[str]:
        return [v for v in values if (arena[span(v)] != owner[home[v]]).any()]

    given = [v.name for v in (*graph.inputs, *(p.value for p in graph.parameters))]
    shown, found = [v.name for _, v in graph.outputs], []
    write(given)
    for _ in range(2):
        for reads, writes in writers_and_readers(graph):
            found += lost(reads)
            write(writes)
        found += lost([*given, *shown])
    return found


@pytest.mark.parametrize("name", STEPS)
def test_what_is_read_is_what_was_written(name: str) -> None:
    assert not stale(planned(STEPS[name]))


def test_a_plan_that_puts_one_value_on_another_would_be_noticed() -> None:
    """Each buffer in turn is moved onto the first, which nearly always is lost."""
    graph = planned(STEPS["branched-sgd"])
    assert graph.arena is not None
    noticed = 0
    for wrong in graph.arena.buffers:
        moved = tuple(
            replace(b, offset=0) if b.name == wrong.name else b
            for b in graph.arena.buffers
        )
        arena = replace(graph.arena, buffers=moved)
        noticed += bool(stale(replace(graph, arena=arena)))
    assert noticed > len(graph.arena.buffers) // 2


def replaced(graph: Graph, a: str, b: str, lives: dict[str, list[int]]) -> bool:
    """Whether one elementwise op of a kernel reads one last, which makes the other."""
    old, new = sorted((a, b), key=lambda name: min(lives[name]))
    at = max(lives[old])
    if min(lives[new]) != at or at == len(graph.nodes):
        return False
    node, buffers, home = graph.nodes[at], buffers_of(graph), home_of(graph)
    if node.region is None:
        return False
    inside = dict(
        zip((home[v.name] for v in node.operands), node.region.inputs, strict=True)
    )
    readers = [n.op for n in node.region.nodes if inside.get(old) in n.operands]
    return (
        [OPS[op].elementwise for op in readers] == [True]
        and [home[v.name] for v in node.operands].count(old) == 1
        and new in {v.name for v in node.results}
        and buffers[old].offset == buffers[new].offset
        and buffers[old].size == buffers[new].size
    )


@pytest.mark.parametrize("name", STEPS)
def test_no_buffers_that_live_together_share_bytes(name: str) -> None:
    """All pairs; lives are counted from the graph, not taken from the plan."""
    graph = planned(STEPS[name])
    buffers, home = buffers_of(graph), home_of(graph)
    end, lives = len(graph.nodes), dict[str, list[int]]()
    always = {v.name for v in (*graph.inputs, *(p.value for p in graph.parameters))}
    for at, node in enumerate(graph.nodes):
        for value in (*node.operands, *node.results):
            lives.setdefault(home[value.name], []).append(at)
        for scratch in (b for b in buffers if b.startswith(f"{node.name}!")):
            lives[scratch] = [at]
    for _, value in graph.outputs:
        lives.setdefault(home[value.name], []).append(end)
    lives |= {value: [0, end] for value in always}
    names = list(lives)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            together = max(lives[a]) >= min(lives[b]) and max(lives[b]) >= min(lives[a])
            x, y = buffers[a], buffers[b]
            apart = x.offset + x.size <= y.offset or y.offset + y.size <= x.offset
            assert apart or not together or replaced(graph, a, b, lives)


@pytest.mark.parametrize("name", STEPS)
def test_the_peak_is_the_end_of_the_last_buffer(name: str) -> None:
    """Rounded up to a cache line, and not a byte more."""
    graph = planned(STEPS[name])
    assert graph.arena is not None
    end = max(b.offset + b.size for b in graph.arena.buffers)
    assert graph.arena.size == -(-end // ALIGN) * ALIGN


@pytest.mark.parametrize("name", STEPS)
def test_a_buffer_holds_its_value_at_the_largest_batch(name: str) -> None:
    graph = planned(STEPS[name])
    buffers = buffers_of(graph)
    assert all(buffers[v.name].size >= v.type.nbytes(3) for v in graph.values())
    names = {v.name for v in graph.values()}
    assert {b for b in buffers if "!" not in b} == names


def _flat(graph: Graph) -> list[list[Value]]:
    return [group for node in graph.nodes for group in flat_groups(node)]


@pytest.mark.parametrize("name", TRAINED)
def test_parameters_gradients_and_slots_lie_in_one_block_each(name: str) -> None:
    """In one order and without gaps, so that one loop updates all of them."""
    graph = planned(STEPS[name])
    buffers, groups = buffers_of(graph), _flat(graph)
    assert len(groups) >= 2
    for group in groups:
        offset = buffers[group[0].name].offset
        for value in group:
            assert buffers[value.name].offset == offset
            offset += value.type.nbytes(1)


@pytest.mark.parametrize("name", STEPS)
def test_nothing_is_read_after_its_update_in_place(name: str) -> None:
    """The launch that writes a parameter is the last that reads its old value."""
    graph = planned(STEPS[name])
    position = {n.name: i for i, n in enumerate(graph.nodes)}
    producers = graph.producers()
    for target, value in graph.updates:
        old = {target.name}
        for node in graph.nodes:
            if node.op in VIEWS and node.operands[0].name in old:
                old.add(node.name)
            if old & {v.name for v in node.operands}:
                assert position[node.name] <= position[producers[value.name].name]


@pytest.mark.parametrize("name", ["branched-sgd", "branched-inference"])
def test_a_run_uses_the_planned_bytes_exactly(name: str) -> None:
    """Up to the cache line that the last buffer begins."""
    program = STEPS[name].compile(batch=5, threads=2)
    graph = program.stages[0].graph
    ran(program, inputs_for(graph, 5))
    used = program.engine.emitted.memory.used
    assert -(-used // ALIGN) * ALIGN == program.memory.arena_bytes
    assert len(program.engine.emitted.memory.bytes) == program.memory.arena_bytes


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_a_plan_for_seven_images_serves_fewer(n: int) -> None:
    """The same bits as a program made for just that many, outputs and state."""
    step = SMALL.training_step(optimizer=Momentum(0.1), keep_gradients=True)
    wide, exact = (step.compile(batch=b, threads=2) for b in (7, n))
    feeds = inputs_for(step.graph, n)
    for program in (wide, exact):
        program.initialize(3)
    for _ in range(2):
        a, b = ran(wide, feeds), ran(exact, feeds)
        for ours, theirs in ((a.outputs, b.outputs), (a.updates, b.updates)):
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[k], theirs[k]) for k in ours)


def test_sizes_of_batches_may_change_from_step_to_step() -> None:
    """What a larger batch left in the arena does not show."""
    step = SMALL.training_step(optimizer=Adam(), keep_gradients=True)
    program = step.compile(batch=6, threads=3)
    planned_graph = program.stages[-1].graph
    program.load(parameters_for(planned_graph) | program.state())
    for n in (6, 1, 5, 2, 6):
        source = next(s.graph for s in program.stages if s.name == "simplify")
        _, wrong = agrees(source, inputs_for(source, n), program)
        assert not wrong


def test_a_view_takes_no_memory_of_its_own() -> None:
    text = """
    graph g(%x: f32[N,6]) -> (y=%3) {
      %1 = relu(%x) : f32[N,6]
      %2 = reshape(%1) {shape=[N,2,3]} : f32[N,2,3]
      %3 = exp(%2) : f32[N,2,3]
    }
    """
    graph = stage_after(*LOWERING, of=text).graph
    buffers = buffers_of(graph)
    one, two = buffers["1"], buffers["2"]
    assert replace(two, name="1") == one


def chain(op: str) -> Graph:
    """Ten of an op, one after the other, planned for four images of 64 numbers."""
    lines = [
        f"%{i} = {op}(%{i - 1 if i > 1 else 'x'}) : f32[N,64]" for i in range(1, 11)
    ]
    text = "graph g(%x: f32[N,64]) -> (y=%10) {\n" + "\n".join(lines) + "\n}\n"
    return stage_after(*LOWERING, of=text).graph


ONE = 4 * 64 * 4
"""Bytes of one value of the chain."""


def test_lives_that_do_not_meet_share_bytes() -> None:
    """A chain of ten needs the memory of two, with the scratch of one."""
    graph = chain("softmax")
    assert graph.arena is not None
    scratch = 2 * (ONE + 64)  # powers and sums of two workers
    assert graph.arena.size <= ONE + 2 * ONE + scratch


def test_elementwise_results_lie_on_their_operands() -> None:
    """A chain of ten needs the memory of one, beside the input's."""
    graph = chain("exp")
    assert graph.arena is not None
    assert graph.arena.size == 2 * ONE
    buffers = buffers_of(graph)
    assert len({buffers[str(i)].offset for i in range(1, 11)}) == 1


@pytest.mark.parametrize(
    ("blocks", "bound"),
    [
        # the largest first would lie where what is needed always must pass it
        ([(5, 2, 2), (3, 0, 0), (3, 0, 0), (4, 0, 2)], 10),
        # what is needed last must lie low, however small
        ([(5, 4, 4), (5, 0, 1), (3, 1, 3), (4, 2, 4)], 9),
    ],
)
def test_where_the_largest_first_wastes_room_another_order_serves(
    blocks: list[tuple[int, int, int]], bound: int
) -> None:
    """Blocks of some lines from one launch to another, in as much as no plan beats."""
    lines = [
        _Block([(str(i), size * ALIGN)], first, last)
        for i, (size, first, last) in enumerate(blocks)
    ]
    assert _place(lines) == bound * ALIGN


def test_a_graph_is_planned_at_the_kernel_stage_only() -> None:
    graph = graph_of("graph g(%x: f32[N,4]) -> (y=%x) {}")
    with pytest.raises(Exception, match="plan-memory needs a graph at the kernel"):
        stage_after(PLAN_MEMORY, of=graph)


def test_plans_are_the_same_every_time() -> None:
    first, second = (planned(STEPS["branched-sgd"]) for _ in range(2))
    assert first.arena == second.arena


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_scratch_is_counted_for_every_worker(threads: int) -> None:
    graph = planned(STEPS["strided-training"], 2, threads)
    one = buffers_of(planned(STEPS["strided-training"], 2, 1))
    for name, buffer in buffers_of(graph).items():
        if "!" in name and name in one:
            assert buffer.size % threads == 0
            assert buffer.size // threads <= one[name].size
