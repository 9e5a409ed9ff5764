"""One optimizer step for one parameter; results are the new parameter and state."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from convc.ir.graph import Attrs
from convc.ir.ops.base import Array, AttrSpec, Op, Types, number
from convc.ir.types import DType, TensorType

_SCALARS = {"lr": DType.F32, "step": DType.I64}


class _Optimizer(Op):
    """Tensors of one type, then the scalars ``lr`` (f32) and ``step`` (i64, from 0)."""

    exact = False
    work = 3

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        for name, t in zip(self.operands, types, strict=True):
            expected = TensorType(_SCALARS[name], ()) if name in _SCALARS else types[0]
            if t != expected:
                raise self.fail(f"{name} must be {expected}", types)
        self.want_float(types, 0)
        return (types[0],) * self.results

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return self.work * types[0].elements(batch)


class Sgd(_Optimizer):
    """p - lr · (g + weight_decay · p)."""

    name = "sgd"
    operands = ("p", "g", "lr")
    attrs = {"weight_decay": AttrSpec("float", 0.0, low=0)}

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        p, g, lr = arrays
        decay = p.dtype.type(number(attrs["weight_decay"]))
        return np.asarray(p - lr.astype(p.dtype) * (g + decay * p))


class Momentum(_Optimizer):
    """v' = momentum · v + g, p' = p - lr · v' (nesterov: g + momentum · v')."""

    name = "momentum"
    operands = ("p", "g", "v", "lr")
    results = 2
    work = 6
    attrs = {
        "momentum": AttrSpec("float", 0.9, low=0),
        "nesterov": AttrSpec("bool", False),
        "weight_decay": AttrSpec("float", 0.0, low=0),
    }

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Any:
        p, g, v, lr = arrays
        mu, decay = (
            p.dtype.type(number(attrs[k])) for k in ("momentum", "weight_decay")
        )
        g = g + decay * p
        v = mu * v + g
        step = g + mu * v if attrs["nesterov"] else v
        return p - lr.astype(p.dtype) * step, v


class Adam(_Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1).

    ``decoupled`` decay is AdamW's (Loshchilov and Hutter, 2019, algorithm 2), else it
    is added to the gradient.
    """

    name = "adam"
    operands = ("p", "g", "m", "v", "lr", "step")
    results = 3
    work = 13
    attrs = {
        "beta1": AttrSpec("float", 0.9, low=0),
        "beta2": AttrSpec("float", 0.999, low=0),
        "epsilon": AttrSpec("float", 1e-8, low=0),
        "weight_decay": AttrSpec("float", 0.0, low=0),
        "decoupled": AttrSpec("bool", False),
    }

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if number(attrs["beta1"]) >= 1 or number(attrs["beta2"]) >= 1:
            raise self.fail("beta1 and beta2 must be below 1", types)
        return super().infer(types, attrs)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Any:
        p, g, m, v, lr, step = arrays
        beta1, beta2, epsilon, decay = (
            number(attrs[k]) for k in ("beta1", "beta2", "epsilon", "weight_decay")
        )
        kind, t, rate = p.dtype.type, int(step) + 1, lr.astype(p.dtype)
        if attrs["decoupled"]:
            p = p - rate * kind(decay) * p
        else:
            g = g + kind(decay) * p
        m = kind(beta1) * m + kind(1 - beta1) * g
        v = kind(beta2) * v + kind(1 - beta2) * g * g
        m_hat, v_hat = m / kind(1 - beta1**t), v / kind(1 - beta2**t)
        return p - rate * m_hat / (np.sqrt(v_hat) + kind(epsilon)), m, v
