"""What every emitter sees of a kernel: its body, what is outside, its schedule."""

from dataclasses import dataclass
from typing import ClassVar

from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Node, Region, Value


@dataclass(frozen=True)
class Body:
    """A kernel node; ``backend`` is the target's name, for refusals."""

    node: Node

    backend: ClassVar[str] = ""

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

    def integer(self, key: str) -> int:
        """An integer of the schedule, at least 1; CompileError otherwise."""
        value = self.schedule.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CompileError(
                f"kernel {self.node.attrs['name']}: schedule needs a positive {key}, "
                f"has {value!r}"
            )
        return value

    def refusal(self, reason: str) -> CompileError:
        """An error that says why this kernel cannot be emitted as it is."""
        ops = ", ".join(n.op for n in self.ops)
        types = ", ".join(str(v.type) for v in self.node.operands)
        return CompileError(
            f"kernel {self.node.attrs['name']} at {self.where()}: the {self.backend} "
            f"backend cannot run {ops} on ({types}) as one kernel: {reason}; "
            "split the kernel"
        )

    def where(self) -> str:
        """The user's lines the kernel comes from, for comments and errors."""
        return ", ".join(str(loc) for loc in self.node.locs) or "no source line"
