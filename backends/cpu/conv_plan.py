"""The parts of a forward convolution kernel, in the order in which they apply."""

from dataclasses import dataclass

from convc.backends.base import ACTIVATIONS
from convc.backends.cpu.conv_tiles import ConvTiles, conv_tiles
from convc.backends.cpu.kernel import Kernel
from convc.ir.graph import Node, Value

EPILOGUE = ("bias_add", "max_pool2d", "max_pool2d_argmax", "add")
"""Ops that may follow a convolution in its kernel, in this order, and an activation."""


@dataclass(frozen=True)
class ConvPlan:
    """conv2d [+ bias_add] [+ max_pool2d [+ argmax]] [+ add] [+ activation].

    With its geometry; ``other`` is what a residual add adds.
    """

    conv: Node
    bias: Node | None
    pool: Node | None
    argmax: Node | None
    add: Node | None
    activation: Node | None
    other: Value | None
    tiles: ConvTiles

    @property
    def last(self) -> Value:
        """The value the epilogue ends with."""
        node = self.activation or self.add or self.pool or self.bias or self.conv
        return node.result


def conv_plan(kernel: Kernel) -> ConvPlan:
    """The parts of ``kernel``; CompileError where they cannot be one kernel."""
    found = {op: kernel.find(op) for op in ("conv2d", *EPILOGUE)}
    conv, bias, pool, argmax, add = found.values()
    assert conv is not None
    activation = next((n for n in kernel.ops if n.op in ACTIVATIONS), None)
    chain = [n for n in (*found.values(), activation) if n is not None]
    if len(chain) != len(kernel.ops):
        raise kernel.refusal("only bias, max-pool, add and an activation may follow")
    value, other = conv.result, None
    for node in chain[1:]:
        read = node.operands if node is add else node.operands[:1]
        if read.count(value) != 1:
            raise kernel.refusal(f"{node.op} does not follow the op before it")
        if node is add:
            other = _residual(kernel, node, value)
        if node is argmax and pool:  # both read what is pooled; the maximum goes on
            value = pool.result
        elif not (node is pool and argmax):
            value = node.result
    if argmax and not pool:
        raise kernel.refusal("an argmax stands without its max-pool")
    tiles = conv_tiles(kernel, conv, pool)
    return ConvPlan(conv, bias, pool, argmax, add, activation, other, tiles)


def _residual(kernel: Kernel, add: Node, value: Value) -> Value:
    """The operand of ``add`` beside ``value``, which must be read as it is stored."""
    other = add.operands[1 - add.operands.index(value)]
    if other not in kernel.region.inputs or other.type != add.result.type:
        raise kernel.refusal("what is added is not stored as the result is")
    return other
