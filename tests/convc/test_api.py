"""The public names: which there are, and that they cost nothing until they are used."""

import importlib
import subprocess
import sys

import pytest

import convc
from convc import api

PUBLIC = [
    "Adam",
    "AdamW",
    "CompileError",
    "Constant",
    "ConvcError",
    "CosineDecay",
    "Dataset",
    "ExponentialDecay",
    "IRSyntaxError",
    "Model",
    "ModelError",
    "Momentum",
    "NETWORKS",
    "PiecewiseConstant",
    "Program",
    "RunError",
    "SGD",
    "Shifts",
    "Step",
    "Tensor",
    "TypeRuleError",
    "VerifyError",
    "Warmup",
    "add",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "bias_add",
    "concat",
    "constant",
    "conv1d",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "convolve",
    "correct",
    "crop2d",
    "dense",
    "depthwise_conv2d",
    "depthwise_convolve",
    "dropout",
    "Fed",
    "fed",
    "elu",
    "exp",
    "flatten",
    "gelu",
    "get_variable",
    "global_avg_pool2d",
    "global_max_pool2d",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "leaky_relu",
    "load_cifar10",
    "load_mnist",
    "load_network",
    "log",
    "log_softmax",
    "matmul",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "normal",
    "ones",
    "pad",
    "recipe",
    "reduce_mean",
    "reduce_sum",
    "relu",
    "reshape",
    "separable_conv2d",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "sqrt",
    "takes",
    "tanh",
    "trace",
    "transpose",
    "truncated_normal",
    "variable_scope",
    "zeros",
]


def test_the_public_names_are_exactly_these() -> None:
    """A name is added or dropped on purpose, here too."""
    assert sorted(api.__all__) == sorted(PUBLIC)


def test_every_public_name_is_reached_through_the_package() -> None:
    """``convc.conv2d`` is ``convc.api.conv2d``, and so for all."""
    for name in PUBLIC:
        assert getattr(convc, name) is getattr(api, name)
        assert name in dir(convc)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """As for any module, and a module of the package is not taken for a name."""
    with pytest.raises(AttributeError, match="no attribute 'conv7d'"):
        _ = convc.conv7d
    assert importlib.import_module("convc.tracing").Tensor is convc.Tensor


def test_modules_and_names_import_in_any_order() -> None:
    """No order of first imports runs into a circle."""
    for first in ("from convc import initializers", "import convc.layers.dense"):
        code = f"{first}; import convc; convc.dense; convc.Model"
        subprocess.run([sys.executable, "-c", code], check=True)
