"""Asking a trained network: loss and accuracy on a data set, classes of images.

Weights are a mapping from parameter names to arrays, as ``Program.parameters`` is;
names that a program does not have are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convc.data.batches import Dataset, batches
from convc.engines import targeted
from convc.ir.errors import RunError
from convc.ir.graph import Graph
from convc.losses import softmax_cross_entropy
from convc.program import Program
from convc.tracing import SEED, STEP

if TYPE_CHECKING:
    from convc.model import Model

Weights = Mapping[str, NDArray[Any]]

BATCH = 128
"""Images at a time where nothing else is asked for."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of n images: probabilities f32[n,C] and classes i32[n]."""

    probabilities: NDArray[np.float32]
    classes: NDArray[np.int32]


def evaluate(
    model: Model | Program,
    dataset: Dataset,
    weights: Weights | None = None,
    *,
    batch: int = BATCH,
    backend: str = "numpy",
    threads: int | None = None,
    device: str | None = None,
    loss: Callable[..., Any] = softmax_cross_entropy,
    between: Callable[[], None] | None = None,
) -> tuple[float, float]:
    """The mean loss and the accuracy (0 .. 1) on a data set.

    ``model`` is a compiled evaluation step, or a model, which is compiled for
    ``batch`` images on ``device`` (see ``Program``). ``weights`` are copied in first;
    a model needs them, a program may hold them already. ``between`` is called before
    each batch.

    RunError if weights are missing or the data do not fit; nothing is run then.
    """
    program = _ready(
        model, weights, "evaluate", batch, (backend, threads, device), loss
    )
    check_dataset(program.graph, dataset)
    total, right = 0.0, 0
    in_order = batches(dataset, program.batch, seed=0, epoch=0, shuffle=False)
    for images, labels in in_order:
        if between is not None:
            between()
        n = len(labels)
        np.copyto(program.input(image_input(program.graph), n), images)
        np.copyto(program.input("labels", n), labels)
        outputs = program.run(n)
        total += n * float(outputs["loss"])
        right += int(outputs["correct"])
    return total / len(dataset), right / len(dataset)


def predict(
    model: Model | Program,
    images: ArrayLike,
    weights: Weights | None = None,
    *,
    batch: int = BATCH,
    backend: str = "numpy",
    threads: int | None = None,
    device: str | None = None,
) -> Prediction:
    """The classes of images [n, ...], and how likely the network finds each class.

    ``model`` is a compiled inference, or a model, which is compiled for ``batch``
    images; for ``weights`` see ``evaluate``. RunError if something does not fit.
    """
    program = _ready(model, weights, "predict", batch, (backend, threads, device), None)
    given = np.asarray(images, dtype=np.float32)
    name = image_input(program.graph)
    _check_shape(program.graph, given.shape, "the images")
    if not len(given):
        raise RunError("predict: holds no images; at least one is needed")
    parts = []
    for start in range(0, len(given), program.batch):
        part = given[start : start + program.batch]
        np.copyto(program.input(name, len(part)), part)
        (logits,) = program.run(len(part)).values()
        parts.append(softmax(logits))
    probabilities = np.concatenate(parts)
    return Prediction(probabilities, probabilities.argmax(1).astype(np.int32))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits f32[n,C] as probabilities; the largest is subtracted first."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def trained(program: Program) -> dict[str, NDArray[Any]]:
    """The trainable parameters of a program, as the views it holds."""
    names = {p.value.name for p in program.graph.parameters if p.trainable}
    return {name: a for name, a in program.parameters.items() if name in names}


def image_input(graph: Graph) -> str:
    """The name of the input besides labels and what is fed; RunError for several."""
    known = {"labels", *dict(graph.feeds)}
    names = [value.name for value in graph.inputs if value.name not in known]
    if len(names) != 1:
        raise RunError(
            f"{graph.name}: the loop feeds one input besides the labels, and the graph "
            f"has {', '.join(names) or 'none'}; call the program yourself"
        )
    return names[0]


def check_dataset(graph: Graph, dataset: Dataset) -> None:
    """RunError unless the images have the graph's shape."""
    _check_shape(graph, dataset.images.shape, dataset.name)


def _check_shape(graph: Graph, shape: tuple[int, ...], what: str) -> None:
    """RunError unless images of that shape fit the graph's input."""
    name = image_input(graph)
    (kind,) = (value.type for value in graph.inputs if value.name == name)
    if len(shape) != kind.rank or shape[1:] != kind.shape[1:]:
        raise RunError(
            f"{graph.name}: %{name} is {kind}, and {what} have shape {list(shape)}"
        )


def _ready(
    model: Model | Program,
    weights: Weights | None,
    what: str,
    batch: int,
    where: tuple[str, int | None, str | None],
    loss: Callable[..., Any] | None,
) -> Program:
    """The program to ask, with its weights in place."""
    if isinstance(model, Program):
        program = model
    else:
        if weights is None:
            raise RunError(
                f"{what}: a model has no weights of its own; give some, say "
                "history.program.parameters of its training"
            )
        step = model.inference() if loss is None else model.evaluation_step(loss=loss)
        backend, threads, device = where
        backend = targeted(backend, device)
        program = step.compile(backend, batch, threads, device=device)
    if weights is not None:
        counters = {k: v for k, v in program.parameters.items() if k in (SEED, STEP)}
        program.load({**counters, **weights})
    return program
