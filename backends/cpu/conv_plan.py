"""The parts of a forward convolution kernel, in the order in which they apply."""

from dataclasses import dataclass

from convc.backends.cpu.conv_tiles import ConvTiles, conv_tiles
from convc.backends.cpu.kernel import Kernel
from convc.ir.graph import Node, Value
from convc.ir.ops.base import ints

EPILOGUE = ("bias_add", "max_pool2d", "max_pool2d_argmax", "relu")
"""Ops that may follow a convolution in its kernel, in this order."""


@dataclass(frozen=True)
class ConvPlan:
    """conv2d [+ bias_add] [+ max_pool2d [+ argmax]] [+ relu], and its geometry."""

    conv: Node
    bias: Node | None
    pool: Node | None
    argmax: Node | None
    relu: Node | None
    tiles: ConvTiles

    @property
    def last(self) -> Value:
        """The value the epilogue ends with."""
        node = self.relu or self.pool or self.bias or self.conv
        return node.result


def conv_plan(kernel: Kernel) -> ConvPlan:
    """The parts of ``kernel``; CompileError where they cannot be one kernel."""
    found = {op: kernel.find(op) for op in ("conv2d", *EPILOGUE)}
    conv, bias, pool, argmax, relu = found.values()
    assert conv is not None
    chain = [n for n in found.values() if n is not None]
    if len(chain) != len(kernel.ops):
        raise kernel.refusal("only bias, max-pool and relu may follow")
    value = conv.result
    for node in chain[1:]:
        if node.operands[0] != value:
            raise kernel.refusal(f"{node.op} does not follow the op before it")
        if node is argmax and pool:  # both read what is pooled; the maximum goes on
            value = pool.result
        elif not (node is pool and argmax):
            value = node.result
    if argmax and not pool:
        raise kernel.refusal("an argmax stands without its max-pool")
    if pool and ints(pool.attrs["window"]) != ints(pool.attrs["strides"]):
        raise kernel.refusal("windows of the pool overlap")
    return ConvPlan(conv, bias, pool, argmax, relu, conv_tiles(kernel, conv, pool))
