"""PyTorch as the torch backend emits it: eager, channels last, or compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convc.engines.torch_engine import TorchNetwork
from convc.ir.ops.base import Array
from convc.rivals.base import Runner


class Torch(Runner):
    """A module, autograd, and Adam: fused, but plain in the eager mode.

    Dropout is PyTorch's own, and inputs are tensors from the start.
    """

    packages = ("torch",)

    def prepare(self) -> Callable[[Array], Any]:
        """The module and what runs it."""
        task = self.task
        network = TorchNetwork(
            self.graph, self.name, task.batch, task.threads, own_masks=False
        )
        network.load(self.state)
        if task.kind == "training":
            rule, fused = self.model.recipe.optimizer, self.name != "torch"
            step = network.training(rule, self.inputs, fused)
            return lambda labels: step({"labels": labels})
        tensors = network.tensors(self.inputs)
        return lambda _: network.inferred(tensors)

    def answers(self, made: Any) -> Array:
        """The one output."""
        (answer,) = made
        return np.asarray(answer.numpy())
