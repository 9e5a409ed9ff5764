"""Batch normalization (Ioffe and Szegedy, 2015, algorithm 1) and moving averages."""

from collections.abc import Sequence

import numpy as np

from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import Array, AttrSpec, Emit, Op, Types, number
from convc.ir.types import TensorType


class BatchNorm(Op):
    """gamma · (x - mean) / sqrt(variance + epsilon) + beta, all per channel.

    In training ``mean`` and ``variance`` are reductions of x, at inference moving
    averages: the op is the same.
    """

    name = "batch_norm"
    operands = ("x", "gamma", "beta", "mean", "variance")
    attrs = {"epsilon": AttrSpec("float", 1e-3, low=0)}
    exact = False
    elementwise = True

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = types[0]
        self.want_float(types)
        if x.rank < 2 or any(t.shape != x.shape[-1:] for t in types[1:]):
            channels = x.shape[-1] if x.rank else "no"
            raise self.fail(
                f"each of the last four must have {channels} elements", types
            )
        return (x,)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        x, gamma, beta, mean, variance = arrays
        epsilon = x.dtype.type(number(attrs["epsilon"]))
        return np.asarray(gamma * (x - mean) / np.sqrt(variance + epsilon) + beta)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        x, gamma, _, mean, variance = node.operands
        axes = tuple(range(x.type.rank - 1))
        epsilon = b.constant(number(node.attrs["epsilon"]), x.type)
        deviation = b("sqrt", b("add", variance, epsilon))
        normal = b("divide", b("subtract", x, mean), deviation)
        d_beta = b("reduce_sum", dy, axes=axes)
        d_gamma = b("reduce_sum", b("multiply", dy, normal), axes=axes)
        scale = b("divide", gamma, deviation)
        minus_half = b.constant(-0.5, x.type)
        slope = b("divide", scale, b("multiply", deviation, deviation))
        d_variance = b("multiply", b("multiply", d_gamma, deviation), slope)
        return [
            b("multiply", dy, scale),
            d_gamma,
            d_beta,
            b("negate", b("multiply", d_beta, scale)),
            b("multiply", d_variance, minus_half),
        ]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 2 * types[0].elements(batch) + 4 * types[1].elements(batch)


class MovingAverage(Op):
    """momentum · average + (1 - momentum) · sample."""

    name = "moving_average"
    operands = ("average", "sample")
    attrs = {"momentum": AttrSpec("float", low=0)}
    exact = False
    elementwise = True

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        self.want_float(types)
        if types[0] != types[1]:
            raise self.fail("average and sample must have one type", types)
        return (types[0],)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        average, sample = arrays
        momentum = number(attrs["momentum"])
        keep, take = average.dtype.type(momentum), average.dtype.type(1 - momentum)
        return np.asarray(average * keep + sample * take)

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 3 * types[0].elements(batch)
