"""The convolution and pooling layers with what PyTorch says they mean: ``LAYERS``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_reference as reference
from compiled import State, inputs_for, parameters_for
from op_bench import weighted_sum
from torch import Tensor as Torch

from convc import layers
from convc.autodiff import add_gradients
from convc.initializers import initialize
from convc.ir.builder import GraphBuilder
from convc.ir.graph import Graph
from convc.ir.ops.base import Array
from convc.ir.verifier import verify
from convc.tracing import Tensor, trace

BATCH = 2
Weights = Mapping[str, Torch]


@dataclass(frozen=True)
class Layer:
    """A layer on ``x`` of a type; ``meaning`` has x, and weights by their last name."""

    note: str
    of: str
    net: Callable[[Tensor], Tensor]
    meaning: Callable[[Torch, Weights], Torch]

    def graph(self) -> Graph:
        """The layer, and the gradients of a weighted sum of its result."""
        traced = trace(self.net, {"x": self.of})
        b = GraphBuilder("layer", traced)
        (_, y), wanted = traced.outputs[0], [traced.inputs[0]]
        wanted += [p.value for p in traced.parameters if p.trainable]
        found = add_gradients(b, weighted_sum(b, y), wanted)
        for value, gradient in zip(wanted, found, strict=True):
            assert gradient is not None
            b.output(f"gradient/{value.name}", gradient)
        return verify(b.finish())


def data_of(graph: Graph, whole: bool = False) -> tuple[State, State]:
    """Inputs and parameters; those that are not trained as they are made."""
    drawn = parameters_for(graph, whole)
    held = {p.value.name: initialize(p, 0) for p in graph.parameters if not p.trainable}
    return inputs_for(graph, BATCH, whole), {**drawn, **held}


def in_torch(layer: Layer, inputs: State, parameters: State) -> dict[str, Array]:
    """What PyTorch gives for the outputs of the layer's graph, in float64."""
    named = {
        k: torch.tensor(a, dtype=torch.float64, requires_grad=True)
        for k, a in {"x": inputs["x"], **parameters}.items()
    }
    x = named.pop("x")
    y = layer.meaning(x, {k.split("/")[-1]: w for k, w in named.items()})
    (y * torch.tensor(inputs["weights"], dtype=torch.float64)).sum().backward()
    given = {"output": y.detach(), "gradient/x": x.grad}
    given |= {f"gradient/{k}": w.grad for k, w in named.items() if w.grad is not None}
    return {k: np.asarray(v) for k, v in given.items()}


def second(x: Torch) -> Torch:
    """Channels, the last axis, as the second."""
    return x.movedim(-1, 1)


def last(x: Torch) -> Torch:
    """Channels, the second axis, as the last."""
    return x.movedim(1, -1)


def _filters(w: Torch) -> Torch:
    """[*window, in, out] as [out, in, *window]."""
    return w.movedim((-1, -2), (0, 1))


def _deep(w: Torch) -> Torch:
    """[KH,KW,C,M] as C groups of M filters: [C·M,1,KH,KW]."""
    return w.flatten(2)[..., None].movedim((2, 3), (0, 1))


def _conv(rank: int, pads: Any, **options: Any) -> Callable[[Torch, Weights], Torch]:
    """A convolution and its bias; ``pads`` as F.pad has them, the last axis first."""
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return lambda x, w: last(
        function(
            F.pad(second(x), pads), _filters(w["kernel"]), w.get("biases"), **options
        )
    )


def _grown(pads: Any, stride: int) -> Callable[[Torch, Weights], Torch]:
    """A transposed convolution without ``pads``, rows or columns, of its result."""
    less = [-n for n in pads]

    def meaning(x: Torch, w: Weights) -> Torch:
        kernel = w["kernel"].permute(3, 2, 0, 1)
        y = last(F.pad(F.conv_transpose2d(second(x), kernel, None, stride), less))
        return y + w.get("biases", torch.zeros(()))

    return meaning


def _depthwise(x: Torch, w: Weights) -> Torch:
    y = F.pad(x, (1, 1, 1, 1))
    return F.conv2d(y, _deep(w["kernel"]), w["biases"], (2, 1), groups=3)


def _separable(x: Torch, w: Weights) -> Torch:
    y = F.conv2d(second(x), _deep(w["depthwise_kernel"]), groups=2)
    wide = _filters(w["pointwise_kernel"])
    return last(F.conv2d(y, wide, w["biases"])).relu()


EDGE = [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
EDGES = torch.tensor(EDGE, dtype=torch.float64).expand(3, 1, 3, 3)
UNEVEN = [[1, 0], [0, 2]]

CONV3D: list[Layer] = [
    Layer(
        note,
        f"f32[N,{','.join(map(str, size))},2]",
        lambda x, a=arguments: layers.conv3d(x, 3, **a),  # type: ignore[misc]
        _conv(3, pads, stride=stride, dilation=dilation),
    )
    for note, size, arguments, pads, stride, dilation in (
        (
            "conv3d_same_strided",
            (5, 4, 3),
            {"kernel_size": 3, "strides": 2, "padding": "SAME"},
            (1, 1, 0, 1, 1, 1),
            2,
            1,
        ),
        (
            "conv3d_valid",
            (3, 4, 3),
            {"kernel_size": (2, 3, 1), "strides": [1, 1, 1, 2, 1]},
            (0,) * 6,
            (1, 1, 2),
            1,
        ),
        (
            "conv3d_dilated",
            (6, 5, 4),
            {
                "kernel_size": (3, 2, 2),
                "strides": (2, 1, 1),
                "dilation_rate": (2, 3, 1),
                "padding": [[0, 1], [2, 0], [1, 1]],
                "use_bias": False,
            },
            (1, 1, 2, 0, 0, 1),
            (2, 1, 1),
            (2, 3, 1),
        ),
        (
            "conv3d_more_padding_than_kernel",
            (2, 1, 2),
            {"kernel_size": (1, 1, 2), "padding": 3},
            (3,) * 6,
            1,
            1,
        ),
        (
            "conv3d_stride_over_kernel",
            (4, 7, 3),
            {"kernel_size": (1, 2, 2), "strides": (3, 4, 1)},
            (0,) * 6,
            (3, 4, 1),
            1,
        ),
    )
]

LAYERS: list[Layer] = [
    Layer(
        "conv1d",
        "f32[N,7,4]",
        lambda x: layers.conv1d(x, 6, 3, strides=2, padding="same", groups=2),
        _conv(1, (1, 1), stride=2, groups=2),
    ),
    Layer(
        "conv1d_dilated",
        "f32[N,6,2]",
        lambda x: layers.conv1d(x, 3, 2, padding=[2, 1], dilation_rate=3),
        _conv(1, (2, 1), dilation=3),
    ),
    *CONV3D,
    Layer(
        "conv2d_transpose_same",
        "f32[N,3,2,2]",
        lambda x: layers.conv2d_transpose(x, 3, 3, strides=2, padding="same"),
        _grown((0, 1, 0, 1), 2),
    ),
    Layer(
        "conv2d_transpose_valid",
        "f32[N,2,3,2]",
        lambda x: layers.conv2d_transpose(x, 3, (3, 1), strides=2),
        _grown((0, -1, 0, 0), 2),
    ),
    Layer(
        "conv2d_transpose_padded",
        "f32[N,4,3,2]",
        lambda x: layers.conv2d_transpose(x, 3, 2, padding=UNEVEN, use_bias=False),
        _grown((0, 2, 1, 0), 1),
    ),
    Layer(
        "depthwise_nchw",
        "f32[N,3,5,4]",
        lambda x: layers.depthwise_conv2d(
            *(x, 3, [1, 1, 2, 1], "same", 2), data_format="NCHW"
        ),
        _depthwise,
    ),
    Layer(
        "separable",
        "f32[N,4,4,2]",
        lambda x: layers.separable_conv2d(
            x, 3, (3, 2), depth_multiplier=2, activation="relu"
        ),
        _separable,
    ),
    Layer(
        "conv2d_nchw",
        "f32[N,2,4,5]",
        lambda x: layers.conv2d(x, 3, 3, padding=1, data_format="NCHW"),
        lambda x, w: second(_conv(2, (1,) * 4)(last(x), w)),
    ),
    Layer(
        "depthwise_convolve_of_numbers",
        "f32[N,4,5,3]",
        lambda x: layers.depthwise_convolve(x, EDGE, padding="same"),
        lambda x, w: last(F.conv2d(second(x), EDGES, padding=1, groups=3)),
    ),
    Layer(
        "convolve_of_numbers",
        "f32[N,4,5,1]",
        lambda x: layers.convolve(x, EDGE),
        lambda x, w: last(F.conv2d(second(x), EDGES[:1])),
    ),
    Layer(
        "pad_and_transpose",
        "f32[N,2,3,1]",
        lambda x: layers.transpose(layers.pad(x, [[1, 0], [0, 2]]), [0, 2, 3, 1]),
        lambda x, w: F.pad(second(x), (0, 2, 1, 0)).permute(0, 3, 1, 2),
    ),
]


def _pool1d(function: Callable[..., Torch], *pads: int) -> Callable[..., Torch]:
    return lambda x, w: function(x[:, None], (1, 3), (1, 2), ((0, 0), pads))[:, 0]


def _each_average(padding: Any, form: str) -> Layer:
    first = form == "NCHW"

    def meaning(x: Torch, w: Weights) -> Torch:
        y = reference.avg_pool2d(last(x) if first else x, (3, 2), (2, 1), padding)
        return second(y) if first else y

    return Layer(
        f"avg_pool2d_{form}_{padding}".replace(" ", ""),
        "f32[N,3,5,4]" if first else "f32[N,5,4,3]",
        lambda x: layers.avg_pool2d(x, (3, 2), (2, 1), padding, data_format=form),
        meaning,
    )


POOLS: list[Layer] = [
    *(
        _each_average(padding, form)
        for padding in ("same", "valid", ((2, 0), (1, 1)))
        for form in ("NHWC", "NCHW")
    ),
    Layer(
        "max_pool1d",
        "f32[N,7,2]",
        lambda x: layers.max_pool1d(x, 3, 2, "same"),
        _pool1d(reference.max_pool2d, 1, 1),
    ),
    Layer(
        "avg_pool1d",
        "f32[N,6,2]",
        lambda x: layers.avg_pool1d(x, 3, 2, [2, 1]),
        _pool1d(reference.avg_pool2d, 2, 1),
    ),
    Layer(
        "max_pool3d",
        "f32[N,4,5,4,2]",
        lambda x: layers.max_pool3d(x, (2, 3, 2), 2, [[0, 0], [1, 1], [0, 0]]),
        lambda x, w: last(F.max_pool3d(second(x), (2, 3, 2), 2, (0, 1, 0))),
    ),
    Layer(
        "avg_pool3d",
        "f32[N,3,4,5,2]",
        lambda x: layers.avg_pool3d(x, (3, 2, 3), (1, 2, 1), "same"),
        lambda x, w: last(
            F.avg_pool3d(
                *(second(x), (3, 2, 3), (1, 2, 1), (1, 0, 1)),
                count_include_pad=False,
            )
        ),
    ),
    Layer(
        "global_avg_pool2d_nchw",
        "f32[N,3,4,2]",
        lambda x: layers.global_avg_pool2d(x, data_format="NCHW"),
        lambda x, w: x.mean((2, 3)),
    ),
    Layer(
        "global_max_pool2d_nchw",
        "f32[N,3,4,2]",
        lambda x: layers.global_max_pool2d(x, data_format="NCHW"),
        lambda x, w: x.amax((2, 3)),
    ),
]
