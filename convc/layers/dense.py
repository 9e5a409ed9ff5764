"""Dense layers and the product of matrices."""

from typing import Any

from convc.ir.errors import TypeRuleError
from convc.layers import arguments as args
from convc.layers.activation import Activation, activate
from convc.tracing import Tensor, layer_scope


def dense(
    inputs: Tensor,
    units: int,
    activation: Activation = None,
    use_bias: bool = True,
    kernel_initializer: Any = "glorot_uniform",
    bias_initializer: Any = "zeros",
    name: str | None = None,
    reuse: bool = False,
) -> Tensor:
    """A fully connected layer: x: f32[N,in] -> f32[N,units].

    Makes ``name/kernel`` [in,units] and ``name/biases`` [units], or shares them with
    ``reuse=True``. ModelError for arguments that do not fit, images among them.
    """
    with layer_scope("dense", name, reuse) as t:
        x = args.tensor("dense", "inputs", inputs)
        if x.rank != 2:
            remedy = "; flatten(x) first" if x.rank > 2 else ""
            raise TypeRuleError(
                f"dense: inputs must have 2 axes, has {x.rank} "
                f"(inputs: {x.type}){remedy}"
            )
        count = args.whole("dense", "units", units)
        shape = (x.type.inner[-1], count)
        y = t.emit("matmul", x, t.variable("kernel", shape, kernel_initializer))
        if use_bias:
            y = t.emit("bias_add", y, t.variable("biases", (count,), bias_initializer))
        return activate("dense", y, activation)


def matmul(a: Tensor, b: Tensor, name: str | None = None) -> Tensor:
    """The product of two matrices: f32[N,in], f32[in,out] -> f32[N,out]."""
    with layer_scope("matmul", name, absorb=True) as t:
        return t.emit(
            "matmul", args.tensor("matmul", "a", a), args.tensor("matmul", "b", b)
        )


def bias_add(inputs: Tensor, biases: Tensor, name: str | None = None) -> Tensor:
    """``inputs`` plus one number per channel: f32[…,C], f32[C] -> f32[…,C]."""
    with layer_scope("bias_add", name, absorb=True) as t:
        x = args.tensor("bias_add", "inputs", inputs)
        return t.emit("bias_add", x, args.tensor("bias_add", "biases", biases))
