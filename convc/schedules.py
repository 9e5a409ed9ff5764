"""Learning rates as functions of the training step.

``build`` writes the function as scalar ops of the IR, so the rate is computed by the
training step itself. The step counts from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log, pi

from convc.ir.builder import GraphBuilder
from convc.ir.graph import Value
from convc.ir.types import DType, TensorType
from convc.places import mistake

_F32 = TensorType(DType.F32, ())


class Schedule:
    """A learning rate for every step."""

    def build(self, b: GraphBuilder, step: Value) -> Value:
        """Append the ops that give the rate (f32 scalar) at ``step`` (i64 scalar)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The same ``rate`` at every step."""

    rate: float

    def __post_init__(self) -> None:
        number("constant", "rate", self.rate)

    def build(self, b: GraphBuilder, step: Value) -> Value:
        """One constant."""
        return b.constant(self.rate, _F32)


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """The rate initial · decay_rate^(step / decay_steps).

    ``staircase`` rounds the exponent down to a whole number.

    ModelError unless initial >= 0, decay_steps >= 1 and decay_rate > 0.
    """

    initial: float
    decay_steps: int
    decay_rate: float
    staircase: bool = False

    def __post_init__(self) -> None:
        number("exponential_decay", "initial", self.initial)
        steps("exponential_decay", "decay_steps", self.decay_steps)
        if number("exponential_decay", "decay_rate", self.decay_rate) == 0:
            raise mistake("exponential_decay: decay_rate must be above 0, got 0")

    def build(self, b: GraphBuilder, step: Value) -> Value:
        """The rate is initial · exp(log(decay_rate) · step / decay_steps)."""
        time = b("divide", _real(b, step), b.constant(self.decay_steps, _F32))
        if self.staircase:
            time = _real(b, b("cast", time, dtype="i64"))
        power = b("exp", b("multiply", time, b.constant(log(self.decay_rate), _F32)))
        return b("multiply", power, b.constant(self.initial, _F32))


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """From ``initial`` along half a cosine to ``alpha · initial`` at ``decay_steps``.

    Loshchilov and Hutter, 2017, equation 5, without restarts; constant afterwards.
    """

    initial: float
    decay_steps: int
    alpha: float = 0.0

    def __post_init__(self) -> None:
        number("cosine_decay", "initial", self.initial)
        steps("cosine_decay", "decay_steps", self.decay_steps)
        if number("cosine_decay", "alpha", self.alpha) > 1:
            raise mistake(f"cosine_decay: alpha must be at most 1, got {self.alpha!r}")

    def build(self, b: GraphBuilder, step: Value) -> Value:
        """Give low + (high - low) / 2 · (1 + cos(π · step / steps))."""
        last = b.constant(self.decay_steps, _F32)
        time = b("divide", b("minimum", _real(b, step), last), last)
        wave = b("cos", b("multiply", time, b.constant(pi, _F32)))
        half = self.initial * (1 - self.alpha) / 2
        swing = b("multiply", wave, b.constant(half, _F32))
        return b("add", swing, b.constant(self.initial * self.alpha + half, _F32))


@dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    """``values[i]`` from step ``boundaries[i-1]`` on, ``values[0]`` before them all.

    ModelError unless the boundaries rise and there is one value more than boundaries.
    """

    boundaries: Sequence[int]
    values: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "values", tuple(self.values))
        if len(self.values) != len(self.boundaries) + 1:
            raise mistake(
                f"piecewise_constant: needs one value more than boundaries, got "
                f"{len(self.values)} values and {len(self.boundaries)} boundaries"
            )
        for value in self.values:
            number("piecewise_constant", "each value", value)
        low = 0
        for boundary in self.boundaries:
            steps("piecewise_constant", "each boundary", boundary)
            if boundary <= low:
                raise mistake(
                    f"piecewise_constant: boundaries must rise, got {boundary} "
                    f"after {low}"
                )
            low = boundary

    def build(self, b: GraphBuilder, step: Value) -> Value:
        """The sum of value · (step reached its start - step reached its end)."""
        reached = [
            b("cast", b("greater_equal", step, b.constant(at, step.type)), dtype="f32")
            for at in self.boundaries
        ]
        starts = [b.constant(1.0, _F32), *reached]
        terms = []
        for i, value in enumerate(self.values):
            on = starts[i]
            if i < len(reached):
                on = b("subtract", on, reached[i])
            terms.append(b("multiply", on, b.constant(value, _F32)))
        total = terms[0]
        for term in terms[1:]:
            total = b("add", total, term)
        return total


@dataclass(frozen=True)
class Warmup(Schedule):
    """``after`` (a rate or a schedule) times min(1, (step + 1) / warmup_steps)."""

    after: "float | Schedule"
    warmup_steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "after", schedule("warmup", "after", self.after))
        steps("warmup", "warmup_steps", self.warmup_steps)

    def build(self, b: GraphBuilder, step: Value) -> Value:
        """The rate times min(1, (step + 1) / warmup_steps)."""
        assert isinstance(self.after, Schedule)
        one = b.constant(1.0, _F32)
        done = b("add", _real(b, step), one)
        share = b("divide", done, b.constant(self.warmup_steps, _F32))
        return b("multiply", self.after.build(b, step), b("minimum", share, one))


def schedule(who: str, name: str, given: object) -> Schedule:
    """``given`` as a schedule: a number of at least 0 is constant."""
    if isinstance(given, Schedule):
        return given
    return Constant(number(who, name, given))


def number(who: str, name: str, given: object) -> float:
    """``given``, a finite number of at least 0; ModelError otherwise."""
    real = isinstance(given, int | float) and not isinstance(given, bool)
    if not real or not isfinite(given) or given < 0:  # type: ignore[arg-type, operator]
        raise mistake(f"{who}: {name} must be a finite number from 0, got {given!r}")
    return given  # type: ignore[return-value]


def steps(who: str, name: str, given: object) -> None:
    """``given`` must be a whole number of at least 1; ModelError otherwise."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise mistake(f"{who}: {name} must be a whole number from 1, got {given!r}")


def _real(b: GraphBuilder, step: Value) -> Value:
    return b("cast", step, dtype="f32")
