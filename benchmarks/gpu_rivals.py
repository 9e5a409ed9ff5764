"""The same network in PyTorch, as fast as PyTorch runs it.

A traced graph becomes a module of torch.fx: images [n,c,h,w] in the memory format
channels_last, which is that of NHWC, biases given to the convolution or the product.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import fx

from convc.engines.device import Call, Device
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.window import resolve

MODES = ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""What torch.compile is asked for; the first two make CUDA graphs themselves."""
RIVALS: Mapping[str, tuple[str, bool]] = {
    "torch eager": ("", False),
    "torch eager, one graph": ("", True),
    "torch.compile reduce-overhead": (MODES[0], False),
    "torch.compile max-autotune": (MODES[1], False),
    "torch.compile, one graph": (MODES[2], True),
}
"""For each rival its mode, and whether all of its step is captured in a CUDA graph."""
COMPILED = tuple(name for name, (mode, _) in RIVALS.items() if mode)
SKIPPED = ("dropout_mask", "reduce_variance", "moving_average")
"""Ops that PyTorch has inside of others."""


class RivalError(Exception):
    """A network that is not written in PyTorch here."""


def torch_network(graph: Graph, state: Mapping[str, np.ndarray]) -> fx.GraphModule:
    """The module of a traced graph with one output, and its parameters from ``state``.

    It takes an image as convc does, [n,h,w,c] or flat. RivalError for an op that is
    not known.
    """
    return _Writer(graph, state).module


class _Writer:
    """Writes a graph down again, node by node; images as [n,c,h,w]."""

    def __init__(self, graph: Graph, state: Mapping[str, np.ndarray]) -> None:
        self._graph, self._state, self._users = graph, state, graph.users()
        self._root, self._fx = torch.nn.Module(), fx.Graph()
        (image,) = graph.inputs
        x = self._fx.placeholder("image")
        self._now: dict[str, Any] = {image.name: self._stored(x, image)}
        for node in graph.nodes:
            if node.op in SKIPPED or self._is_statistic(node):
                continue
            make = getattr(self, f"_{node.op}", None)
            if make is None:
                raise RivalError(f"{node.op} is not written in PyTorch here")
            self._now[node.name] = make(node)
        ((_, output),) = graph.outputs
        self._fx.output(self._now[output.name])
        self.module = fx.GraphModule(self._root, self._fx)

    def _of(self, value: Value) -> Any:
        """A value of the graph; a parameter is registered when it is first used."""
        if value.name not in self._now:
            name, tensor = f"p{len(self._now)}", self._tensor(value)
            if tensor.dim() == 4:  # [h,w,in,out] to [out,in,h,w]
                tensor = tensor.permute(3, 2, 0, 1)
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            elif tensor.dim() == 2:  # [in,out] to [out,in]
                tensor = tensor.t().contiguous()
            self._root.register_parameter(name, torch.nn.Parameter(tensor))
            self._now[value.name] = self._fx.get_attr(name)
        return self._now[value.name]

    def _tensor(self, value: Value) -> torch.Tensor:
        array = np.broadcast_to(self._state[value.name], value.type.bind(1))
        return torch.tensor(array.copy())

    def _stored(self, x: Any, value: Value) -> Any:
        """``x`` with the axes of the graph, as it is stored here."""
        four = len(value.type.shape) == 4
        return self._method("permute", x, 0, 3, 1, 2) if four else x

    def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return self._fx.call_function(function, args, options)

    def _method(self, name: str, *args: Any) -> Any:
        return self._fx.call_method(name, args)

    def _module(self, module: torch.nn.Module, x: Any) -> Any:
        name = f"m{len(self._now)}"
        self._root.add_module(name, module)
        return self._fx.call_module(name, (x,))

    def _is_statistic(self, node: Node) -> bool:
        """Whether a mean is one of a batch normalization."""
        users = self._users[node.name]
        return node.op == "reduce_mean" and any(u.op == "batch_norm" for u in users)

    # -- ops, each as PyTorch's users write it

    def _conv2d(self, node: Node) -> Any:
        x, w = map(self._of, node.operands)
        pads, symmetric = self._pads(node, node.operands[1].type.inner[:2])
        if not symmetric:
            x = self._call(functional.pad, x, pads)
        padding = (pads[2], pads[0]) if symmetric else 0
        a, bias = node.attrs, self._bias(node)
        rest = (a["strides"], padding, a["dilations"], a["groups"])
        return self._call(functional.conv2d, x, w, bias, *rest)

    def _matmul(self, node: Node) -> Any:
        if node.attrs["transpose_a"] or node.attrs["transpose_b"]:
            raise RivalError("transposed products are not written in PyTorch here")
        x, w = map(self._of, node.operands)
        return self._call(functional.linear, x, w, self._bias(node))

    def _bias(self, node: Node) -> Any:
        """The bias that is all that follows, else None."""
        users = self._users[node.name]
        alone = len(users) == 1 and users[0].op == "bias_add"
        return self._of(users[0].operands[1]) if alone else None

    def _bias_add(self, node: Node) -> Any:
        x, bias = map(self._of, node.operands)
        if x.args[2:3] != (bias,):
            raise RivalError("a bias of its own is not written in PyTorch here")
        return x

    def _relu(self, node: Node) -> Any:
        return self._call(functional.relu, self._of(node.operands[0]))

    def _add(self, node: Node) -> Any:
        return self._call(torch.add, *map(self._of, node.operands))

    def _max_pool2d(self, node: Node) -> Any:
        x, (pads, _) = self._of(node.operands[0]), self._pads(node)
        if any(pads):
            x = self._call(functional.pad, x, pads, value=float("-inf"))
        sizes = node.attrs["window"], node.attrs["strides"]
        return self._call(functional.max_pool2d, x, *sizes)

    def _avg_pool2d(self, node: Node) -> Any:
        pads, symmetric = self._pads(node)
        if not symmetric:
            raise RivalError("uneven pads of averages are not written in PyTorch here")
        sizes = node.attrs["window"], node.attrs["strides"], (pads[2], pads[0])
        x = self._of(node.operands[0])
        return self._call(functional.avg_pool2d, x, *sizes, count_include_pad=False)

    def _pads(self, node: Node, kernel: Any = None) -> tuple[tuple[int, ...], bool]:
        """Pads left, right, top and bottom; whether opposite ones are equal."""
        sizes, a = node.operands[0].type.inner[:2], dict(node.attrs)
        dilations: Any = a.get("dilations", (1, 1))
        kernel, strides = kernel or a["window"], a["strides"]
        axes = resolve(node.op, sizes, kernel, strides, dilations, a["padding"])
        rows, columns = axes
        pads = (columns.before, columns.after, rows.before, rows.after)
        return pads, all(axis.before == axis.after for axis in axes)

    def _reshape(self, node: Node) -> Any:
        x, (given,) = self._of(node.operands[0]), node.operands
        if len(given.type.shape) == 4:
            x = self._method("permute", x, 0, 2, 3, 1)
        x = self._method("reshape", x, (-1, *node.result.type.inner))
        return self._stored(x, node.result)

    def _apply_mask(self, node: Node) -> Any:
        mask = self._graph.producers()[node.operands[1].name]
        dropout = torch.nn.Dropout(1.0 - float(mask.attrs["keep"]))  # type: ignore[arg-type]
        return self._module(dropout, self._of(node.operands[0]))

    def _batch_norm(self, node: Node) -> Any:
        x, gamma, beta, *statistics = node.operands
        moved = {
            n.operands[1].name: n for n in self._graph.nodes if n.op == "moving_average"
        }
        mean, variance = (moved[v.name] for v in statistics)
        made = torch.nn.BatchNorm2d(
            gamma.type.inner[0],
            eps=float(node.attrs["epsilon"]),  # type: ignore[arg-type]
            momentum=1.0 - float(mean.attrs["momentum"]),  # type: ignore[arg-type]
        )
        made.weight.data, made.bias.data = self._tensor(gamma), self._tensor(beta)
        made.running_mean, made.running_var = (
            self._tensor(n.operands[0]) for n in (mean, variance)
        )
        return self._module(made, self._of(x))

    def _reduce_mean(self, node: Node) -> Any:
        if node.attrs["axes"] != (1, 2):
            raise RivalError(f"a mean over {node.attrs['axes']} is not written here")
        return self._method("mean", self._of(node.operands[0]), (2, 3))


class Rival:
    """A network of PyTorch on a device, in a precision, ready to be raced.

    In bf16 a training step runs under autocast, with float32 weights, and inference
    on weights and images that are stored so: what is fastest.
    """

    def __init__(
        self, network: fx.GraphModule, where: Device, precision: str, training: bool
    ) -> None:
        self._where, self._training = where, training
        self._half = torch.bfloat16 if precision == "bf16" else None
        self._network = network.to(where.place).train(training)
        if self._half is not None and not training:
            self._network = self._network.to(self._half)

    def step(self, mode: str, captured: bool, image: Any, labels: Any) -> Call:
        """A call that makes a step on the image, compiled and captured as asked for."""
        if self._training:
            call, kept = self._training_step(mode, image, labels)
        else:
            call, kept = self._inference(mode, image), []
        for _ in range(3):  # what is compiled or chosen once
            call()
        self._where.wait()
        return self._where.captured(call, 1, kept) if captured else call

    def _training_step(self, mode: str, image: Any, labels: Any) -> tuple[Call, Any]:
        on_gpu = not self._where.live
        network, half = self._network, self._half
        weights = [p.detach() for p in network.parameters()]
        optimizer = torch.optim.Adam(
            network.parameters(), 1e-3, fused=True, capturable=on_gpu
        )
        kind = self._where.place.partition(":")[0]

        def loss(x: Any, y: Any) -> Any:
            with torch.autocast(kind, half, half is not None, cache_enabled=False):
                return functional.cross_entropy(network(x), y)

        function = compiled(loss, mode, on_gpu)

        def step() -> None:
            torch.compiler.cudagraph_mark_step_begin()
            optimizer.zero_grad(set_to_none=True)
            function(image, labels).backward()
            optimizer.step()

        return step, weights

    def _inference(self, mode: str, image: Any) -> Call:
        x = image if self._half is None else image.to(self._half)
        function = compiled(self._network, mode, not self._where.live)

        @torch.inference_mode()
        def step() -> Any:
            torch.compiler.cudagraph_mark_step_begin()
            return function(x)

        return step


def compiled(function: Callable[..., Any], mode: str, on_gpu: bool) -> Any:
    """The function as torch.compile makes it in a mode; as it is for no mode.

    Off a GPU nothing is generated, only traced: that takes no compiler and no minutes.
    """
    if not mode:
        return function
    from torch._inductor import list_mode_options

    assert mode in list_mode_options(), f"torch.compile has no mode {mode}"
    torch._dynamo.reset()  # a mode of its own for each contestant
    if on_gpu:
        return torch.compile(function, mode=mode, dynamic=False)
    return torch.compile(function, backend="aot_eager", dynamic=False)
