"""Model: a network and the steps that can be made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from convc.ir.graph import Graph
from convc.ir.ops.base import Array
from convc.ir.types import TensorType
from convc.losses import correct, softmax_cross_entropy
from convc.optimizers import Adam, Optimizer
from convc.pipeline import INFERENCE, Step, training
from convc.summary import Summary, summary_table
from convc.tracing import Tensor, trace

if TYPE_CHECKING:
    from convc.data.batches import Dataset
    from convc.runtime.evaluation import Prediction
    from convc.runtime.history import History

Network = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]

IMAGE = "f32[N,28,28,1]"
LABELS = "i32[N]"


class Model:
    """A function from an image tensor to logits, traced once.

    ``inputs`` has the image's name and type (default ``image="f32[N,28,28,1]"``).
    ModelError, with the user's file and line, when the function breaks a rule.
    """

    def __init__(
        self, network: Network, name: str | None = None, **inputs: str | TensorType
    ) -> None:
        self.network = network
        self.name = name or str(getattr(network, "__name__", "model"))
        self.inputs = inputs or {"image": IMAGE}
        self.weights: dict[str, Array] | None = None

    @cached_property
    def graph(self) -> Graph:
        """The forward graph as traced, with output ``output``."""
        return trace(self.network, self.inputs, name=self.name)

    def summary(self) -> Summary:
        """Layers, output shapes, parameters and FLOPs as a table."""
        return summary_table(self.graph)

    def training_step(
        self,
        loss: Loss = softmax_cross_entropy,
        optimizer: Optimizer | None = None,
        keep_gradients: bool = False,
    ) -> Step:
        """Forward, loss, backward and optimizer (default Adam(1e-3)) as one graph.

        Inputs: the image and ``labels: i32[N]``; outputs: ``loss``, ``correct``, and
        with ``keep_gradients`` one ``gradient/<parameter>`` for each.
        """
        passes = training(optimizer or Adam(1e-3), keep_gradients)
        return Step(self._with_loss(loss), passes, "training")

    def evaluation_step(self, loss: Loss = softmax_cross_entropy) -> Step:
        """Loss and number of correct answers, without dropout or updates."""
        return Step(self._with_loss(loss), INFERENCE, "evaluation")

    def inference(self) -> Step:
        """The network alone: output ``output``, without dropout."""
        return Step(self.graph, INFERENCE, "inference")

    def _with_loss(self, loss: Loss) -> Graph:
        def step(labels: Tensor, **images: Tensor) -> dict[str, Tensor]:
            logits = self.network(*images.values())
            return {"loss": loss(logits, labels), "correct": correct(logits, labels)}

        graph = trace(step, {**self.inputs, "labels": LABELS}, name=self.name)
        return replace(graph, name=self.name)

    def fit(self, train: Dataset, *args: Any, **kwargs: Any) -> History:
        """Train as ``convc.runtime.trainer.fit`` does, which see; keep the weights."""
        from convc.runtime.trainer import fit

        history = fit(self, train, *args, **kwargs)
        self.weights = history.program.state()
        return history

    def evaluate(self, dataset: Dataset, **options: Any) -> tuple[float, float]:
        """Loss and accuracy with the weights that ``fit`` left (or ``weights=``)."""
        from convc.runtime.evaluation import evaluate

        return evaluate(self, dataset, options.pop("weights", self.weights), **options)

    def predict(self, images: ArrayLike, **options: Any) -> Prediction:
        """Classes of images with the weights that ``fit`` left (or ``weights=``)."""
        from convc.runtime.evaluation import predict

        return predict(self, images, options.pop("weights", self.weights), **options)
