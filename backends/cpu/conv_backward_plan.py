"""The parts of a convolution's backward kernel, and what a way to compute it is."""

from dataclasses import dataclass

from convc.backends.cpu.conv_algorithm import Algorithm
from convc.backends.cpu.conv_tiles import ConvTiles, conv_tiles
from convc.backends.cpu.kernel import Kernel
from convc.backends.source import Writer
from convc.ir.graph import Node, Value

PARTS = (
    "relu_grad",
    "max_pool2d_grad",
    "reduce_sum",
    "conv2d_filter_grad",
    "conv2d_input_grad",
)
"""Ops such a kernel may hold."""


@dataclass(frozen=True)
class BackwardPlan:
    """The parts of a backward kernel; ``source`` is the gradient it starts from."""

    relu: Node | None
    pool: Node | None
    bias: Node | None
    dw: Node | None
    dx: Node | None
    source: Value
    tiles: ConvTiles

    @property
    def by_rows(self) -> bool:
        """Whether each row of windows of the input gradient is one product.

        With neither stride nor dilation between rows, the rows of dz that reach an
        input row lie one after the other, so one product of depth KH·K gives it.
        """
        g = self.tiles
        plain = (g.groups, g.stride_h, g.dilation_h) == (1, 1, 1)
        return self.dx is not None and plain


def backward_plan(kernel: Kernel) -> BackwardPlan:
    """The parts of ``kernel``; CompileError where they cannot be one kernel."""
    relu, pool, bias, dw, dx = (kernel.find(op) for op in PARTS)
    if len(kernel.ops) != sum(n is not None for n in (relu, pool, bias, dw, dx)):
        raise kernel.refusal("ops other than " + ", ".join(PARTS))
    first = relu or pool or bias
    source = first.operands[-1] if first else None
    conv = dw or dx
    assert conv is not None
    gradient = conv.operands[1] if conv is dw else conv.operands[0]
    if source is None:
        source = gradient
    chain = [(n, n.operands[-1]) for n in (relu, pool) if n]
    value = source
    for node, operand in chain:
        if operand != value:
            raise kernel.refusal(f"{node.op} does not take the gradient")
        value = node.result
    ends = [n.operands[i] for n, i in ((dw, 1), (dx, 0), (bias, 0)) if n]
    if any(end != value for end in ends):
        raise kernel.refusal("the gradients do not share one source")
    if bias and bias.attrs["axes"] != (0, 1, 2):
        raise kernel.refusal("a bias gradient is a sum over images, rows and columns")
    tiles = conv_tiles(kernel, conv, pool)
    if dw and dx and tiles != conv_tiles(kernel, dx, pool):
        raise kernel.refusal("two different convolutions")
    return BackwardPlan(relu, pool, bias, dw, dx, source, tiles)


class BackwardAlgorithm(Algorithm[BackwardPlan]):
    """One way to compute the gradients; all ways share the sums over the workers.

    It leaves each worker's sums in the scratch ``dw`` and ``db``.
    """


def emit_gradients_given(w: Writer, kernel: Kernel, plan: BackwardPlan) -> None:
    """Bind dy, y and index: what the gradient dz is made from, as it is stored."""
    w(f"dy = {kernel.mem(plan.source)}")
    if plan.relu:
        w(f"y = {kernel.mem(plan.relu.operands[0])}")
    if plan.pool:
        w(f"index = {kernel.mem(plan.pool.operands[0])}")


def emit_no_sums(w: Writer, plan: BackwardPlan) -> None:
    """Begin each worker's sums with zeros."""
    sums = [n for n, p in (("dw", plan.dw), ("db", plan.bias)) if p]
    w.steps(*(f"{name}.fill(0)" for name in sums))
