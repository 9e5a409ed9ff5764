"""What a backend promises: which schedules it takes, its scratch, its source."""

from dataclasses import dataclass
from math import prod
from typing import Protocol

from convc.ir.graph import Attrs, Graph, Node, Value
from convc.ir.ops import OPS
from convc.ir.types import DType, TensorType

OPTIMIZERS = ("sgd", "momentum", "adam")
"""Ops that update one parameter."""
ACTIVATIONS = ("relu", "tanh", "sigmoid")
"""Ops of one operand that a convolution's or a product's kernel may end with."""
SLOTS = ("p", "g", "m", "v")
"""The operands of an optimizer that have the parameter's shape."""


@dataclass(frozen=True)
class Scratch:
    """Private memory of one worker while a kernel runs; ``shape`` holds no batch."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes per worker, rounded up to a cache line of 64."""
        return -(-prod(self.shape) * self.dtype.itemsize // 64) * 64


@dataclass(frozen=True)
class Cost:
    """The predicted work of one kernel for one batch, all workers together.

    ``flops`` counts the arithmetic that the algorithm does, not that of the definition;
    ``nbytes`` what crosses main memory: operands and results; ``local`` the bytes that
    copies and elementwise passes read and write on top of it; ``calls`` the calls into
    a library or launches per worker; ``seconds`` is the prediction made of them.
    """

    flops: float = 0.0
    nbytes: float = 0.0
    local: float = 0.0
    calls: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.nbytes + other.nbytes,
            self.local + other.local,
            self.calls + other.calls,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class Candidate:
    """A schedule that the target can run a kernel with, and its predicted cost.

    Where ``direct`` is false, results are not computed as the sums that define them:
    of results that are equal sums one may be larger by rounding, so that another
    element of a pool window wins.
    """

    schedule: Attrs
    cost: Cost
    direct: bool = True


@dataclass(frozen=True)
class EmittedKernel:
    """Where a kernel stands in the emitted source: lines ``first`` … ``last`` from 1.

    ``function`` is its name there, ``node`` that of the graph's node.
    """

    function: str
    node: str
    first: int
    last: int


@dataclass(frozen=True)
class Emitted:
    """The source of a program and its kernels in launch order."""

    source: str
    kernels: tuple[EmittedKernel, ...]


class Backend(Protocol):
    """One target. All methods are pure functions of the graph they are given."""

    name: str
    threaded: bool
    """Whether threads of the host share a step's work."""
    redraws_masks: bool
    """Whether each kernel draws the dropout masks it reads, instead of one for all."""

    def layout(self, tensor: TensorType) -> TensorType:
        """How this target stores a value of that type."""
        ...

    def reads_as_given(self, kernel: Node, operand: int) -> bool:
        """Whether the kernel reads that operand batch first as fast as in its layout.

        As the host gives inputs, which then need no copy.
        """
        ...

    def stores_weights(self, kernel: Node, operand: int, batch: int) -> TensorType:
        """How a kernel's operand without a batch is best stored, for it alone."""
        ...

    def target(self, threads: int) -> str:
        """What measured costs are valid for: the machine and library, in a line."""
        ...

    def candidates(
        self, kernel: Node, batch: int, threads: int
    ) -> tuple[Candidate, ...]:
        """The schedules the target can run a kernel with, best prediction first.

        CompileError if there is none.
        """
        ...

    def check_schedule(self, kernel: Node, batch: int, threads: int) -> None:
        """CompileError when the target cannot run the kernel as it is scheduled."""
        ...

    def scratch(self, kernel: Node, threads: int) -> tuple[Scratch, ...]:
        """The scratch each worker needs for a scheduled kernel."""
        ...

    def in_place(self, kernel: Node) -> tuple[tuple[int, int], ...]:
        """The operands that a scheduled kernel's code may overwrite with a result.

        Pairs of their numbers; the code reads each element of such an operand before
        it writes the result's at the same place. That nobody else reads the operand is
        the planner's business.
        """
        ...

    def emit(self, graph: Graph) -> Emitted:
        """Readable source for a planned graph."""
        ...


def flat_groups(node: Node) -> list[list[Value]]:
    """The values that must lie in one block each, for an optimizer kernel.

    All parameters, all gradients, all first moments, …, each in the order of the
    kernel's updates and without gaps. A gradient that the kernel itself makes of
    another value, dividing that by the loss scale, is that value.
    """
    inside = node.region.nodes if node.region else ()
    body = [n for n in inside if n.op in OPTIMIZERS]
    if not body or node.region is None:
        return []
    outer = {v.name: o for v, o in zip(node.region.inputs, node.operands, strict=True)}
    outer |= {
        n.name: outer[n.operands[0].name]
        for n in inside
        if n.op == "multiply" and n.operands[0].name in outer
    }
    slots = [i for i, s in enumerate(OPS[body[0].op].operands) if s in SLOTS]
    return [[outer[n.operands[i].name] for n in body] for i in slots]
