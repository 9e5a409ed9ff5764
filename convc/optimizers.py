"""Optimizers: how a training step turns gradients into new parameters.

Each adds one op per parameter to the graph, the state that the op needs, and the
updates of both. Weight decay is one strength for all parameters, or with
``decay_biases=False`` for those of two axes and more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from convc.ir.builder import GraphBuilder
from convc.ir.graph import Attr, Value
from convc.ir.types import DType, TensorType
from convc.places import mistake
from convc.schedules import Schedule, number, schedule

RUNTIME = "runtime"
"""As a learning rate: an input of the training step, set anew for each run."""

RATE_INPUT = "learning_rate"
"""The name of that input, an f32 scalar."""

Rate = float | Schedule | str


@dataclass(frozen=True)
class Optimizer:
    """One step of an optimizer for all parameters.

    ``learning_rate`` is a number from 0, a schedule, or ``"runtime"`` for an input.
    ModelError for arguments out of range.
    """

    learning_rate: Rate
    weight_decay: float = field(default=0.0, kw_only=True)
    decay_biases: bool = field(default=True, kw_only=True)

    op: ClassVar[str]
    slots: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        rate = self.learning_rate
        if isinstance(rate, str) and rate != RUNTIME:
            raise mistake(
                f"{self._who}: learning_rate is a number from 0, a schedule or "
                f"{RUNTIME!r}, got {rate!r}"
            )
        if rate != RUNTIME:
            schedule(self._who, "learning_rate", rate)
        number(self._who, "weight_decay", self.weight_decay)

    @property
    def _who(self) -> str:
        return type(self).__name__

    def attrs(self) -> Mapping[str, Attr]:
        """The op's attributes besides the weight decay."""
        return {}

    def apply(
        self, b: GraphBuilder, pairs: Sequence[tuple[Value, Value]], step: Value
    ) -> None:
        """Append the update of each (parameter, gradient) at ``step`` (i64 scalar).

        A state ``optimizer/m/conv1/kernel`` is declared per slot and parameter.
        """
        rate = self._rate(b, step)
        origins = {p.value.name: p.locs for p in b.parameters}
        for parameter, gradient in pairs:
            b.locs = origins.get(parameter.name, ())
            states = [
                b.parameter(
                    f"optimizer/{slot}/{parameter.name}",
                    parameter.type,
                    trainable=False,
                )
                for slot in self.slots
            ]
            decays = self.decay_biases or parameter.type.rank > 1
            decay = float(self.weight_decay) if decays else 0.0
            scalars = (rate, step) if self.counts else (rate,)
            operands = (parameter, gradient, *states, *scalars)
            attrs = {**self.attrs(), "weight_decay": decay}
            results = b.emit(self.op, operands, attrs)
            for target, value in zip((parameter, *states), results, strict=True):
                b.update(target, value)
        b.locs = ()

    def _rate(self, b: GraphBuilder, step: Value) -> Value:
        b.locs = ()
        if self.learning_rate == RUNTIME:
            return b.input(RATE_INPUT, TensorType(DType.F32, ()))
        return schedule(self._who, "learning_rate", self.learning_rate).build(b, step)

    def _share(self, name: str, given: float) -> None:
        if number(self._who, name, given) >= 1:
            raise mistake(f"{self._who}: {name} must be below 1, got {given!r}")


@dataclass(frozen=True)
class SGD(Optimizer):
    """p - rate · (g + weight_decay · p)."""

    learning_rate: Rate = 0.01
    op = "sgd"


@dataclass(frozen=True)
class Momentum(Optimizer):
    """v' = momentum · v + g, p' = p - rate · v'; ``nesterov``: g + momentum · v'."""

    learning_rate: Rate = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    op = "momentum"
    slots = ("v",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._share("momentum", self.momentum)

    def attrs(self) -> Mapping[str, Attr]:
        """The momentum and whether it is Nesterov's."""
        return {"momentum": float(self.momentum), "nesterov": bool(self.nesterov)}


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1), weight decay added to the gradient."""

    learning_rate: Rate = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    op = "adam"
    slots = ("m", "v")
    counts = True
    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._share("beta1", self.beta1)
        self._share("beta2", self.beta2)
        if number(self._who, "epsilon", self.epsilon) == 0:
            raise mistake(f"{self._who}: epsilon must be above 0, got 0")

    def attrs(self) -> Mapping[str, Attr]:
        """The two betas, epsilon and whether the decay is decoupled."""
        return {
            "beta1": float(self.beta1),
            "beta2": float(self.beta2),
            "epsilon": float(self.epsilon),
            "decoupled": self.decoupled,
        }


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled decay: p - rate · weight_decay · p comes first.

    Loshchilov and Hutter, 2019, algorithm 2.
    """

    weight_decay: float = field(default=0.01, kw_only=True)
    decoupled: ClassVar[bool] = True


OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "adam": Adam,
    "adamw": AdamW,
}
"""The optimizers by the name that a command line knows."""
