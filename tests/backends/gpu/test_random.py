"""Dropout masks are NumPy's, bit for bit, and drawn in every kernel that reads one."""

import numpy as np
import pytest
from compiled import agrees, compiled, inputs_for, parameters_for
from emitted_programs import emitted
from pass_bench import graph_of

from convc.ir import philox
from convc.ir.interpreter import interpret


@pytest.mark.parametrize("step", [4, 2**32 + 5])
@pytest.mark.parametrize("shape", ["[N,3,5]", "[N,2,4]", "[N]", "[7,3]"])
def test_a_mask_has_the_bits_of_philox(shape: str, step: int) -> None:
    graph = graph_of(f"""
    graph g(%x: f32[N,3]) -> (y=%m) {{
      state %s : i64[] = zeros()
      state %t : i64[] = zeros()
      %m = dropout_mask(%s, %t) {{shape={shape}, keep=0.6, stream=5}} : bool{shape}
    }}
    """)
    program = emitted(graph, 7)
    seed = 2**40 + 9
    program.load({"s": np.int64(seed), "t": np.int64(step)})
    found = program(x=np.zeros((7, 3), np.float32))["y"]
    wanted = philox.keep_mask(seed, 5, step, found.size, 0.6).reshape(found.shape)
    assert np.array_equal(found, wanted)


MASKED = """
graph g(%x: f32[N,6], %c: f32[N,5]) -> (y=%2, d=%3) {
  param %k : f32[6,5] = zeros()   @ net.py:1 fc
  state %s : i64[] = seed()
  state %t : i64[] = zeros()
  %m = dropout_mask(%s, %t) {shape=[N,5], keep=0.5, stream=7} : bool[N,5]
  %1 = matmul(%x, %k) : f32[N,5]   @ net.py:1 fc
  %2 = apply_mask(%1, %m) {scale=2.0} : f32[N,5]   @ net.py:2 drop
  %3 = apply_mask(%c, %m) {scale=2.0} : f32[N,5]   @ net.py:3 again
  %one = constant() {value=1.0, dtype=i64} : i64[]
  %n = add(%t, %one) : i64[]
  update %t = %n
}
"""


def test_all_kernels_of_a_step_draw_the_same_mask() -> None:
    """And the next step another one."""
    graph = graph_of(MASKED)
    program = emitted(graph, 9)
    assert not any(n.op == "dropout_mask" for n in program.graph.nodes)
    program.load(parameters_for(graph))
    masks = []
    for _ in range(2):
        result, wrong = agrees(graph, inputs_for(graph, 7), program)
        assert not wrong
        masks.append(result.outputs["d"] != 0)
        assert np.array_equal(masks[-1], result.outputs["y"] != 0)
    assert not np.array_equal(*masks)


@pytest.mark.parametrize("share", [0.6, 2.0**-10, 1 - 2.0**-24, 1.0, 0.0, -1.0, 9.0])
def test_a_share_that_is_computed_keeps_as_many_as_the_oracle(share: float) -> None:
    """Bit for bit on NumPy and Triton, whatever the number."""
    graph = graph_of("""
    graph g(%x: f32[N,9], %a: f32[]) -> (y=%m, z=%z) {
      state %s : i64[] = zeros()
      state %t : i64[] = zeros()
      %k = negate(%a) : f32[]
      %m = keep_mask(%s, %t, %k) {shape=[N,9], stream=5} : bool[N,9]
      %z = apply_keep(%x, %m, %k) : f32[N,9]
    }
    """)
    inputs = {**inputs_for(graph, 7), "a": -np.float32(share)}
    want = interpret(graph, inputs, {"s": np.int64(0), "t": np.int64(0)}).outputs
    for program in (emitted(graph, 7), compiled(graph, 7)):
        found = program(**inputs)
        assert np.array_equal(found["y"], want["y"])
        assert np.array_equal(found["z"], want["z"], equal_nan=True)


SHARED = MASKED.replace("%c: f32[N,5]", "%c: f32[N,5], %keep: f32[] = 0.5")
SHARED = SHARED.replace("dropout_mask(%s, %t)", "keep_mask(%s, %t, %keep)")
SHARED = SHARED.replace(" keep=0.5, stream", " stream")
SHARED = SHARED.replace("apply_mask", "apply_keep").replace(") {scale=2.0}", ", %keep)")


def test_a_share_that_is_fed_is_read_in_every_kernel_that_draws() -> None:
    graph = graph_of(SHARED)
    program = emitted(graph, 9)
    assert not any(n.op == "keep_mask" for n in program.graph.nodes)
    program.load(parameters_for(graph))
    inputs = {**inputs_for(graph, 7), "keep": np.float32(0.75)}
    result, wrong = agrees(graph, inputs, program)
    assert not wrong
    assert np.array_equal(result.outputs["d"] != 0, result.outputs["y"] != 0)
