"""A kernel that no emitter can write is refused, with its ops, types, line and rule.

No pass makes such kernels; a stage that was edited by hand may hold them.
"""

import pytest
from pass_bench import stage_after

from convc.ir.errors import CompileError
from convc.passes.layout import CHOOSE_LAYOUT
from convc.passes.schedule import CHOOSE_SCHEDULE

FORWARD = """
graph g(%x: f32[N,6,6,2], %z: f32[N,6,6,2], %v: f32[2]) -> (y=%y) stage kernel {
  param %k : f32[3,3,2,2] = zeros()
  %y = kernel odd(%x, %k, %z, %v) : f32[N,6,6,2] {
    %a = conv2d(%0, %1) {padding=same} : f32[N,6,6,2]
    BODY
    yield %b
  }   @ net.py:3 conv1
}
"""
POOL = "{window=[2,2], strides=[2,2]}"
BACKWARD = """
graph g(%x: f32[N,6,6,2], %d: f32[N,6,6,2], %e: f32[N,6,6,2], %i: u8[N,3,3,2])
    -> (y=%y, z=%z) stage kernel {
  param %k : f32[1,1,2,2] = zeros()
  %y, %z = kernel odd(%x, %d, %k, %e, %i) : f32[3,3,2,2], TYPE {
    BODY
    yield %a, %b
  }   @ net.py:3 conv1
}
"""
FILTERS = "%a = conv2d_filter_grad(%0, %1) {padding=same, kernel=[3,3]} : f32[3,3,2,2]"
DENSE = """
graph g(%x: f32[N,3]) -> (y=%y) stage kernel {
  param %k : f32[3,2] = zeros()
  %y = kernel odd(%x, %k) : f32[N,2] {
    %a = matmul(%0, %1) : f32[N,2]
    %b = exp(%a) : f32[N,2]
    yield %b
  }   @ net.py:3 fc
}
"""
TWO = """
graph g(%x: f32[N,3]) -> (y=%y) stage kernel {
  %y = kernel odd(%x) : f32[N,3] {
    %a = exp(%0) : f32[N,3]
    %b = log(%a) : f32[N,3]
    yield %b
  }   @ net.py:3 both
}
"""
UPDATES = """
graph g(%rate: f32[]) -> (y=%rate) stage kernel {
  param %p : f32[2] = zeros()
  param %q : f32[2] = zeros()
  %1, %2 = kernel odd(%p, %q, %rate) : f32[2], f32[2] {
    %a = sgd(%0, %1, %2) : f32[2]
    %b = sgd(%1, %0, %2) {weight_decay=0.5} : f32[2]
    yield %a, %b
  }   @ net.py:3 step
  update %p = %1
  update %q = %2
}
"""


def forward(*body: str) -> str:
    """A convolution and what follows it; the size is that of what comes out."""
    text = FORWARD.replace("BODY", "\n    ".join(body))
    if "pool" in body[-1]:
        size = body[-1].rpartition(" : ")[2]
        text = text.replace(") : f32[N,6,6,2] {", f") : {size} {{")
    return text


def backward(*body: str) -> str:
    """The gradient of a filter and another result."""
    size = body[-1].rpartition(" : ")[2]
    return BACKWARD.replace("BODY", "\n    ".join(body)).replace("TYPE", size)


SAME = " : f32[N,6,6,2]"
REFUSED = {
    "exp behind a convolution": (
        forward(f"%b = exp(%a){SAME}"),
        "only bias, max-pool, add and an activation may follow",
    ),
    "a bias of something else": (
        forward(f"%c = bias_add(%2, %3){SAME}", f"%b = relu(%a){SAME}"),
        "bias_add does not follow the op before it",
    ),
    "a sum with a vector": (
        forward(f"%b = add(%a, %3){SAME}"),
        "what is added is not stored as the result is",
    ),
    "an index without its pool": (
        forward(f"%b = max_pool2d_argmax(%a) {POOL} : u8[N,3,3,2]"),
        "an argmax stands without its max-pool",
    ),
    "windows that overlap": (
        forward(
            "%b = max_pool2d(%a) {window=[2,2], strides=[1,1]} : f32[N,5,5,2]",
        ),
        "windows of the pool overlap or leave gaps",
    ),
    "windows that begin in the padding": (
        forward(
            "%b = max_pool2d(%a) {window=[2,2], strides=[2,2], padding=[[1,0],[0,0]]}"
            " : f32[N,3,3,2]",
        ),
        "windows of the pool reach into its padding",
    ),
    "exp before a gradient": (
        backward(FILTERS, f"%b = exp(%3){SAME}"),
        "ops other than relu_grad, max_pool2d_grad, reduce_sum, ",
    ),
    "a pool's gradient that goes elsewhere": (
        backward(
            f"%p = relu_grad(%3, %1){SAME}",
            FILTERS,
            "%b = reduce_sum(%p) {axes=[0,1,2]} : f32[2]",
        ),
        "the gradients do not share one source",
    ),
    "a sum over images only": (
        backward(FILTERS, "%b = reduce_sum(%1) {axes=[0]} : f32[6,6,2]"),
        "a bias gradient is a sum over images, rows and columns",
    ),
    "two sizes of filters": (
        backward(FILTERS, f"%b = conv2d_input_grad(%1, %2) {{size=[6,6]}}{SAME}"),
        "two different convolutions",
    ),
    "an undone pool that overlaps": (
        backward(
            "%p = max_pool2d_grad(%4, %5) "
            "{window=[2,2], strides=[2,2], padding=[[1,0],[0,0]], size=[6,6]}"
            f"{SAME}",
            FILTERS.replace("%1", "%p"),
            "%b = reduce_sum(%p) {axes=[0,1,2]} : f32[2]",
        )
        .replace("%i: u8[N,3,3,2]", "%i: u8[N,3,3,2], %s: f32[N,3,3,2]")
        .replace("%e, %i)", "%e, %i, %s)"),
        "windows of the pool reach into its padding",
    ),
    "exp behind a product": (DENSE, "only bias_add, relu, "),
    "two ops that no kernel joins": (TWO, "no emitter takes them"),
    "log behind a softmax": (
        TWO.replace("exp(%0)", "softmax(%0)"),
        "they are not fused here",
    ),
    "updates of two kinds": (UPDATES, "the updates differ in kind or attributes"),
    "updates in float64": (
        UPDATES.replace("f32[2]", "f64[2]").replace(" {weight_decay=0.5}", ""),
        "only f32 parameters are updated",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_kernel_that_cannot_be_written_is_refused(what: str) -> None:
    text, reason = REFUSED[what]
    with pytest.raises(CompileError) as caught:
        stage_after(CHOOSE_LAYOUT, CHOOSE_SCHEDULE, of=text)
    message = str(caught.value)
    assert "kernel odd at net.py:3 " in message
    assert "the numpy backend cannot run " in message
    assert f"as one kernel: {reason}" in message
    assert message.endswith("; split the kernel")


def test_a_convolution_in_float64_is_refused() -> None:
    text = forward(f"%b = relu(%a){SAME}").replace("f32", "f64")
    with pytest.raises(CompileError) as caught:
        stage_after(CHOOSE_LAYOUT, CHOOSE_SCHEDULE, of=text)
    assert (
        "conv2d at net.py:3 conv1: the numpy backend convolves f32, this is "
        "f64[N,6,6,2]; cast to f32"
    ) in str(caught.value)
