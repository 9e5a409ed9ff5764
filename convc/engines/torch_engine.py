"""Runs what the torch backend emits: eager, channels last, or compiled."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from convc.backends.torch.emit import emit_torch
from convc.engines.base import load_source
from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.ops.base import Array
from convc.optimizers import Adam, Momentum, Optimizer

MODES = ("torch", "torch:channels_last", "torch:compile")
"""Eager PyTorch with images [n, c, h, w] in memory, the same with the channels last,
and what torch.compile makes of the first."""

_serial = count(1)

IMAGE = 4
"""Axes of what is stored as an image, or as a filter."""
MATRIX = 2
"""Axes of what weight decay is always for."""


class TorchNetwork:
    """A traced graph as a module of PyTorch, its inputs and its parameters.

    ``mode`` is one of MODES; ``threads`` those of PyTorch, in the whole process.
    Arrays given and returned have the axes of the graph. CompileError if torch is not
    installed, or for what is not written for it.
    """

    def __init__(
        self,
        graph: Graph,
        mode: str = "torch",
        batch: int = 128,
        threads: int | None = None,
        own_masks: bool = True,
    ) -> None:
        self._torch = checked_mode(mode)
        if threads is not None:
            self._torch.set_num_threads(threads)
        self.source = emit_torch(graph, batch, own_masks)
        name = f"convc_emitted_torch_{next(_serial)}"
        self._graph = graph
        self._module = load_source(self.source, graph.name, name)
        self._last = mode == "torch:channels_last"
        self.network = self._module.Network()
        sys.modules[name] = self._module  # torch.compile imports what it traces
        weakref.finalize(self.network, sys.modules.pop, name, None)
        for name in self._module.PARAMETERS:
            self._attribute(name).data = self._stored(self._attribute(name).data)
        self.call = self.network
        if mode == "torch:compile":
            self._torch._dynamo.reset()  # what was compiled before for other graphs
            self.call = self._torch.compile(self.network, dynamic=False)

    def _attribute(self, name: str) -> Any:
        return getattr(self.network, self._module.PARAMETERS[name][0])

    def _stored(self, tensor: Any) -> Any:
        """A tensor with PyTorch's axes in the order of the mode."""
        if tensor.dim() == IMAGE and self._last:
            return tensor.contiguous(memory_format=self._torch.channels_last)
        return tensor.contiguous()

    # -- parameters

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Set every parameter."""
        for name, (_, order) in self._module.PARAMETERS.items():
            given = self._torch.from_numpy(np.array(arrays[name]))
            self._attribute(name).data.copy_(given.permute(order))

    def state(self) -> dict[str, Array]:
        """Copies of all parameters, by name."""
        names = self._module.PARAMETERS
        return {name: self._logical(name, self._attribute(name)) for name in names}

    # -- running

    def tensors(self, inputs: Mapping[str, Array]) -> list[Any]:
        """The inputs as the module takes them, in its order."""
        made = []
        for value in self._graph.inputs:
            tensor = self._torch.from_numpy(np.array(inputs[value.name]))
            if tensor.dim() == IMAGE:
                stored = self._stored(tensor.permute(0, 3, 1, 2))
                tensor = stored.permute(0, 2, 3, 1)
            made.append(tensor)
        return made

    def _by_name(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """The same by name, in the same order."""
        names = (v.name for v in self._graph.inputs)
        return dict(zip(names, self.tensors(inputs), strict=True))

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """The outputs, without gradients."""
        with self._torch.no_grad():
            made = self.call(*self.tensors(inputs))
        return _named(self._graph, made)

    def gradients(
        self,
        inputs: Mapping[str, Array],
        cotangents: Mapping[str, Array],
        of: Sequence[str],
    ) -> tuple[Callable[[], Sequence[Any]], dict[str, Array]]:
        """The gradients of inputs and parameters called ``of``, by autograd.

        Of the outputs' sum, each weighted with its cotangent. The call computes them
        again and again; the arrays are what it gave the first time.
        """
        tensors = self._by_name(inputs)
        leaves = []
        for name in of:
            leaf = tensors.get(name)
            leaves.append(self._attribute(name) if leaf is None else leaf)
            leaves[-1].requires_grad_()
        made = self.call(*tensors.values())
        named = dict(zip((k for k, _ in self._graph.outputs), made, strict=True))
        outputs = [named[name] for name in cotangents]
        weights = [
            self._as(self._torch.from_numpy(np.array(cotangents[name])), named[name])
            for name in cotangents
        ]

        def call() -> Sequence[Any]:
            found: Sequence[Any] = self._torch.autograd.grad(
                outputs, leaves, weights, retain_graph=True
            )
            return found

        return call, {
            name: self._logical(name, gradient)
            for name, gradient in zip(of, call(), strict=True)
        }

    def _as(self, tensor: Any, like: Any) -> Any:
        """The tensor in the order in memory of another."""
        return self._torch.empty_like(like).copy_(tensor)

    def _logical(self, name: str, tensor: Any) -> Array:
        """A parameter, or a gradient of one or of an input, with the graph's axes."""
        order = self._module.PARAMETERS.get(name, ("", ()))[1]
        if order:
            back = tuple(order.index(axis) for axis in range(len(order)))
            tensor = tensor.permute(back)
        return np.array(tensor.detach().numpy())

    def inferred(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """The outputs as tensors, in inference mode."""
        with self._torch.inference_mode():
            made: Sequence[Any] = self.call(*tensors)
        return made

    def training(
        self, rule: Optimizer, inputs: Mapping[str, Array], fused: bool = True
    ) -> Callable[[Mapping[str, Array]], float]:
        """A training step on inputs that stay, but for those it is given; the loss.

        The optimizer is PyTorch's own, if ``fused`` in one kernel for all parameters.
        """
        kept = self._by_name(inputs)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = _optimizer(self._torch, rule, trained, fused)
        at = [name for name, _ in self._graph.outputs].index("loss")
        self.network.train()

        def step(changed: Mapping[str, Array]) -> float:
            for name, array in changed.items():
                kept[name] = self._torch.from_numpy(array)
            optimizer.zero_grad()
            loss = self.call(*kept.values())[at]
            loss.backward()
            optimizer.step()
            return float(loss.item())

        return step


def _named(graph: Graph, made: Sequence[Any]) -> dict[str, Array]:
    names = (name for name, _ in graph.outputs)
    return {k: np.array(t.detach().numpy()) for k, t in zip(names, made, strict=True)}


def _optimizer(torch: Any, rule: Optimizer, weights: Sequence[Any], fused: bool) -> Any:
    """PyTorch's optimizer for a rule.

    CompileError for a learning rate that is no number.
    """
    if not isinstance(rule.learning_rate, int | float):
        raise CompileError(
            f"torch is timed with a learning rate that is a number, not with "
            f"{rule.learning_rate!r}"
        )
    options = {"lr": float(rule.learning_rate), "fused": fused or None}
    spared = [w for w in weights if w.dim() < MATRIX and not rule.decay_biases]
    others = [w for w in weights if all(w is not s for s in spared)]
    groups = [
        {"params": others, "weight_decay": rule.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    given = [group for group in groups if group["params"]]
    if isinstance(rule, Adam):
        kind = torch.optim.AdamW if rule.decoupled else torch.optim.Adam
        betas = (rule.beta1, rule.beta2)
        return kind(given, betas=betas, eps=rule.epsilon, **options)
    if isinstance(rule, Momentum):
        options |= {"momentum": rule.momentum, "nesterov": rule.nesterov}
    return torch.optim.SGD(given, **options)


def checked_mode(mode: str) -> Any:
    """The module torch; CompileError if it is not there, or knows no such mode."""
    if mode not in MODES:
        raise CompileError(f"torch runs as {', '.join(MODES)}, not as {mode}")
    try:
        import torch
    except ImportError:
        raise CompileError(
            "torch is not installed; pip install torch to compare with it"
        ) from None
    return torch
