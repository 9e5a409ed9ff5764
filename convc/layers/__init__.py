"""The layers a model is written with: functions from tensors to tensors."""

from convc.layers.activation import (
    ACTIVATIONS,
    elu,
    exp,
    gelu,
    leaky_relu,
    log,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    sqrt,
    tanh,
)
from convc.layers.conv import conv2d, convolve
from convc.layers.dense import bias_add, dense, matmul
from convc.layers.pool import (
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool2d,
)
from convc.layers.regularization import batch_norm, dropout
from convc.layers.shape import add, concat, flatten, reduce_mean, reduce_sum, reshape

__all__ = [
    "ACTIVATIONS",
    "add",
    "avg_pool2d",
    "batch_norm",
    "bias_add",
    "concat",
    "conv2d",
    "convolve",
    "dense",
    "dropout",
    "elu",
    "exp",
    "flatten",
    "gelu",
    "global_avg_pool2d",
    "global_max_pool2d",
    "leaky_relu",
    "log",
    "log_softmax",
    "matmul",
    "max_pool2d",
    "reduce_mean",
    "reduce_sum",
    "relu",
    "reshape",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "sqrt",
    "tanh",
]
