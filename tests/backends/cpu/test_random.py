"""Dropout masks are the same bits however they are cut."""

from dataclasses import replace

import numpy as np
import pytest
from pass_bench import graph_of

from convc.backends import backend_named
from convc.backends.cpu.random import PIECE
from convc.ir import philox
from convc.ir.graph import Graph
from convc.passes.plan_memory import PLAN_MEMORY
from convc.pipeline import LOWERING, Step


def shared(shape: str) -> Graph:
    """The same mask for a share that is an input."""
    return graph_of(f"""
    graph g(%x: f32[N,3], %keep: f32[] = 0.6) -> (y=%m) {{
      state %s : i64[] = zeros()
      state %t : i64[] = zeros()
      %m = keep_mask(%s, %t, %keep) {{shape={shape}, stream=5}} : bool{shape}
    }}
    """)


def masks(shape: str) -> Graph:
    return graph_of(f"""
    graph g(%x: f32[N,3]) -> (y=%m) {{
      state %s : i64[] = zeros()
      state %t : i64[] = zeros()
      %m = dropout_mask(%s, %t) {{shape={shape}, keep=0.6, stream=5}} : bool{shape}
    }}
    """)


def drawn(of: Graph, piece: int, threads: int, batch: int) -> np.ndarray:
    stages = Step(of, LOWERING).stages(batch=batch, threads=threads)
    graph = next(s.graph for s in stages if s.name == "choose-schedule")
    (kernel,) = (n for n in graph.nodes if n.region)
    kernel = replace(kernel, schedule={**(kernel.schedule or {}), "piece": piece})
    graph = replace(graph, nodes=(kernel,))
    program = Step(graph, (PLAN_MEMORY,)).compile(batch=batch, threads=threads)
    program.load({"s": np.int64(9), "t": np.int64(4)})
    return program(x=np.zeros((batch, 3), np.float32))["y"]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("piece", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("shape", ["[N,3,5]", "[N,2,4]", "[N]", "[7,3]"])
def test_a_mask_is_the_same_in_any_pieces(shape: str, piece: int, threads: int) -> None:
    found = drawn(masks(shape), piece, threads, batch=7)
    wanted = philox.keep_mask(9, 5, 4, found.size, 0.6).reshape(found.shape)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("shape", ["[N,3,5]", "[7,3]"])
def test_a_share_that_is_fed_gives_the_same_mask(shape: str) -> None:
    found = drawn(shared(shape), 2, 2, batch=7)
    share = float(np.float32(0.6))
    wanted = philox.keep_mask(9, 5, 4, found.size, share).reshape(found.shape)
    assert np.array_equal(found, wanted)


def test_a_large_mask_takes_the_scratch_of_a_piece() -> None:
    """Not of all its elements, for each of which philox has 12 bytes of counters."""
    stage = Step(masks("[N,32,32,16]"), LOWERING).stages(batch=64, threads=2)[-1]
    arena = stage.graph.arena
    assert arena is not None
    scratch = next(b.size for b in arena.buffers if b.name == "m!lanes")
    assert scratch <= 2 * (12 * PIECE + 256)


def test_the_prediction_grows_with_the_mask_and_shrinks_with_the_team() -> None:
    def seconds(shape: str, threads: int) -> float:
        graph = Step(masks(shape), LOWERING[:-1]).stages(batch=64, threads=threads)[-1]
        (kernel,) = (n for n in graph.graph.nodes if n.region)
        best = backend_named("numpy").candidates(kernel, 64, threads)[0]
        return best.cost.seconds

    small, large = seconds("[N,1024]", 1), seconds("[N,8192]", 1)
    assert 6 < large / small < 10
    assert 1.5 < large / seconds("[N,8192]", 2) < 2.5
