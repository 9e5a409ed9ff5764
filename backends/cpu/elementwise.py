"""Emits elementwise ops: a NumPy call or a few per op, in pieces that fit a cache."""

import re
from collections.abc import Callable

from convc.backends.base import ACTIVATIONS, Scratch
from convc.backends.cpu.activation import activate
from convc.backends.cpu.emitter import Emitter
from convc.backends.cpu.kernel import Kernel, scalar, single
from convc.backends.source import Writer
from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import number
from convc.ir.types import DType, TensorType

PIECE = 128 * 1024
"""Elements per call."""

Lines = Callable[[Node], list[str]]


def _call(function: str, count: int) -> Lines:
    names = ", ".join("xyz"[:count])
    return lambda node: [f"{function}({names}, out=o)"]


def _activation(node: Node) -> list[str]:
    return activate(node, "x", "o", work="o")


def _apply_mask(node: Node) -> list[str]:
    scale = scalar(node.attrs["scale"], node.result.type.dtype)
    return [f"multiply(x, {scale}, out=o)", "multiply(o, y, out=o)"]


def _moving_average(node: Node) -> list[str]:
    momentum, dtype = number(node.attrs["momentum"]), node.result.type.dtype
    return [
        f"multiply(y, {scalar(1 - momentum, dtype)}, out=s)",
        f"multiply(x, {scalar(momentum, dtype)}, out=o)",
        "add(o, s, out=o)",
    ]


LINES: dict[str, Lines] = {
    "add": _call("add", 2),
    "subtract": _call("subtract", 2),
    "multiply": _call("multiply", 2),
    "divide": _call("np.divide", 2),
    "maximum": _call("maximum", 2),
    "minimum": _call("np.minimum", 2),
    "greater_equal": _call("np.greater_equal", 2),
    "equal": _call("equal", 2),
    "negate": _call("np.negative", 1),
    "exp": _call("np.exp", 1),
    "log": _call("np.log", 1),
    "sqrt": _call("np.sqrt", 1),
    "cos": _call("np.cos", 1),
    **dict.fromkeys(ACTIVATIONS, _activation),
    "relu_grad": lambda node: ["greater(x, ZERO, out=s)", "multiply(y, s, out=o)"],
    "bias_add": _call("add", 2),
    "cast": lambda node: ['copyto(o, x, casting="unsafe")'],
    "copy": lambda node: ["copyto(o, x)"],
    "apply_mask": _apply_mask,
    "apply_keep": lambda node: ["multiply(x, y, out=o)", "np.divide(o, z, out=o)"],
    "moving_average": _moving_average,
}
"""The calls of each op on operands x, y, result o and scratch s."""

TEMPORARY = {"relu_grad": DType.BOOL, "moving_average": None}
"""Ops that need scratch, and its dtype (None: the result's)."""


class Elementwise(Emitter):
    """One elementwise op; workers share the first stored axis or the flat elements."""

    def matches(self, kernel: Kernel) -> bool:
        """Whether this emitter is responsible for the kernel."""
        return len(kernel.ops) == 1 and kernel.ops[0].op in LINES

    def schedules(self, kernel: Kernel, batch: int) -> list[Attrs]:
        """Pieces of a fixed number of elements."""
        return [{"algorithm": "elementwise", "piece": PIECE}]

    def scratch(self, kernel: Kernel) -> tuple[Scratch, ...]:
        """A piece, for the ops that take two steps."""
        node = single(kernel)
        if node.op not in TEMPORARY:
            return ()
        dtype = TEMPORARY[node.op] or node.result.type.dtype
        return (Scratch("s", dtype, (kernel.integer("piece"),)),)

    def in_place(self, kernel: Kernel) -> tuple[tuple[int, int], ...]:
        """The operands that are stored as the result and not read once it is begun.

        Workers cut such operands as they cut the result; a single call reads each
        element before it writes it.
        """
        node = single(kernel)
        lines = LINES[node.op](node)
        begun = next(k for k, line in enumerate(lines) if re.search(r"\bo\b", line))
        late = set(re.findall(r"\b[xyz]\b", "".join(lines[begun + 1 :])))
        kept = {
            v for name, v in zip("xyz", node.operands, strict=False) if name in late
        }
        return tuple(
            (i, 0)
            for i, inside in enumerate(kernel.region.inputs)
            if inside not in kept and kernel.type(inside) == kernel.type(node.result)
        )

    def reads_as_given(self, kernel: Kernel, value: Value) -> bool:
        """The op is a copy into the result's order at the same time."""
        return single(kernel).op not in TEMPORARY

    def emit(self, w: Writer, kernel: Kernel) -> None:
        """Write the body of the kernel's function."""
        node = single(kernel)
        stored = [kernel.type(v) for v in (*node.operands, node.result)]
        alike = all(t == stored[-1].with_dtype(t.dtype) for t in stored)
        if node.op != "copy" and alike and stored[-1].rank:
            self._emit_flat(w, kernel, node)
        else:
            self._emit_broadcast(w, kernel, node)

    def _emit_flat(self, w: Writer, kernel: Kernel, node: Node) -> None:
        """All arrays have one layout: cut the flat elements."""
        names = "xyz"[: len(node.operands)]
        size = " * ".join(kernel.dims(node.result)) or "1"
        for name, value in zip(names, node.operands, strict=True):
            w(f"{name}_all = {kernel.mem(value, size)}")
        w(f"o_all = {kernel.mem(node.result, size)}")
        if node.op in TEMPORARY:
            w(f"s_all = {kernel.private('s')}")
        w(f"for i, m in pieces(*share({size}, t), {kernel.integer('piece')}):")
        w.depth += 1
        w(*(f"{name} = {name}_all[i : i + m]" for name in (*names, "o")))
        if node.op in TEMPORARY:
            w("s = s_all[:m]")
        w.steps(*LINES[node.op](node))
        w.depth -= 1

    def _emit_broadcast(self, w: Writer, kernel: Kernel, node: Node) -> None:
        """Shapes or layouts differ: cut the first stored axis of the result."""
        out = kernel.type(node.result)
        dims = kernel.dims(node.result)
        names = "xyz"[: len(node.operands)]
        if not dims or (node.op in TEMPORARY):
            w("if t:", "    return")
            rows = "..."
        else:
            w(f"rows = slice(*share({dims[0]}, t))")
            rows = "rows"
        for name, value in zip(names, node.operands, strict=True):
            spans = rows == "rows" and spans_first(kernel.type(value), out)
            w(f"{name} = {aligned(kernel, value, out)}{'[rows]' * spans}")
        w(f"o = {kernel.mem(node.result)}[{rows}]")
        if node.op in TEMPORARY:
            w(f"s = {kernel.private('s', *(dims or ['1']))}")
        w.steps(*LINES[node.op](node))


def aligned(kernel: Kernel, value: Value, out: TensorType) -> str:
    """Source for an operand whose axes line up with those of ``out`` as stored."""
    own = kernel.type(value)
    source = kernel.mem(value)
    if own.order == out.order or own.rank == 0:
        return source
    lead = out.rank - own.rank
    logical = [own.order.index(a) for a in range(own.rank)]
    if logical != list(range(own.rank)):
        source += f".transpose({', '.join(map(str, logical))})"
    if lead:
        source += f"[{', '.join(['None'] * lead + ['...'])}]"
    if out.order != tuple(range(out.rank)):
        source += f".transpose({', '.join(map(str, out.order))})"
    return source


def spans_first(own: TensorType, out: TensorType) -> bool:
    """Whether an operand really extends along the result's first stored axis."""
    axis = out.order[0] - (out.rank - own.rank)
    return axis >= 0 and own.shape[axis] == out.shape[out.order[0]] != 1
