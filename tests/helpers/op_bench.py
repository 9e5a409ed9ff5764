"""One op on a bench: its graph is built, verified, printed, read back and run."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convc.ir.builder import GraphBuilder
from convc.ir.graph import Attr, Graph, Value
from convc.ir.interpreter import interpret
from convc.ir.ops import OPS
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.ir.types import DType, TensorType
from convc.ir.verifier import verify

Array = NDArray[Any]
ROUNDOFF = 2.0**-53
"""Largest relative error of one float64 operation."""


@dataclass(frozen=True)
class Case:
    """An op at one geometry, with what PyTorch says it means.

    ``reference`` takes the operands as torch tensors (floats as float64) and the
    attributes by name. A domain for each operand says what it is filled with: "" any
    number, "positive", "share" for one that dropout may keep, or "below 5" for the
    integers 0 … 4.
    """

    op: str
    types: tuple[str, ...]
    reference: Callable[..., Any]
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    batch: int = 2
    note: str = ""

    @property
    def id(self) -> str:
        """The test's name: the op and what is special here."""
        attrs = ",".join(f"{k}={v}" for k, v in self.attrs.items())
        shown = self.note or ",".join((*self.types, attrs))
        return f"{self.op}-{shown}".replace(" ", "")

    @property
    def tensors(self) -> tuple[TensorType, ...]:
        """The operands' types."""
        return tuple(tensor(t) for t in self.types)

    def arrays(self, integers: bool = False) -> list[Array]:
        """Operands for this case, the same on every call."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        domains = self.domains or ("",) * len(self.types)
        operands = enumerate(zip(self.tensors, domains, strict=True))
        return [
            fill(rng, t, self.batch, domain, integers, number)
            for number, (t, domain) in operands
        ]

    def expected(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """What the reference gives, in float64."""
        out = self.reference(*map(wide_tensor, arrays), **self.attrs)
        several = out if isinstance(out, tuple) else (out,)
        return tuple(np.asarray(t.detach()) for t in several)

    @property
    def terms(self) -> int:
        """The length of the op's longest sum."""
        op = OPS[self.op]
        full = op.check(self.tensors, self.attrs)
        return op.reduction(self.tensors, full, self.batch)


def tensor(text: str) -> TensorType:
    """The type that ``text`` spells in IR text."""
    return parse(f"graph g(%x: {text}) -> () {{}}").inputs[0].type


def wide_tensor(array: Array) -> torch.Tensor:
    """``array`` as a torch tensor, floats as float64 that may receive gradients."""
    if array.dtype.kind == "f":
        return torch.tensor(array, dtype=torch.float64, requires_grad=True)
    return torch.tensor(array)


def fill(
    rng: np.random.Generator,
    of: TensorType,
    batch: int,
    domain: str = "",
    integers: bool = False,
    number: int = 0,
) -> Array:
    """Data of a type: distinct multiples of a step away from 0, or small integers.

    Distinct and non-zero, so that no maximum is tied and no kink is near.
    """
    shape, count = of.bind(batch), of.elements(batch)
    if of.dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if domain.startswith("below "):
        return rng.integers(0, int(domain[6:]), shape).astype(of.dtype.numpy)
    if domain == "share":
        return np.full(shape, 0.375, of.dtype.numpy)
    low = 1 if domain == "positive" or of.dtype is DType.U8 else -6
    if integers or not of.dtype.is_float:
        return rng.integers(low, 7, shape).astype(of.dtype.numpy)
    steps = rng.permutation(count) + 0.3 + 0.07 * number
    if domain == "positive":
        return np.reshape(0.3 + 3.0 * steps / count, shape)
    return np.reshape((steps - (count - 1) / 2) * 4.0 / count, shape)


def one_op(
    op: str, types: Sequence[str | TensorType], attrs: Mapping[str, Attr]
) -> Graph:
    """A verified graph of one op on inputs a0, a1, … with outputs y0, y1 and so on.

    The input ``images`` sets the batch where no operand does.
    """
    b = GraphBuilder("bench")
    b.input("images", tensor("u8[N]"))
    values = [
        b.input(f"a{i}", tensor(t) if isinstance(t, str) else t)
        for i, t in enumerate(types)
    ]
    for i, value in enumerate(b.emit(op, values, attrs)):
        b.output(f"y{i}", value)
    graph = verify(b.finish())
    assert parse(print_graph(graph)) == graph
    return graph


def run_op(
    op: str,
    types: Sequence[str],
    arrays: Sequence[Array],
    float64: bool = True,
    batch: int = 2,
    **attrs: Attr,
) -> tuple[Array, ...]:
    """The op's results on ``arrays``."""
    graph = one_op(op, types, attrs)
    feeds = {f"a{i}": a for i, a in enumerate(arrays)}
    feeds["images"] = np.zeros(batch, np.uint8)
    return tuple(interpret(graph, feeds, {}, float64).outputs.values())


def weighted_sum(b: GraphBuilder, y: Value, name: str = "weights") -> Value:
    """A scalar with a different slope in each element of ``y``: sum of y · weights."""
    product = b("multiply", y, b.input(name, y.type))
    axes = tuple(range(y.type.rank))
    return b("reduce_sum", product, axes=axes) if axes else product
