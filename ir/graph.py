"""Graph, Node, Value: the program in static single assignment form.

Every class is an immutable record: a pass builds a new graph, and two graphs are
equal when their printed forms are. Names are unique within a graph.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import networkx as nx

from convc.ir.types import TensorType

Attr = bool | int | float | str | tuple["Attr", ...]
Attrs = Mapping[str, Attr]

STAGES = ("tensor", "fusing", "kernel", "planned")
"""tensor: plain ops; fusing: ops and kernels; kernel: kernels with schedules, and
views; planned: the same with an arena."""

VIEWS = ("reshape",)
"""Ops that may stand outside a kernel after fusion: they only rename memory."""


@dataclass(frozen=True)
class Loc:
    """Where a node comes from: the user's file and line, and the layer's scope."""

    file: str
    line: int
    layer: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f" {self.layer}" if self.layer else "")


@dataclass(frozen=True)
class Value:
    """A named tensor: an input, a parameter or the result of a node."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Parameter:
    """A tensor that lives from step to step.

    ``trainable`` ones receive gradients; the others are state (moments, counters,
    moving averages). ``initializer`` names a rule with its arguments in ``attrs``.
    """

    value: Value
    initializer: str
    attrs: Attrs = field(default_factory=dict)
    trainable: bool = True
    locs: tuple[Loc, ...] = ()


@dataclass(frozen=True)
class Region:
    """The body of a kernel: its own inputs, nodes and yielded values."""

    inputs: tuple[Value, ...]
    nodes: tuple["Node", ...]
    yields: tuple[Value, ...]


@dataclass(frozen=True)
class Node:
    """One operation: op name, operands, attributes, results and where it comes from.

    A fused kernel is a node with op ``kernel``, a ``region`` that says what it means
    and a ``schedule`` that says how it is run.
    """

    op: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    attrs: Attrs = field(default_factory=dict)
    locs: tuple[Loc, ...] = ()
    region: Region | None = None
    schedule: Attrs | None = None

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    @property
    def name(self) -> str:
        """A unique name: that of the first result."""
        return self.results[0].name


@dataclass(frozen=True)
class Buffer:
    """A range of the arena that holds ``name`` from launch ``first`` to ``last``.

    ``name`` is a value, or ``kernel!scratch`` for a kernel's private memory; offsets
    and sizes are in bytes. Parameters and their updates live through all launches.
    """

    name: str
    offset: int
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """The memory plan: one block of ``size`` bytes, good for 1 … ``batch`` images.

    ``threads`` workers share each kernel; ``blas`` is how many threads each may have
    for a matrix product.
    """

    size: int
    batch: int
    threads: int
    buffers: tuple[Buffer, ...]
    blas: int = 1


@dataclass(frozen=True)
class Graph:
    """A program: inputs, parameters, nodes in execution order, named outputs.

    ``updates`` says which value each parameter takes when the program has run,
    ``feeds`` which number an input f32[] holds as long as it is given no other.
    """

    name: str
    inputs: tuple[Value, ...]
    parameters: tuple[Parameter, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, Value], ...]
    updates: tuple[tuple[Value, Value], ...] = ()
    stage: str = "tensor"
    arena: Arena | None = None
    feeds: tuple[tuple[str, float], ...] = ()

    def values(self) -> Iterator[Value]:
        """Every value of the graph in order of definition."""
        yield from self.inputs
        yield from (p.value for p in self.parameters)
        for node in self.nodes:
            yield from node.results

    def ops(self) -> Iterator[Node]:
        """Every op in order, those in kernels in the place of their kernel."""
        for node in self.nodes:
            yield from node.region.nodes if node.region else (node,)

    def producers(self) -> dict[str, Node]:
        """The node that defines each value, by the value's name."""
        return {v.name: node for node in self.nodes for v in node.results}

    def users(self) -> dict[str, list[Node]]:
        """The nodes that read each value, by the value's name."""
        users: dict[str, list[Node]] = {v.name: [] for v in self.values()}
        for node in self.nodes:
            for name in dict.fromkeys(v.name for v in node.operands):
                users[name].append(node)
        return users

    def live_out(self) -> set[str]:
        """Names of values that must outlast the last node: outputs and updates."""
        return {v.name for _, v in self.outputs} | {v.name for _, v in self.updates}

    def parameter(self, name: str) -> Parameter:
        """The parameter called ``name``; KeyError if there is none."""
        return next(p for p in self.parameters if p.value.name == name)

    def output(self, name: str) -> Value:
        """The output called ``name``; KeyError if there is none."""
        return dict(self.outputs)[name]

    def dataflow(self) -> "nx.DiGraph[str]":
        """The nodes as a directed graph, an edge for each value that is passed on."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        producers = self.producers()
        for node in self.nodes:
            graph.add_node(node.name, node=node)
            for value in node.operands:
                if value.name in producers:
                    graph.add_edge(producers[value.name].name, node.name)
        return graph


def substitute(node: Node, table: Mapping[str, Value]) -> Node:
    """``node`` reading ``table[name]`` wherever it read a value of that name."""
    if not any(v.name in table for v in node.operands):
        return node
    return replace(node, operands=tuple(table.get(v.name, v) for v in node.operands))


def rename_uses(graph: Graph, table: Mapping[str, Value]) -> Graph:
    """``graph`` with every use of a name in ``table`` replaced, outputs included."""
    return replace(
        graph,
        nodes=tuple(substitute(n, table) for n in graph.nodes),
        outputs=tuple((k, table.get(v.name, v)) for k, v in graph.outputs),
        updates=tuple((p, table.get(v.name, v)) for p, v in graph.updates),
    )


def in_order(graph: Graph, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """``nodes`` sorted so that definitions precede uses.

    They stay as near as may be to the order given, which breaks ties.
    """
    listed = list(nodes)
    position = {n.name: i for i, n in enumerate(listed)}
    flow = replace(graph, nodes=tuple(listed)).dataflow()
    by_name = {n.name: n for n in listed}
    order = nx.lexicographical_topological_sort(flow, key=lambda name: position[name])
    return tuple(by_name[name] for name in order)


def merge_locs(nodes: Iterable[Node]) -> tuple[Loc, ...]:
    """The origins of several nodes, each once, in order."""
    return tuple(dict.fromkeys(loc for node in nodes for loc in node.locs))
