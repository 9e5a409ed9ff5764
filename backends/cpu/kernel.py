"""What an emitter sees of the kernel it writes, and the writer it writes with."""

import re
from dataclasses import dataclass, field

from convc.backends.base import Scratch
from convc.ir.errors import CompileError
from convc.ir.graph import Attr, Attrs, Buffer, Node, Region, Value
from convc.ir.types import DType, TensorType

METHODS = {
    DType.F32: "f32",
    DType.F64: "f64",
    DType.I64: "i64",
    DType.I32: "i32",
    DType.U8: "u8",
    DType.BOOL: "bool",
}
"""The method of the emitted Memory class for each dtype."""

LINE = 88


class Writer:
    """Collects indented lines of source."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, *lines: str) -> None:
        """Append lines at the present depth (an empty one stays empty)."""
        for line in lines:
            self.lines.append("    " * self.depth + line if line else "")

    def block(self, *lines: str) -> None:
        """Append lines that are already indented relative to the present depth."""
        for text in lines:
            for line in text.strip("\n").split("\n"):
                self(line.rstrip()) if line.strip() else self("")

    def steps(self, *calls: str) -> None:
        """Append calls ``f(x, out=y)`` as parts of a step: ``yield call(f, x, out=y)``.

        Lines that open a loop or are comments are taken as they are.
        """
        for line in calls:
            text = line.lstrip()
            indent = line[: len(line) - len(text)]
            if text.startswith(("for ", "#")):
                self(line)
                continue
            function, _, arguments = text.partition("(")
            parts = split_arguments(arguments.removesuffix(")"))
            self.call(f"{indent}yield call(", [function, *parts])

    def call(self, head: str, arguments: list[str], tail: str = ")") -> None:
        """``head`` followed by arguments, one a line where a line is too short."""
        flat = head + ", ".join(arguments) + tail
        if len(flat) + 4 * self.depth <= LINE:
            self(flat)
            return
        indent = " " * (len(head) - len(head.lstrip()))
        inside = f"{indent}    {', '.join(arguments)}"
        self(head)
        if len(inside) + 4 * self.depth <= LINE:
            self(inside)
        else:
            self(*(f"{indent}    {argument}," for argument in arguments))
        self(indent + tail)


def split_arguments(text: str) -> list[str]:
    """The arguments in ``text``, cut at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def comment(text: str) -> str:
    """``text`` made safe for a comment or docstring: one line of plain characters."""
    return re.sub(r"[^A-Za-z0-9_ .,:;/()\[\]{}=+*@<>%-]", "?", text)


def identifier(text: str) -> str:
    """``text`` as part of a Python name: letters, digits and underscores, short."""
    return re.sub(r"[^A-Za-z0-9_]", "_", text)[:60]


@dataclass(frozen=True)
class Kernel:
    """A kernel node with the places of its operands, results and scratch.

    ``buffers`` is the arena's table by name; emitters ask for source expressions with
    ``mem`` (a graph value) and ``private`` (scratch of worker ``t``).
    """

    node: Node
    threads: int
    buffers: dict[str, Buffer] = field(default_factory=dict)
    scratches: tuple[Scratch, ...] = ()

    @property
    def region(self) -> Region:
        """The kernel's body."""
        if self.node.region is None:
            raise CompileError(f"{self.node.op} is not a kernel")
        return self.node.region

    @property
    def ops(self) -> tuple[Node, ...]:
        """The nodes of the body that compute something (constants are written out)."""
        ops = tuple(n for n in self.region.nodes if n.op != "constant")
        return ops or self.region.nodes

    @property
    def schedule(self) -> Attrs:
        """The kernel's schedule (empty if none was chosen)."""
        return self.node.schedule or {}

    def find(self, op: str) -> Node | None:
        """The body's node with that op, None if there is none."""
        return next((n for n in self.ops if n.op == op), None)

    def outer(self, value: Value) -> Value | None:
        """The graph's value behind a value of the body; None if it is internal."""
        for inside, outside in zip(self.region.inputs, self.node.operands, strict=True):
            if inside == value:
                return outside
        for inside, outside in zip(self.region.yields, self.node.results, strict=True):
            if inside == value:
                return outside
        return None

    def constant(self, value: Value) -> Node | None:
        """The constant of the body that is ``value``, None if it is something else."""
        if self.outer(value) is not None:
            return None
        nodes = (n for n in self.region.nodes if n.op == "constant")
        return next((n for n in nodes if n.result == value), None)

    def type(self, value: Value) -> TensorType:
        """The stored type of a body's value that has memory or is a constant."""
        outer = self.outer(value)
        if self.constant(value):
            return value.type
        if outer is None:
            raise CompileError(f"{value} of kernel {self.node.name} has no memory")
        return outer.type

    def dims(self, value: Value) -> list[str]:
        """The storage shape as source: numbers, and ``n`` for the batch."""
        t = self.type(value)
        return [
            str("n" if isinstance(t.shape[a], str) else t.shape[a]) for a in t.order
        ]

    def mem(self, value: Value, *dims: object) -> str:
        """Source for a view of a value, in storage order or reshaped to ``dims``."""
        constant = self.constant(value)
        if constant is not None:
            return scalar(constant.attrs["value"], value.type.dtype)
        outer = self.outer(value)
        if outer is None:
            raise CompileError(f"{value} of kernel {self.node.name} has no memory")
        shape = [str(d) for d in dims] or self.dims(value)
        offset = self.buffers[outer.name].offset
        return f"mem.{METHODS[outer.type.dtype]}({', '.join([str(offset), *shape])})"

    def private(self, name: str, *dims: object) -> str:
        """Source for worker ``t``'s scratch ``name`` as an array of ``dims``."""
        return self._scratch(name, "t", dims)

    def private_of(self, name: str, worker: object, *dims: object) -> str:
        """Source for the scratch of another worker."""
        return self._scratch(name, str(worker), dims)

    def _scratch(self, name: str, worker: str, dims: tuple[object, ...]) -> str:
        scratch = next(s for s in self.scratches if s.name == name)
        start = self.buffers[f"{self.node.name}!{name}"].offset
        offset = f"{start} + {worker} * {scratch.nbytes}" if self.threads > 1 else start
        shape = ", ".join(str(d) for d in dims or scratch.shape)
        return f"mem.{METHODS[scratch.dtype]}({offset}, {shape})"

    def integer(self, key: str) -> int:
        """An integer of the schedule."""
        value = self.schedule.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CompileError(
                f"kernel {self.node.attrs['name']}: schedule needs a positive {key}, "
                f"has {value!r}"
            )
        return value

    def check_batch(self, batch: int) -> None:
        """CompileError if the schedule is for fewer images than the program."""
        planned = self.schedule.get("batch", batch)
        if not isinstance(planned, int) or planned < batch:
            raise CompileError(
                f"kernel {self.node.attrs['name']}: its schedule is for {planned} "
                f"images, the program for {batch}; choose its schedule again"
            )

    def refusal(self, reason: str) -> CompileError:
        """An error that says why this kernel cannot be emitted as it is."""
        ops = ", ".join(n.op for n in self.ops)
        types = ", ".join(str(v.type) for v in self.node.operands)
        return CompileError(
            f"kernel {self.node.attrs['name']} at {self.where()}: the numpy backend "
            f"cannot run {ops} on ({types}) as one kernel: {reason}; split the kernel"
        )

    def where(self) -> str:
        """The user's lines the kernel comes from, for comments and errors."""
        return ", ".join(str(loc) for loc in self.node.locs) or "no source line"


def single(kernel: Kernel) -> Node:
    """The only node of the body; CompileError where there are several."""
    if len(kernel.ops) != 1:
        raise kernel.refusal("they are not fused here")
    return kernel.ops[0]


def scalar(value: Attr, dtype: DType) -> str:
    """Source for a NumPy scalar."""
    number = value if dtype.is_float else int(value)  # type: ignore[arg-type]
    return f"np.{dtype.numpy.name}({number!r})"
