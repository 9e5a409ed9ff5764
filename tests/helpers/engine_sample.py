"""A small step as an emitted Triton file, for tests of what runs such files.

It scales images by weights, which then grow by the mean, so that every batch leaves a
trace in all that follow. No emitter takes part: the kernels are written out here.
"""

from typing import Any

from pass_bench import graph_of

from convc.backends.base import Emitted, EmittedKernel
from convc.backends.cpu.backend import NumpyBackend
from convc.backends.gpu.prelude import runner
from convc.ir.graph import Graph
from convc.ir.types import TensorType
from convc.passes.manager import Context, run_passes
from convc.pipeline import LOWERING
from convc.program import Program

TEXT = """
graph sample(%image: f32[N,3], %labels: i32[N]) -> (loss=%2, correct=%3, scaled=%1) {
  param %w : f32[3] = ones()
  state %training/step : i64[] = zeros()
  %1 = multiply(%image, %w) : f32[N,3]
  %2 = reduce_mean(%1) {axes=[0,1]} : f32[]
  %3 = reduce_sum(%labels) {axes=[0]} : i32[]
  %4 = constant() {value=1.0, dtype=i64} : i64[]
  %5 = add(%training/step, %4) : i64[]
  %6 = add(%w, %2) : f32[3]
  update %w = %6
  update %training/step = %5
}
"""
BATCH = 4
SOURCE = """
import torch
import triton
import triton.language as tl


@triton.jit
def scale_even(images, image, w, y):
    index = tl.arange(0, 16)
    mask = (index < tl.load(images) * 3) & (index % 2 == 0)
    a = tl.load(image + index, mask=mask, other=0.0)
    tl.store(y + index, a * tl.load(w + index % 3), mask=mask)


@triton.jit
def scale_odd(images, image, w, y):
    index = tl.arange(0, 16)
    mask = (index < tl.load(images) * 3) & (index % 2 == 1)
    a = tl.load(image + index, mask=mask, other=0.0)
    tl.store(y + index, a * tl.load(w + index % 3), mask=mask)


@triton.jit
def mean(images, y, loss):
    n = tl.load(images) * 3
    index = tl.arange(0, 16)
    total = tl.sum(tl.load(y + index, mask=index < n, other=0.0))
    tl.store(loss, total / n)


@triton.jit
def total(images, labels, correct):
    index = tl.arange(0, 4)
    mask = index < tl.load(images)
    tl.store(correct, tl.sum(tl.load(labels + index, mask=mask, other=0)))


@triton.jit
def count(images, step):
    tl.store(step, tl.load(step) + 1)


@triton.jit
def grow(images, w, loss):
    index = tl.arange(0, 4)
    a = tl.load(w + index, mask=index < 3, other=0.0)
    tl.store(w + index, a + tl.load(loss), mask=index < 3)


BATCH = 4
LAUNCHES = [
    (scale_even, 1, ("!images", "image", "w", "1"), 4, 1),
    (scale_odd, 1, ("!images", "image", "w", "1"), 4, 1),
    (mean, 1, ("!images", "1", "2"), 4, 1),
    (total, 1, ("!images", "labels", "3"), 4, 1),
    (count, 1, ("!images", "training/step"), 4, 1),
    (grow, 1, ("!images", "w", "2"), 4, 1),
]
LAUNCHES_OF = [2, 1, 1, 1, 1]
ARENA_BYTES = TAIL + 64
PLACES = {
    "!images": ("int32", TAIL, 1),
    "image": ("float32", AT_image, 12),
    "labels": ("int32", AT_labels, 4),
    "w": ("float32", AT_w, 3),
    "training/step": ("int64", AT_training/step, 1),
    "1": ("float32", AT_1, 12),
    "2": ("float32", AT_2, 1),
    "3": ("int32", AT_3, 1),
}
ARRAYS = {
    "image": ("image", (None, 3)),
    "labels": ("labels", (None,)),
    "w": ("w", (3,)),
    "training/step": ("training/step", ()),
    "-> loss": ("2", ()),
    "-> correct": ("3", ()),
    "-> scaled": ("1", (None, 3)),
}
"""


class SampleBackend(NumpyBackend):
    """Plans as NumPy's would with the plain layout, and emits the file above."""

    def __init__(self, name: str) -> None:
        self.name = name

    def layout(self, tensor: TensorType) -> TensorType:
        return tensor

    def emit(self, graph: Graph) -> Emitted:
        assert graph.arena is not None
        source = (SOURCE + runner(SOURCE)).replace("TAIL", str(graph.arena.size))
        for buffer in graph.arena.buffers:
            source = source.replace(f"AT_{buffer.name},", f"{buffer.offset},")
        kernels = [EmittedKernel(n.name, n.name, 1, 1) for n in graph.nodes]
        return Emitted(source, tuple(kernels))


def sample(device: str | None = "interpret") -> Program:
    """A program for up to 4 images, made for the fake GPU unless it is interpreted."""
    made_for = "interpret" if device == "interpret" else "sm_86"
    backend = SampleBackend(f"triton:{made_for}")
    stages = run_passes(graph_of(TEXT), LOWERING, Context(backend, BATCH, 1), False)
    return Program(tuple(stages), backend, device)


def engine_of(program: Program) -> Any:
    """Its engine with all attributes, which the protocol does not promise."""
    return program.engine
