"""What is asked of everyone who is raced: the same network, weights and images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from convc.conditions import installed
from convc.initializers import initialize
from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Node, Value
from convc.ir.interpreter import interpret
from convc.ir.ops.base import Array, ints
from convc.ir.ops.window import Axis, resolve
from convc.loading import load_model, step_named
from convc.passes.samples import State

if TYPE_CHECKING:
    from convc.model import Model

LABEL_SETS = 16
"""Labels rotate, so that no one learns one batch by heart."""
CHECKED = 8
"""Images whose answers are compared with float64."""
SETTLING = 3
"""Calls before any is timed: what is compiled, chosen or allocated once."""


@dataclass(frozen=True)
class Task:
    """A network, and what is timed: ``kind`` is "training" or "inference"."""

    model: str
    kind: str
    batch: int
    threads: int
    input_type: str | None = None

    def load(self) -> Model:
        """The model."""
        return load_model(self.model, self.input_type)


class Runner(ABC):
    """Someone who runs a task in a process of their own; ``name`` as users know it."""

    packages: ClassVar[tuple[str, ...]]

    def __init__(self, task: Task, name: str) -> None:
        self.task, self.name = task, name
        self.model = task.load()
        self.model_step = step_named(self.model, task.kind)
        self.graph: Graph = self.model_step.traced()
        self._count = 0
        self._call = self.prepare()
        for _ in range(SETTLING):
            self._step()

    @abstractmethod
    def prepare(self) -> Callable[[Array], Any]:
        """A call that makes a step on the images; it is given labels for training.

        It returns when the step is done: the loss, or the network's answers, of which
        ``answers`` makes an array.
        """

    def answers(self, made: Any) -> Array:
        """What an inference call gave, as an array with the axes of the graph."""
        return np.asarray(made)

    # -- data

    @cached_property
    def state(self) -> State:
        """The initial weights, for seed 0, and states."""
        return {p.value.name: initialize(p, 0) for p in self.graph.parameters}

    @cached_property
    def inputs(self) -> State:
        """Random images in 0 … 1, the numbers that are fed, and the first labels."""
        random = np.random.default_rng(0)
        found: State = {k: np.float32(v) for k, v in self.graph.feeds}  # type: ignore[misc]
        for value in self.graph.inputs:
            if value.name in found:
                continue
            shape = value.type.bind(self.task.batch)
            if value.type.dtype.is_float:
                found[value.name] = random.random(shape, np.float32)
            else:
                found[value.name] = self.labels[0]
        return found

    @property
    def image(self) -> Value:
        """The input that holds images."""
        return next(v for v in self.graph.inputs if v.type.dtype.is_float)

    @cached_property
    def labels(self) -> list[Array]:
        """Sets of labels, which take turns."""
        random = np.random.default_rng(1)
        shape = (LABEL_SETS, self.task.batch)
        return list(random.integers(0, 10, shape).astype(np.int32))

    # -- what the race asks

    def turn(self, seconds: float) -> list[float]:
        """The seconds of steps, so many that they take about ``seconds`` in all."""
        times = [self._step()]
        while sum(times) < seconds:
            times.append(self._step())
        return times

    def _step(self) -> float:
        labels = self.labels[self._count % LABEL_SETS]
        self._count += 1
        start = perf_counter()
        self._call(labels)
        return perf_counter() - start

    def error(self) -> float | None:
        """Of inference: the largest error against float64, over the largest answer."""
        if self.task.kind != "inference":
            return None
        few = min(CHECKED, self.task.batch)
        inputs = {k: a[:few] if np.ndim(a) else a for k, a in self.inputs.items()}
        (exact,) = interpret(
            self.graph, inputs, self.state, float64=True
        ).outputs.values()
        made = self.answers(self._call(self.labels[0]))[:few]
        return float(np.abs(made - exact).max() / np.abs(exact).max())

    def versions(self) -> dict[str, str]:
        """Those of the packages that did it."""
        return {name: installed(name) for name in self.packages}


Rules = Mapping[str, Callable[..., Any]]
"""For each op what makes its result: of the node, then its operands."""


def walked(
    graph: Graph, rules: Rules, known: Mapping[str, Any], who: str
) -> dict[str, Any]:
    """The outputs and updates of a graph by someone's rules, by value name.

    ``known`` has inputs and parameters. CompileError for an op without a rule.
    """
    values = dict(known)
    for node in graph.nodes:
        if node.op not in rules:
            raise unwritten(node, who)
        values[node.name] = rules[node.op](
            node, *(values[v.name] for v in node.operands)
        )
    return {name: values[name] for name in graph.live_out()}


def unwritten(node: Node, who: str) -> CompileError:
    """An error that says that somebody has no such op here."""
    where = f" at {node.locs[0]}" if node.locs else ""
    return CompileError(f"{node.op}{where} is not written for {who} here")


def imported(name: str) -> Any:
    """A package; CompileError if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        raise CompileError(f"{name} is not installed; pip install {name}") from None


def windows(node: Node, kernel: Sequence[int] | None = None) -> tuple[Axis, ...]:
    """The spatial axes of a convolution or pool."""
    sizes, a = node.operands[0].type.inner[:2], node.attrs
    kernel = kernel or ints(a["window"])
    dilations = ints(a["dilations"]) if "dilations" in a else (1, 1)
    return resolve(node.op, sizes, kernel, ints(a["strides"]), dilations, a["padding"])


def rate_of(model: Model) -> tuple[float, float, float, float]:
    """Adam's rate, betas and epsilon; CompileError where a model trains otherwise.

    What rivals are raced with must be the same rule.
    """
    from convc.optimizers import Adam

    rule = model.recipe.optimizer
    plain = isinstance(rule, Adam) and not rule.decoupled and not rule.weight_decay
    if not isinstance(rule, Adam) or not plain:
        raise CompileError(f"only plain Adam is written for rivals, not {rule}")
    if not isinstance(rule.learning_rate, int | float):
        raise CompileError(f"only a fixed rate is written for rivals, not {rule}")
    return float(rule.learning_rate), rule.beta1, rule.beta2, rule.epsilon
