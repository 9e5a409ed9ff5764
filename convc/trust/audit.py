"""The gradient audit: what compiled kernels compute, against what gradients are.

Two tests for each layer, on the kernels that the backend compiles for it:

- adjoint: a linear map J and its transpose meet <J u, v> = <u, Jᵀ v> for any u and v,
  so a convolution or product must with its two gradients: on whole numbers exactly;
- differences: along a direction u the compiled gradient g must have <g, u> equal to
  central differences in float64 of a loss of the layer's result. The parameters are
  the layer's own and a shift of its input, whose gradient is that of the input summed
  over the images.

Bounds are what rounding allows for these very numbers, by running error analysis of
the one layer: they are tight because nothing before it has rounded. At last the same
differences are taken of the whole network; worst cases multiply from layer to layer, so
these bounds may be loose, and then say so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log2, prod

import numpy as np

from convc.ir import philox
from convc.ir.builder import GraphBuilder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops import OPS
from convc.ir.ops.base import Array
from convc.ir.rounding import bounded
from convc.ir.rounding_base import DOUBLE
from convc.optimizers import SGD
from convc.passes.canonicalize import drop_dead
from convc.passes.differences import Loss, direction
from convc.passes.gradient_check import GRADIENT
from convc.passes.samples import Samples, State
from convc.pipeline import EXACT_LOWERING, Step, training
from convc.trust.window import window

IMAGES = 3
"""Images in every comparison."""
DIRECTIONS = 2
"""Directions along which each pair is compared."""

FEW = 16
"""Elements that a sparse direction moves."""
SHORTEST = 2.0**-12
"""What the length of a gradient counts as at least, when it divides a direction."""
LOOSE = 0.1
"""A bound of more than this part of what is compared says little."""

BACKWARD = tuple(
    p for p in training(SGD(0.0), exact=True) if p.name != "apply-optimizer"
)
"""The passes of a training step that updates nothing; what they bound are sums."""


@dataclass(frozen=True)
class Row:
    """One comparison: two numbers that should be one, how far apart, and the bound.

    ``test`` is "adjoint" or "differences", ``of`` what was compared in that layer.
    """

    layer: str
    test: str
    of: str
    direction: int
    compiled: float
    expected: float
    bound: float

    @property
    def error(self) -> float:
        """How far apart the two are."""
        return abs(self.compiled - self.expected)

    @property
    def loose(self) -> bool:
        """Whether the bound is so large that it says little."""
        return self.bound > LOOSE * max(1.0, abs(self.expected))

    @property
    def ok(self) -> bool:
        """Whether rounding explains the difference; a NaN it does not."""
        return self.error <= self.bound


@dataclass(frozen=True)
class Audit:
    """Audits the forward graph of a model, ``loss`` included if it has one."""

    graph: Graph
    backend: str = "numpy"
    threads: int | None = None

    def rows(self) -> Iterator[Row]:
        """All rows, layer by layer: its adjoints, then its differences; the network."""
        found = list(blocks(self.graph))
        for name, nodes in found:
            for node in nodes:
                if node.op in LINEAR and not node.operands[1].type.batched:
                    yield from self._adjoint(name, node)
            yield from self._differences(name, window(self.graph, _names(nodes)))
        if len(found) > 1:
            every = [n.name for n in self.graph.nodes]
            yield from self._differences("network", window(self.graph, every))

    # -- adjoints

    def _adjoint(self, layer: str, node: Node) -> Iterator[Row]:
        graph = with_adjoints(node)
        step = Step(graph, EXACT_LOWERING)
        program = step.compile(self.backend, IMAGES, self.threads)
        inputs, parameters = Samples(whole=False, batch=IMAGES).of(graph)
        for number in range(DIRECTIONS):
            given = {k: _drawn(k, a, number) for k, a in inputs.items()}
            held = {k: _drawn(k, a, number) for k, a in parameters.items()}
            if number:
                given["v"] = _few("v", given["v"], number)
            program.load(held)
            made = program(**given)
            bounds = bounded(graph, given, held).output_bounds
            forward = _dot(made["y"], given["v"]), _dot(bounds["y"], np.abs(given["v"]))
            for of, u in (("dX", given["x"]), ("dW", held["w"])):
                back = _dot(made[of], u), _dot(bounds[of], np.abs(u))
                yield Row(
                    *(layer, "adjoint", f"{node.op} {of}", number),
                    *(back[0], forward[0], back[1] + forward[1]),
                )

    # -- differences

    def _differences(self, layer: str, part: Graph) -> Iterator[Row]:
        graph = with_loss(part)
        if not any(p.trainable for p in graph.parameters):
            return
        inputs, parameters = dyadic(graph)
        step = Step(graph, BACKWARD)
        program = step.compile(self.backend, IMAGES, self.threads)
        program.load({**program.state(), **parameters})
        made = program(**inputs)
        backward = next(s.graph for s in program.stages if s.name == "simplify")
        bounds = bounded(drop_dead(backward), inputs, parameters).output_bounds
        loss = Loss(drop_dead(replace(graph, updates=())), "loss", inputs, parameters)
        for p in graph.parameters:
            name = GRADIENT + p.value.name
            if p.trainable:
                yield from _follow(layer, p.value.name, loss, made[name], bounds[name])


def dyadic(graph: Graph) -> tuple[State, State]:
    """Inputs of 1 and -1, and such parameters over a power of two.

    It is near the root of the terms that a filter sums. On such numbers the products
    and sums of a few layers do not round: what follows is decided in float32 as in
    float64, and bounds stay small. States are as in any check.
    """
    inputs, parameters = Samples(whole=False, batch=IMAGES).of(graph)
    for name, array in inputs.items():
        if array.dtype.kind == "f":
            inputs[name] = _signs(name, array)
    for p in graph.parameters:
        if p.trainable and p.value.type.dtype.is_float:
            name, terms = p.value.name, prod(p.value.type.inner[:-1])
            scale = 2.0 ** -round(log2(terms) / 2)
            parameters[name] = _signs(name, parameters[name]) * np.float32(scale)
    return inputs, parameters


def _signs(name: str, like: Array) -> Array:
    return np.where(direction(name, like, 0) < 0, -1, 1).astype(np.float32)


def _follow(
    layer: str, name: str, loss: Loss, gradient: Array, bound: Array
) -> Iterator[Row]:
    """The rows of one parameter, along directions as long as 1 / |g| there.

    The first moves all elements. The second moves FEW, for the bound of a sum of
    millions of roundings is large and that of a few is not.
    """
    for number in range(DIRECTIONS):
        u = direction(name, gradient, number)
        if number:
            u = _few(name, u, number)
        u = u / max(_length(gradient[u != 0]), SHORTEST)
        claimed = _dot(gradient, u)
        slope = loss.slope({name: u}, 1.0 + abs(claimed))
        if slope is not None:
            summed = DOUBLE * u.size * _dot(np.abs(gradient), np.abs(u))
            allowed = slope.bound + _dot(bound, np.abs(u)) + summed
            yield Row(
                *(layer, "differences", name, number),
                *(claimed, slope.value, allowed),
            )


def _length(gradient: Array) -> float:
    return float(np.linalg.norm(gradient.astype(np.float64)))


def _few(name: str, u: Array, number: int) -> Array:
    """``u`` with zeros for all but about FEW elements."""
    picked = philox.bits(17, philox.stream_of(name), number, FEW) % u.size
    return np.where(np.isin(np.arange(u.size), picked).reshape(u.shape), u, 0)


def _dot(a: Array, b: Array) -> float:
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


def _drawn(name: str, like: Array, number: int) -> Array:
    """A direction as float32: first whole numbers, on which sums do not round."""
    u = direction(name, like, number)
    return (u if number else np.rint(2 * u)).astype(np.float32)


def _names(nodes: list[Node]) -> list[str]:
    return [n.name for n in nodes]


def blocks(graph: Graph) -> Iterator[tuple[str, list[Node]]]:
    """The layers with parameters, each with what follows it up to the next."""
    trainable = {p.value.name for p in graph.parameters if p.trainable}
    name, nodes = "", list[Node]()
    for node in graph.nodes:
        layer = node.locs[0].layer if node.locs else ""
        starts = any(v.name in trainable for v in node.operands)
        if starts and layer != name:
            if name:
                yield name, nodes
            name, nodes = layer, ([] if name else nodes)
        nodes.append(node)
    if nodes:
        yield name, nodes


def with_loss(part: Graph) -> Graph:
    """``part`` with a scalar ``loss``: its results, every element weighed differently.

    Images that it reads get a shift each, a parameter.
    """
    empty = replace(part, nodes=(), outputs=(), updates=())
    b = GraphBuilder(part.name, empty)
    table: dict[str, Value] = {}
    for value in part.inputs:
        if value.type.dtype.is_float and value.type.batched:
            inner = value.type.plain.with_shape(value.type.inner)
            shift = b.parameter(f"input/{value.name}", inner)
            table[value.name] = b("add", value, shift)
    for node in part.nodes:
        b.locs = node.locs
        operands = [table.get(v.name, v) for v in node.operands]
        made = b.emit(node.op, operands, node.attrs)
        table |= {v.name: new for v, new in zip(node.results, made, strict=True)}
    b.locs = ()
    losses = [
        _weighed(b, name, table.get(v.name, v))
        for name, v in part.outputs
        if v.type.dtype.is_float
    ]
    total = losses[0]
    for more in losses[1:]:
        total = b("add", total, more)
    b.output("loss", total)
    return b.finish()


def _weighed(b: GraphBuilder, name: str, value: Value) -> Value:
    """The sum of ``value`` times an input of its shape; a scalar as it is."""
    if not value.type.rank:
        return value
    if not value.type.batched:
        return b("reduce_sum", value, axes=tuple(range(value.type.rank)))
    product = b("multiply", value, b.input(f"weights/{name}", value.type))
    return b("reduce_sum", product, axes=tuple(range(value.type.rank)))


LINEAR = ("conv2d", "conv2d_input_grad", "matmul")
"""Ops that are linear in their first operand, and in their second."""


def with_adjoints(node: Node) -> Graph:
    """A linear op ``y`` of x and w, and what its rule makes of v: ``dX``, ``dW``."""
    b = GraphBuilder("adjoint")
    b.locs = node.locs
    x, w = node.operands
    operands = b.input("x", x.type.plain), b.parameter("w", w.type.plain)
    v = b.input("v", node.result.type.plain)
    b.output("y", b(node.op, *operands, **node.attrs))
    parts = OPS[node.op].gradient(b, b.nodes[-1], v)
    for name, part in zip(("dX", "dW"), parts, strict=True):
        assert part is not None
        b.output(name, part)
    return b.finish()
