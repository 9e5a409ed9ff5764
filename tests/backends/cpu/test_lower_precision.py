"""The NumPy backend says no to 16 bits and tf32, whatever kernel they are in."""

import re

import pytest
from pass_bench import graph_of

from convc.backends import backend_named
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel
from convc.backends.cpu.table import EMITTERS
from convc.ir.errors import CompileError
from convc.model import Model
from convc.networks import NETWORKS
from convc.passes.lower import FORM_KERNELS
from convc.passes.manager import Context, run_passes
from convc.pipeline import LOWERING, Step

ONE_OP = {
    "conv2d": ("%x: f32[N,4,4,1], %w: f32[3,3,1,2]", "%x, %w", "f32[N,2,2,2]"),
    "conv2d_filter_grad": (
        *("%x: f32[N,4,4,1], %w: f32[N,2,2,2]", "%x, %w) {kernel=[3,3]}"),
        "f32[3,3,1,2]",
    ),
    "matmul": ("%x: f32[N,3], %w: f32[3,2]", "%x, %w", "f32[N,2]"),
    "max_pool2d": (
        *("%x: f32[N,4,4,1]", "%x) {window=[2,2], strides=[2,2]}"),
        "f32[N,2,2,1]",
    ),
    "reduce_sum": ("%x: f32[N,3]", "%x) {axes=[0]}", "f32[3]"),
    "softmax": ("%x: f32[N,3]", "%x", "f32[N,3]"),
    "softmax_cross_entropy": ("%x: f32[N,3], %l: i32[N]", "%x, %l", "f32[N]"),
    "apply_mask": ("%x: f32[N,3], %m: bool[N,3]", "%x, %m) {scale=2.0}", "f32[N,3]"),
    "transpose": ("%x: f32[N,3,2]", "%x) {perm=[0,2,1]}", "f32[N,2,3]"),
    "constant": ("", ") {value=2.0}", "f32[]"),
    "relu": ("%x: f32[N,3]", "%x", "f32[N,3]"),
}


def one_op(op: str, dtype: str, attrs: str = "") -> str:
    inputs, operands, result = ONE_OP[op]
    call = operands if ")" in operands else f"{operands})"
    if op == "constant":
        call = f") {{value=2.0, dtype={dtype}}}"
    if attrs:
        call = f"{call[:-1]}, {attrs}}}" if "{" in call else f"{call} {{{attrs}}}"
    text = f"graph g({inputs}) -> (y=%y) {{\n  %y = {op}({call} : {result}"
    return f"{text}   @ net.py:7 here\n}}".replace("f32", dtype)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("op", ONE_OP)
def test_16_bits_are_refused(op: str, dtype: str) -> None:
    """The error names the kernel, the user's line, the op, the types, the remedy."""
    graph = graph_of(one_op(op, dtype))
    with pytest.raises(CompileError) as error:
        Step(graph, LOWERING).compile(batch=2, threads=1)
    said = str(error.value)
    assert re.search(
        rf"kernel \w+ at net\.py:7 here: the numpy backend .* {op}\(", said
    )
    assert f" to {dtype}[" in said
    assert said.endswith("ask for precision fp32, or for the triton backend")


@pytest.mark.parametrize("op", ["conv2d", "conv2d_filter_grad", "matmul"])
def test_products_in_tf32_are_refused(op: str) -> None:
    text = one_op(op, "f32", "precision=tf32")
    with pytest.raises(CompileError, match=rf"not {op}\(f32.*\) in tf32; ask for prec"):
        Step(graph_of(text), LOWERING).compile(batch=2, threads=1)
    plain = one_op(op, "f32", "precision=ieee")
    assert Step(graph_of(plain), LOWERING).compile(batch=2, threads=1).source


def test_every_emitter_that_takes_floats_is_among_these() -> None:
    """Those of which no kernel is tried are for optimizers and parameters in f32."""
    found: set[type[Emitter]] = set()
    for op in ONE_OP:
        context = Context(backend_named("numpy"), 2, 1)
        graph = graph_of(one_op(op, "f32"))
        (kernel,) = run_passes(graph, [FORM_KERNELS], context)[-1].graph.nodes
        found.add(type(next(e for e in EMITTERS if e.matches(Kernel(kernel, 1)))))
    names = {type(e).__name__ for e in EMITTERS if type(e) not in found}
    assert names == {"Optimizer", "Dropout", "Weights"}


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("step", ["training_step", "evaluation_step", "inference"])
def test_no_program_of_a_network_is_compiled_in_less(step: str, precision: str) -> None:
    model = Model(NETWORKS["strided"], precision=precision)
    with pytest.raises(CompileError, match="the numpy backend computes in f32 and f64"):
        getattr(model, step)().compile(batch=2, threads=1)
