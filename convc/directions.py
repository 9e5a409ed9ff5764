"""A training step in blocks, and each direction of a block as a graph of its own.

A block is a layer with parameters and what follows it up to the next. Its directions:

- forward: with what the backward directions read kept, as in a training step;
- input gradient: of the block's input, from a gradient of its results;
- weight gradient: of its parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import networkx as nx

from convc.autodiff import pull_back
from convc.ir.builder import GraphBuilder
from convc.ir.graph import Graph
from convc.ir.ops import OPS
from convc.passes.canonicalize import CANONICALIZE, drop_dead
from convc.passes.commute_relu import COMMUTE_RELU
from convc.passes.fold_padding import FOLD_PADDING
from convc.passes.manager import Pass
from convc.pipeline import Step
from convc.summary import layer_of
from convc.trust.audit import blocks
from convc.trust.window import window

if TYPE_CHECKING:
    from convc.model import Model

FORWARD, INPUT, WEIGHT = "forward", "input gradient", "weight gradient"
DIRECTIONS = (FORWARD, INPUT, WEIGHT)
SAVED = ("max_pool2d_argmax",)
"""Ops of the rules of differentiation that belong to the forward direction."""

_BEFORE = (CANONICALIZE, FOLD_PADDING, COMMUTE_RELU)
_AFTER = Pass("simplify", CANONICALIZE.rewrite)


@dataclass(frozen=True)
class Block:
    """A layer and the layers with it: their ops as traced, and all directions.

    ``joint`` has the forward outputs and the gradients; ``cotangents`` names the input
    that weighs each forward output, ``gradients`` the outputs of each direction with
    the input or parameter whose gradient they are.
    """

    layer: str
    others: tuple[str, ...]
    traced: Graph
    joint: Graph
    cotangents: Mapping[str, str]
    gradients: Mapping[str, Mapping[str, str]]

    @property
    def directions(self) -> tuple[str, ...]:
        """Those that the block has."""
        return (FORWARD, *(d for d in (INPUT, WEIGHT) if self.gradients[d]))

    @cached_property
    def flow(self) -> nx.DiGraph[str]:
        """The joint graph's data flow."""
        return self.joint.dataflow()

    @cached_property
    def backward(self) -> frozenset[str]:
        """The nodes that depend on a cotangent, or belong to the rules alone."""
        own = {n.name for n in self.traced.nodes}
        return frozenset(
            n.name
            for n in self.joint.nodes
            if n.name not in own and n.op not in SAVED and n.op != "constant"
        )

    def graph(self, direction: str) -> Graph:
        """One direction as a graph; what it reads from others is an input."""
        if direction == FORWARD:
            kept = [n.name for n in self.joint.nodes if n.name not in self.backward]
            return window(self.joint, kept)
        outputs = self.gradients[direction]
        results = dict(self.joint.outputs)
        wanted = {results[name].name for name in outputs}
        needed = set(wanted)
        for name in wanted & set(self.flow):
            needed |= nx.ancestors(self.flow, name)
        part = window(self.joint, needed & self.backward)
        shown = tuple((name, results[name]) for name in outputs)
        return replace(part, outputs=shown, updates=())


def blocks_of(model: Model) -> Iterator[Block]:
    """The blocks of a model's training step, in order."""
    graph = model.training_step().graph
    images = {v.name for v in graph.inputs}
    for layer, nodes in blocks(graph):
        part = window(graph, [n.name for n in nodes])
        part = drop_dead(replace(part, updates=()))
        names = dict.fromkeys(layer_of(loc) for n in nodes for loc in n.locs)
        others = tuple(name for name in names if name != layer)
        yield Block(layer, others, part, *_joint(part, images))


def _joint(
    part: Graph, images: set[str]
) -> tuple[Graph, dict[str, str], dict[str, dict[str, str]]]:
    """A part with the adjoint of its rules, and the names that ``Block`` wants."""
    graph = Step(part, _BEFORE).stages(batch=1, threads=1)[-1].graph
    b = GraphBuilder(graph.name, graph)
    results = [(k, v) for k, v in graph.outputs if v.type.dtype.is_float]
    cotangents = {k: f"cotangent/{k}" for k, _ in results}
    weighed = [(v, b.input(cotangents[k], v.type.plain)) for k, v in results]
    leaves = {
        INPUT: [
            v for v in graph.inputs if v.type.dtype.is_float and v.name not in images
        ],
        WEIGHT: [p.value for p in graph.parameters if p.trainable],
    }
    every = [*leaves[INPUT], *leaves[WEIGHT]]
    found = dict(
        zip((v.name for v in every), pull_back(b, weighed, every), strict=True)
    )
    gradients: dict[str, dict[str, str]] = {}
    for direction, values in leaves.items():
        gradients[direction] = {}
        for value in values:
            gradient = found[value.name]
            if gradient is not None:
                gradients[direction][f"gradient/{value.name}"] = value.name
                b.output(f"gradient/{value.name}", gradient)
    joint = Step(b.finish(), (_AFTER,)).stages(batch=1, threads=1)[-1].graph
    return joint, cotangents, gradients


def work_of(block: Block, direction: str, batch: int) -> tuple[int, int]:
    """FLOPs by definition, and bytes of what is read and given, each once."""
    graph = block.graph(direction)
    flops = sum(
        OPS[n.op].flops([v.type for v in n.operands], n.attrs, batch)
        for n in graph.nodes
    )
    moved = [*graph.inputs, *(p.value for p in graph.parameters)]
    moved += [v for _, v in graph.outputs]
    return flops, sum(v.type.nbytes(batch) for v in moved)
