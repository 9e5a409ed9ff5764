"""Sums in parts, each by a program of its own, added in order by a second launch."""

from collections.abc import Callable

import numpy as np
import pytest
from compiled import faults, inputs_for, ran
from emitted_programs import DEVICE, emitted
from op_bench import tensor
from schedules import holds, scheduled

from convc.backends import backend_named
from convc.ir.builder import GraphBuilder
from convc.ir.graph import Attrs, Graph
from convc.ir.rounding import bounded
from convc.pipeline import LOWERING, Step

BATCH = 9


def filter_gradient(b: GraphBuilder) -> None:
    x = b.input("x", tensor("f32[N,6,7,4]"))
    dy = b.input("dy", tensor("f32[N,6,7,8]"))
    dw = b("conv2d_filter_grad", x, dy, kernel=(3, 3), padding="same")
    b.output("y", b("negate", dw))


def product(b: GraphBuilder) -> None:
    x, dy = b.input("x", tensor("f32[N,20]")), b.input("dy", tensor("f32[N,18]"))
    b.output("y", b("matmul", x, dy, transpose_a=True))


def total(b: GraphBuilder) -> None:
    b.output("y", b("reduce_sum", b.input("x", tensor("f32[N,6,7,4]")), axes=(0, 1, 2)))


def mean(b: GraphBuilder) -> None:
    x = b.input("x", tensor("f32[N,6,7,4]"))
    b.output("y", b("reduce_mean", x, axes=(0, 2)))


def everything(b: GraphBuilder) -> None:
    b.output("y", b("reduce_sum", b.input("x", tensor("f32[N,5]")), axes=(0, 1)))


SUMS: dict[str, Callable[[GraphBuilder], None]] = {
    "conv2d_filter_grad": filter_gradient,
    "matmul": product,
    "reduce_sum": total,
    "reduce_mean": mean,
    "reduce_sum of all": everything,
}


def graph_for(name: str) -> Graph:
    b = GraphBuilder("sum")
    SUMS[name](b)
    return b.finish()


def in_parts(graph: Graph, op: str, parts: int) -> Attrs:
    """The best schedule with small tiles, so that every part has several steps."""
    backend = backend_named("triton:sm_90")
    stages = Step(graph, LOWERING).stages(backend.name, BATCH)
    lowered = next(s.graph for s in stages if s.name == "choose-layout")
    kernel = next(n for n in lowered.nodes if holds(n, op))
    best = dict(backend.candidates(kernel, BATCH, 1)[0].schedule)
    for key, value in best.items():
        if key.startswith("tile_"):
            assert isinstance(value, tuple)
            best[key] = (16, 16, 16) if len(value) == 3 else (4, value[1])
        if key.startswith("split_"):
            best[key] = parts
    return best


@pytest.mark.parametrize("parts", [2, 3, 17])
@pytest.mark.parametrize("name", SUMS)
def test_the_parts_make_the_sum(name: str, parts: int) -> None:
    """On all and on few images, so that some parts have nothing to add."""
    graph, op = graph_for(name), name.split(maxsplit=1)[0]
    passes = scheduled(op, in_parts(graph, op, parts))
    program = emitted(graph, BATCH, "sm_90", passes)
    for n, whole in ((BATCH, True), (BATCH, False), (2, True)):
        feeds = inputs_for(graph, n, whole)
        assert not faults(graph, bounded(graph, feeds, {}), ran(program, feeds))
    if not DEVICE:
        assert program.interpreted.module.LAUNCHES_OF[0] == 2


def test_the_same_bits_run_after_run() -> None:
    graph = graph_for("conv2d_filter_grad")
    passes = scheduled("conv2d_filter_grad", in_parts(graph, "conv2d_filter_grad", 4))
    program = emitted(graph, BATCH, "sm_90", passes)
    feeds = inputs_for(graph, BATCH)
    first = program(**feeds)["y"]
    assert all(np.array_equal(program(**feeds)["y"], first) for _ in range(3))
