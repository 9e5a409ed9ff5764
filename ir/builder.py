"""Builds a graph node by node, inferring every type."""

import re
from collections.abc import Iterable

from convc.ir.errors import TypeRuleError
from convc.ir.graph import Attr, Attrs, Graph, Loc, Node, Parameter, Value
from convc.ir.ops import op_named
from convc.ir.types import TensorType

NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./-]{0,199}")
"""What a value may be called (printed with a % in front)."""


class GraphBuilder:
    """Appends nodes; ``b("relu", x)`` returns the result value.

    ``locs`` is attached to each node made while it is set. TypeRuleError when an op's
    rule is broken or a name is taken.
    """

    def __init__(self, name: str, base: Graph | None = None) -> None:
        self.name = name
        self.inputs = list(base.inputs) if base else []
        self.parameters = list(base.parameters) if base else []
        self.nodes = list(base.nodes) if base else []
        self.outputs = list(base.outputs) if base else []
        self.updates = list(base.updates) if base else []
        self.feeds = base.feeds if base else ()
        self.locs: tuple[Loc, ...] = ()
        self._names = {v.name for v in base.values()} if base else set()
        numbers = [int(n) for n in self._names if n.isdigit() and len(n) < 10]
        self._next = 1 + max(numbers, default=0)

    def __call__(self, op: str, *operands: Value, **attrs: Attr) -> Value:
        """Append a node with one result and return the result."""
        (result,) = self.emit(op, operands, attrs)
        return result

    def emit(
        self,
        op: str,
        operands: Iterable[Value],
        attrs: Attrs,
        names: tuple[str, ...] | None = None,
    ) -> tuple[Value, ...]:
        """Append a node; ``names`` are those of its results (default: numbers)."""
        rule, operands = op_named(op), tuple(operands)
        types = [v.type for v in operands]
        full = rule.check(types, attrs)
        result_types = rule.result_types(types, full)
        names = names or self._numbers(len(result_types))
        for name in names:
            self._claim(name)
        results = tuple(Value(n, t) for n, t in zip(names, result_types, strict=True))
        self.nodes.append(Node(op, operands, results, full, self.locs))
        return results

    def constant(self, value: float, like: TensorType) -> Value:
        """A scalar constant of the dtype of ``like``."""
        return self("constant", value=float(value), dtype=like.dtype.value)

    def input(self, name: str, tensor: TensorType) -> Value:
        """Declare an input."""
        self._claim(name)
        self.inputs.append(Value(name, tensor))
        return self.inputs[-1]

    def parameter(
        self,
        name: str,
        tensor: TensorType,
        initializer: str = "zeros",
        attrs: Attrs | None = None,
        trainable: bool = True,
    ) -> Value:
        """Declare a parameter or, with ``trainable=False``, a state."""
        self._claim(name)
        value = Value(name, tensor)
        self.parameters.append(
            Parameter(value, initializer, attrs or {}, trainable, self.locs)
        )
        return value

    def output(self, name: str, value: Value) -> None:
        """Declare an output."""
        if name in dict(self.outputs):
            raise TypeRuleError(f"the output {name!r} is declared twice")
        self.outputs.append((name, value))

    def update(self, parameter: Value, value: Value) -> None:
        """Let ``parameter`` take ``value`` when the program has run."""
        if parameter.type != value.type:
            raise TypeRuleError(
                f"update of {parameter}: {parameter.type} cannot take {value.type}"
            )
        self.updates.append((parameter, value))

    def _numbers(self, count: int) -> tuple[str, ...]:
        return tuple(str(self._next + i) for i in range(count))

    def _claim(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise TypeRuleError(
                f"a name has letters, digits and _ . / - only, got {name!r}"
            )
        if name in self._names:
            raise TypeRuleError(f"the name %{name} is taken")
        self._names.add(name)
        if name.isdigit() and len(name) < 10:
            self._next = max(self._next, int(name) + 1)

    def finish(self) -> Graph:
        """The graph built so far, at the tensor stage."""
        return Graph(
            self.name,
            tuple(self.inputs),
            tuple(self.parameters),
            tuple(self.nodes),
            tuple(self.outputs),
            tuple(self.updates),
            feeds=self.feeds,
        )
