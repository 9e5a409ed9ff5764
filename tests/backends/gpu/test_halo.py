"""Convolutions over a border of zeros: right on every geometry, and read in boxes."""

from typing import Any

import numpy as np
import pytest
from compiled import faults, inputs_for, parameters_for, ran
from emitted_programs import DEVICE, emitted
from op_bench import tensor
from schedules import holds, scheduled

from convc.backends import backend_named
from convc.backends.gpu.compiling import compile_source
from convc.backends.gpu.resources import resources_of
from convc.ir.builder import GraphBuilder
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Graph
from convc.ir.rounding import bounded
from convc.pipeline import LOWERING, Step

BATCH = 5
GEOMETRY: dict[str, dict[str, Any]] = {
    "same": {"padding": "same"},
    "valid": {},
    "one_sided": {"padding": ((2, 0), (0, 1))},
    "dilated": {"padding": ((2, 1), (0, 2)), "dilations": (1, 2)},
}


def layer(op: str, geometry: dict[str, Any], kind: str = "f32") -> Graph:
    """A convolution with bias and ReLU, or the input gradient of one."""
    precision = {"precision": "tf32"} if kind == "f32" else {}
    b = GraphBuilder("layer")
    w = b.parameter("w", tensor(f"{kind}[3,2,16,32]"))
    if op == "conv2d":
        x = b.input("x", tensor(f"{kind}[N,7,9,16]"))
        y = b("conv2d", x, w, **precision, **geometry)
        y = b("relu", b("bias_add", y, b.parameter("b", tensor(f"{kind}[32]"))))
    else:
        forward = layer("conv2d", geometry, kind)
        dy = b.input("dy", dict(forward.outputs)["y"].type)
        y = b(op, dy, w, size=(7, 9), **precision, **geometry)
    b.output("y", y)
    return b.finish()


def over_halo(graph: Graph, op: str, target: str) -> Attrs:
    """The best schedule with a border of zeros."""
    backend = backend_named(f"triton:{target}")
    stages = Step(graph, LOWERING).stages(backend.name, BATCH)
    lowered = next(s.graph for s in stages if s.name == "choose-layout")
    kernel = next(n for n in lowered.nodes if holds(n, op))
    found = backend.candidates(kernel, BATCH, 1)
    return next(c.schedule for c in found if "halo" in c.schedule.values())


@pytest.mark.parametrize("op", ["conv2d", "conv2d_input_grad"])
@pytest.mark.parametrize("note", GEOMETRY)
def test_it_agrees_with_the_oracle(note: str, op: str) -> None:
    """On all and on fewer images, whose border nobody has zeroed before."""
    graph = layer(op, GEOMETRY[note])
    for target in ("interpret", "sm_90"):
        passes = scheduled(op, over_halo(graph, op, target))
        program = emitted(graph, BATCH, target, passes)
        for n, whole in ((BATCH, True), (BATCH - 2, False)):
            feeds, given = inputs_for(graph, n, whole), parameters_for(graph, whole)
            program.load(given)
            result = ran(program, feeds)
            assert not faults(graph, bounded(graph, feeds, given), result)
        if not DEVICE:
            names = [t.kernel for t in program.traffic]
            copied = [True] * ((note, op) != ("valid", "conv2d"))
            assert [name.endswith("_halo") for name in names] == [*copied, False]


@pytest.mark.parametrize("op", ["conv2d", "conv2d_input_grad"])
def test_without_padding_the_image_is_read_where_it_lies(op: str) -> None:
    """One launch, and no memory of its own."""
    b = GraphBuilder("layer")
    w = b.parameter("w", tensor("f32[1,1,16,32]"))
    channels, more = (16, {}) if op == "conv2d" else (32, {"size": (5, 6)})
    x = b.input("x", tensor(f"f32[N,5,6,{channels}]"))
    b.output("y", b(op, x, w, precision="tf32", **more))
    graph = b.finish()
    program = emitted(
        graph, BATCH, passes=scheduled(op, over_halo(graph, op, "interpret"))
    )
    for n in (BATCH, BATCH - 2):
        feeds, given = inputs_for(graph, n, True), parameters_for(graph, True)
        program.load(given)
        result = ran(program, feeds)
        assert not faults(graph, bounded(graph, feeds, given), result)
    assert "make_tensor_descriptor" in program.source
    assert sum(n.region is not None for n in program.graph.nodes) == 1
    assert not any("!" in b.name for b in program.graph.arena.buffers)


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_boxes_are_copied_in_bulk_for_tensor_cores(kind: str) -> None:
    graph = layer("conv2d", GEOMETRY["same"], kind)
    passes = scheduled("conv2d", over_halo(graph, "conv2d", "sm_90"))
    planned = Step(graph, passes).stages("triton:sm_90", BATCH)[-1].graph
    source = backend_named("triton:sm_90").emit(planned).source
    copy, product = resources_of(compile_source(source, "sm_90"))
    assert product.bulk > 0
    assert product.tensor > 0
    assert not copy.bulk
    assert not product.spills


def test_a_border_for_fewer_images_is_refused() -> None:
    graph = layer("conv2d", GEOMETRY["same"])
    schedule = over_halo(graph, "conv2d", "sm_90")
    passes = scheduled("conv2d", schedule)
    with pytest.raises(CompileError, match="for 5 images, the program for 6"):
        Step(graph, passes).stages("triton:sm_90", BATCH + 1)


@pytest.mark.parametrize(
    "change", [{"strides": (2, 2)}, {"groups": 2}], ids=["strides", "groups"]
)
def test_what_has_no_such_rows_keeps_to_pointers(change: dict[str, Any]) -> None:
    b = GraphBuilder("layer")
    x = b.input("x", tensor("f32[N,8,8,32]"))
    w = b.parameter("w", tensor(f"f32[3,3,{32 // change.get('groups', 1)},32]"))
    b.output("y", b("conv2d", x, w, precision="tf32", padding="same", **change))
    graph = b.finish()
    with pytest.raises(StopIteration):
        over_halo(graph, "conv2d", "sm_90")
    schedule = {
        **over_halo(layer("conv2d", GEOMETRY["same"]), "conv2d", "sm_90"),
        "tile_a": (64, 32, 32),
    }
    with pytest.raises(CompileError, match="schedule"):
        Step(graph, scheduled("conv2d", schedule)).stages("triton:sm_90", BATCH)


def test_stale_numbers_in_the_border_are_overwritten() -> None:
    """Twice the same step, with the memory spoilt between them."""
    graph = layer("conv2d", GEOMETRY["same"])
    schedule = over_halo(graph, "conv2d", "interpret")
    program = emitted(graph, BATCH, passes=scheduled("conv2d", schedule))
    feeds, given = inputs_for(graph, BATCH, True), parameters_for(graph, True)
    program.load(given)
    first = program(**feeds)["y"]
    assert np.array_equal(program(**feeds)["y"], first)
