"""Writes a traced graph as a PyTorch file: a module that users of PyTorch would write.

Its gradients are PyTorch's own, so that it checks ours from outside: neither the rules
of ``ir/ops`` nor the interpreter have a part in it.
"""

import json
from dataclasses import dataclass, field

from convc.backends.source import LINE, Writer, comment, listed, wrapped
from convc.backends.torch.ops import TYPES, expression, refusal, statistics_of
from convc.backends.torch.prelude import PARAMETER, TAIL, helpers_for
from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Node, Parameter, Value

FILTER = (3, 2, 0, 1)
"""The axes of a filter [h, w, in, out] in the order that PyTorch wants them."""
ROWS = (1, 0)
"""Those of a matrix [in, out]."""


def emit_torch(graph: Graph, batch: int, own_masks: bool = True) -> str:
    """The source for a graph at the tensor stage, with ``batch`` for its own timing.

    Without ``own_masks`` dropout is PyTorch's, whose random bits are others.
    CompileError, with the user's line, for what is not written in PyTorch.
    """
    if graph.stage != "tensor":
        raise CompileError(
            f"the torch backend takes a graph as traced, not one at the {graph.stage} "
            "stage"
        )
    return _File(graph, batch, own_masks).source()


@dataclass
class _File:
    graph: Graph
    batch: int
    own_masks: bool
    names: dict[str, str] = field(default_factory=dict)
    stored: dict[str, tuple[int, ...]] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.makers, self.users = self.graph.producers(), self.graph.users()
        self.shown = self.graph.live_out()

    def source(self) -> str:
        """The whole file."""
        for number, value in enumerate(self.graph.inputs):
            self.names[value.name] = f"x{number}"
        for number, item in enumerate(self.graph.parameters):
            self.names[item.value.name] = f"self.p{number}"
            self.stored[item.value.name] = self._order(item.value)
        body = Writer()
        self._forward(body)
        text = "\n".join(body.lines)
        w = Writer()
        w(f'"""{comment(self.graph.name)}: emitted by convc for PyTorch.', "")
        w("Gradients are autograd's. Values have the axes of the graph, images")
        w("[n, h, w, c]: nchw and nhwc are views, whatever the order in memory.")
        w('"""', "", "import timeit", "", "import torch")
        w("import torch.nn.functional as F", "", f"BATCH = {self.batch}")
        for helper in (*helpers_for(text), PARAMETER):
            w("", "")
            w.block(helper)
        w("", "")
        w.block(text)
        self._tables(w)
        w("", "")
        w.block(TAIL)
        return "\n".join(w.lines) + "\n"

    # -- parameters

    def _order(self, value: Value) -> tuple[int, ...]:
        """How a parameter is stored: as PyTorch's layers want it that read it first."""
        for user in self.users[value.name]:
            if user.op == "conv2d" and user.operands[1] == value:
                return FILTER
            if user.op == "matmul" and user.operands[1] == value:
                return tuple(range(2)) if user.attrs["transpose_b"] else ROWS
        return tuple(range(value.type.rank))

    def _declare(self, w: Writer, item: Parameter) -> None:
        value, order = item.value, self.stored[item.value.name]
        shape = [str(value.type.bind(1)[axis]) for axis in order]
        kind = TYPES[value.type.dtype]
        shape += [] if kind == "torch.float32" else [f"dtype={kind}"]
        shape += [] if item.trainable else ["trained=False"]
        name = self.names[value.name]
        w(f"# {comment(value.name)}: {value.type}")
        w(f"{name} = parameter({', '.join(shape)})")

    def _read(self, value: Value) -> str:
        """A value with the axes of the graph."""
        name, order = self.names[value.name], self.stored.get(value.name)
        if order is None or order == tuple(range(len(order))):
            return name
        back = tuple(order.index(axis) for axis in range(len(order)))
        return f"{name}.permute{back}"

    # -- the pass

    def _forward(self, w: Writer) -> None:
        w("class Network(torch.nn.Module):")
        w.depth += 1
        w('"""The parameters, and the pass that reads them."""', "")
        w("def __init__(self):")
        w.depth += 1
        w("super().__init__()")
        for item in self.graph.parameters:
            self._declare(w, item)
        w.depth -= 1
        inputs = ", ".join(self.names[v.name] for v in self.graph.inputs)
        w("", f"def forward(self, {inputs}):")
        w.depth += 1
        for value in self.graph.inputs:
            w(f"# {self.names[value.name]} is {comment(value.name)}: {value.type}")
        batched = next((v for v in self.graph.inputs if v.type.batched), None)
        if batched is not None:
            w(f"n = len({self.names[batched.name]})")
        place = ""
        for node in self.graph.nodes:
            if node.name in self.written:
                continue
            now = comment(listed(node.locs))
            if now and now != place:
                w(f"# {now}"[: LINE - 4 * w.depth])
                place = now
            self._node(w, node)
        self._updates(w)
        w(f"return [{', '.join(self._read(v) for _, v in self.graph.outputs)}]")
        w.depth -= 2

    def _updates(self, w: Writer) -> None:
        if self.graph.updates:
            w("with torch.no_grad():")
        for target, value in self.graph.updates:
            name, order = self.names[target.name], self.stored[target.name]
            made = self._read(value)
            if order != tuple(range(len(order))):
                made = f"{made}.permute{order}"
            w(f"    {name}.copy_({made})")

    def _node(self, w: Writer, node: Node) -> None:
        norm = self._norm_of(node)
        if norm is not None:
            self._normalized(w, norm)
            return
        if not self.own_masks and self._dropout(w, node):
            return
        if node.op == "batch_norm" and self._is_fixed(node):
            self._line(w, self._name(node.result), self._fixed_norm(node))
            return
        result, bias = node.results[0], ""
        if node.op in ("conv2d", "matmul"):
            follower = self._biased(node)
            if follower is not None:
                bias = self._read(follower.operands[1])
                result = follower.result
                self.written.add(follower.name)
        names = [self._operand(node, at) for at in range(len(node.operands))]
        self._line(w, self._name(result), expression(node, names, bias))

    def _operand(self, node: Node, at: int) -> str:
        """An operand as the call wants it: weights as PyTorch's layers store them."""
        value = node.operands[at]
        if at == 1 and node.op == "conv2d":
            stored = self.stored.get(value.name) == FILTER
            name = self.names[value.name]
            return name if stored else f"{self._read(value)}.permute{FILTER}"
        if at == 1 and node.op == "matmul":
            turned = self.stored.get(value.name) == ROWS
            rows = turned != node.attrs["transpose_b"]
            name = self.names[value.name]
            return name if rows else f"{name}.mT"
        return self._read(value)

    def _biased(self, node: Node) -> Node | None:
        """The bias_add that is all that reads a product."""
        users = self.users[node.name]
        alone = len(users) == 1 and node.name not in self.shown
        if not alone or users[0].op != "bias_add":
            return None
        to, bias = users[0].operands
        return users[0] if to == node.result and bias.name in self.names else None

    def _norm_of(self, node: Node) -> Node | None:
        """The batch_norm that a statistic is made for, by the same call."""
        for user in self.users[node.name]:
            known = all(v.name in self.names for v in user.operands[:3])
            if user.op != "batch_norm" or not known:
                continue
            if node.result in (statistics_of(user, self.makers) or ()):
                return user
        return None

    def _normalized(self, w: Writer, node: Node) -> None:
        """A batch_norm and the statistics of its operand."""
        found = statistics_of(node, self.makers) or ()
        made = (node.result, *found)
        self.written.update(v.name for v in made)
        given = ", ".join(self._read(v) for v in node.operands[:3])
        call = f"batch_norm({given}, {node.attrs['epsilon']!r})"
        self._line(w, ", ".join(map(self._name, made)), call)

    def _is_fixed(self, node: Node) -> bool:
        """Whether the statistics of a batch_norm are parameters that nobody trains."""
        fixed = {p.value.name for p in self.graph.parameters if not p.trainable}
        return all(v.name in fixed for v in node.operands[3:])

    def _fixed_norm(self, node: Node) -> str:
        x, gamma, beta, mean, variance = map(self._read, node.operands)
        given = f"{mean}, {variance}, {gamma}, {beta}, eps={node.attrs['epsilon']!r}"
        return f"F.batch_norm({x}.movedim(-1, 1), {given}).movedim(1, -1)"

    def _dropout(self, w: Writer, node: Node) -> bool:
        """PyTorch's own dropout for ours, whose mask then is not drawn."""
        if node.op == "dropout_mask" and node.name not in self.shown:
            return True
        if node.op != "apply_mask":
            return False
        mask = self.makers.get(node.operands[1].name)
        if mask is None or mask.op != "dropout_mask":
            raise refusal(node, "its mask is not drawn in the graph")
        x, keep = self._read(node.operands[0]), mask.attrs["keep"]
        call = f"F.dropout({x}, 1 - {keep!r}, self.training)"
        self._line(w, self._name(node.result), call)
        return True

    def _name(self, value: Value) -> str:
        given = len(self.graph.inputs) + len(self.graph.parameters)
        self.names[value.name] = f"v{len(self.names) - given}"
        return self.names[value.name]

    def _line(self, w: Writer, name: str, call: str) -> None:
        room = LINE - 4 * w.depth
        w(*wrapped(f"{name} = {call}", room))

    # -- tables

    def _tables(self, w: Writer) -> None:
        w("", "", "# name: dtype and shape, None for the batch", "INPUTS = {")
        for value in self.graph.inputs:
            shape = tuple(None if isinstance(d, str) else d for d in value.type.shape)
            row = f"({TYPES[value.type.dtype]}, {shape})"
            w(f"    {json.dumps(value.name)}: {row},")
        w("}", "# name: attribute of Network, its axes in the order they are stored in")
        w("PARAMETERS = {")
        for item in self.graph.parameters:
            name, order = item.value.name, self.stored[item.value.name]
            attribute = self.names[name].removeprefix("self.")
            w(f'    {json.dumps(name)}: ("{attribute}", {order}),')
        w("}", "OUTPUTS = [")
        w(*(f"    {json.dumps(name)}," for name, _ in self.graph.outputs), "]")
