"""Model: a network and the steps that can be made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import frexp, isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import ArrayLike

from convc.ir.graph import Graph
from convc.ir.ops.base import Array
from convc.ir.types import TensorType
from convc.losses import correct, softmax_cross_entropy
from convc.optimizers import Optimizer
from convc.passes.choose_precision import PRECISIONS
from convc.pipeline import Step, inference, training
from convc.places import mistake
from convc.recipes import Recipe, recipe_of
from convc.summary import Summary, summary_table
from convc.tracing import Tensor, called, trace

if TYPE_CHECKING:
    from convc.data.batches import Dataset
    from convc.runtime.evaluation import Prediction
    from convc.runtime.history import History

Network = Callable[..., Any]
Loss = Callable[[Tensor, Tensor], Tensor]
Function = TypeVar("Function", bound=Callable[..., object])

IMAGE = "f32[N,28,28,1]"
LABELS = "i32[N]"
NUMBER = "f32[]"
LOSS_SCALE = 1024.0
"""What the loss of a step in fp16 is multiplied by, if nothing else is asked for."""


@dataclass(frozen=True)
class Fed:
    """A number that a program is fed: which one, in training and in a test.

    It is an input f32[] of the program and holds that number until it is given another.
    """

    train: float
    test: float


Input = str | TensorType | Fed
"""How an input is declared: its type, or the numbers that it is fed."""


def fed(train: float, test: float) -> Fed:
    """An input of a network: a number, one while it is trained and one in tests.

    ``Model(net, x="f32[N,784]", keep_prob=fed(train=0.75, test=1.0))``. ModelError if
    one of them is no finite number.
    """
    for name, number in (("train", train), ("test", test)):
        real = isinstance(number, Real) and not isinstance(number, bool)
        if not real or not isfinite(number):
            raise mistake(f"fed: {name} must be a finite number, got {number!r}")
    return Fed(float(train), float(test))


def takes(**inputs: Input) -> Callable[[Function], Function]:
    """Declares a network's inputs, for ``Model`` and the command line alike.

    ``@takes(x="f32[N,784]")`` above a network of one argument x, a row of pixels. An
    input that is ``fed`` a number comes after the image.
    """

    def declare(network: Function) -> Function:
        network.takes = inputs  # type: ignore[attr-defined]
        return network

    return declare


def inputs_of(network: Callable[..., object]) -> dict[str, Input]:
    """The inputs that a network declares; one image of MNIST if it declares none."""
    return dict(getattr(network, "takes", None) or {"image": IMAGE})


class Model:
    """A function from an image tensor to logits, traced once.

    ``inputs`` has the image's name and type (default: what the network ``takes``, else
    ``image="f32[N,28,28,1]"``) and numbers that it is ``fed``; ``precision`` is what
    its steps compute in if they are not told otherwise: fp32, tf32, bf16 or fp16.
    Weights are float32 in all of them. If ``exact``, no convolution is computed by
    transforms, which round otherwise than the sum that defines it. ModelError, with the
    user's file and line, when the function breaks a rule.
    """

    def __init__(
        self,
        network: Network,
        name: str | None = None,
        *,
        precision: str = "fp32",
        exact: bool = False,
        **inputs: Input,
    ) -> None:
        self.network = network
        self.precision = _known(precision)
        self.exact = exact
        self.name = name or str(getattr(network, "__name__", "model"))
        self.inputs = inputs or inputs_of(network)
        self.weights: dict[str, Array] | None = None

    @cached_property
    def graph(self) -> Graph:
        """The forward graph as traced, with output ``output``."""
        return self._traced(self.network, self.inputs, training=False)

    @property
    def image(self) -> TensorType:
        """The type of the input that a data set is fed to, the first that is no Fed."""
        feeds = dict(self.graph.feeds)
        return next(v.type for v in self.graph.inputs if v.name not in feeds)

    @property
    def recipe(self) -> Recipe:
        """How the model is trained if nothing else is asked for."""
        return recipe_of(self.network)

    def summary(self) -> Summary:
        """Layers, output shapes, parameters and FLOPs as a table."""
        return summary_table(self.graph)

    def training_step(
        self,
        loss: Loss = softmax_cross_entropy,
        optimizer: Optimizer | None = None,
        keep_gradients: bool = False,
        precision: str | None = None,
        loss_scale: float | None = None,
    ) -> Step:
        """Forward, loss, backward and optimizer (default: the recipe's) as one graph.

        Inputs: the image and ``labels: i32[N]``; outputs: ``loss``, ``correct``, and
        with ``keep_gradients`` one ``gradient/<parameter>`` for each. In fp16 the
        gradients are those of ``loss_scale`` times the loss, a power of two (default
        1024), and divided by it before the optimizer reads them.
        """
        chosen = self._precision(precision)
        scale = _loss_scale(chosen, loss_scale)
        rule = optimizer or self.recipe.optimizer
        passes = training(rule, keep_gradients, chosen, scale, self.exact)
        return Step(self._with_loss(loss, training=True), passes, "training")

    def evaluation_step(
        self, loss: Loss = softmax_cross_entropy, precision: str | None = None
    ) -> Step:
        """Loss and number of correct answers, without dropout or updates."""
        passes = inference(self._precision(precision), self.exact)
        return Step(self._with_loss(loss, training=False), passes, "evaluation")

    def inference(self, precision: str | None = None) -> Step:
        """The network alone: output ``output``, without dropout."""
        passes = inference(self._precision(precision), self.exact)
        return Step(self.graph, passes, "inference")

    def _precision(self, asked: str | None) -> str:
        return self.precision if asked is None else _known(asked)

    def _with_loss(self, loss: Loss, training: bool) -> Graph:
        def step(labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
            logits = called(self.network, inputs)
            return {"loss": loss(logits, labels), "correct": correct(logits, labels)}

        return self._traced(step, {**self.inputs, "labels": LABELS}, training)

    def _traced(
        self,
        function: Callable[..., object],
        inputs: Mapping[str, Input],
        training: bool,
    ) -> Graph:
        """The graph of a function, with the numbers that such a program is fed."""
        feeds = {name: f for name, f in inputs.items() if isinstance(f, Fed)}
        types = {k: v for k, v in inputs.items() if not isinstance(v, Fed)}
        scalars = dict.fromkeys(feeds, NUMBER)
        graph = trace(function, {**types, **scalars}, name=self.name)
        numbers = ((k, f.train if training else f.test) for k, f in feeds.items())
        return replace(graph, feeds=tuple(numbers))

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


def _known(precision: str) -> str:
    if precision not in PRECISIONS:
        raise mistake(f"precision is one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision


def _loss_scale(precision: str, asked: float | None) -> float:
    """By how much the loss is scaled: 1 but for fp16; ModelError if it cannot be so."""
    if precision != "fp16":
        if asked is not None:
            raise mistake(
                f"loss_scale is for precision fp16, whose gradients may be too small "
                f"for it; this step is in {precision}"
            )
        return 1.0
    scale = LOSS_SCALE if asked is None else asked
    if not 1 <= scale <= 2.0**24 or frexp(scale)[0] != 0.5:
        raise mistake(
            "loss_scale must be a power of two from 1 to 2**24, so that it rounds "
            f"nothing, got {scale!r}"
        )
    return float(scale)
