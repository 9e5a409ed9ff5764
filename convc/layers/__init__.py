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
from convc.layers.conv_ranks import conv1d, conv3d
from convc.layers.conv_transpose import conv2d_transpose
from convc.layers.dense import bias_add, dense, matmul
from convc.layers.depthwise import (
    depthwise_conv2d,
    depthwise_convolve,
    separable_conv2d,
)
from convc.layers.pool import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from convc.layers.regularization import batch_norm, dropout
from convc.layers.shape import (
    add,
    concat,
    flatten,
    pad,
    reduce_mean,
    reduce_sum,
    reshape,
    transpose,
)

__all__ = [
    "ACTIVATIONS",
    "add",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "bias_add",
    "concat",
    "conv1d",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "convolve",
    "dense",
    "depthwise_conv2d",
    "depthwise_convolve",
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
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "pad",
    "reduce_mean",
    "reduce_sum",
    "relu",
    "reshape",
    "separable_conv2d",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "sqrt",
    "tanh",
    "transpose",
]
