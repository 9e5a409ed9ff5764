"""A kernel node as the Triton emitters see it."""

from dataclasses import dataclass
from typing import ClassVar

from convc.backends.body import Body
from convc.ir.errors import CompileError
from convc.ir.graph import Node, Value


@dataclass(frozen=True)
class Kernel(Body):
    """A kernel node, and the most images of a step."""

    batch: int = 1
    backend: ClassVar[str] = "triton"

    def place(self, value: Value) -> str | None:
        """The name of the memory that holds a value of the body, if any does."""
        outer = self.outer(value)
        return outer.name if outer is not None else None

    def maker(self, value: Value) -> Node | None:
        """The node of the body that makes a value; None for an operand."""
        return next((n for n in self.region.nodes if value in n.results), None)

    def integers(self, key: str, count: int) -> tuple[int, ...]:
        """``count`` integers of the schedule, each at least 1."""
        value = self.schedule.get(key)
        listed = value if isinstance(value, tuple) else ()
        found = tuple(v for v in listed if type(v) is int and v >= 1)
        if len(found) != count or len(listed) != count:
            raise CompileError(
                f"kernel {self.node.attrs['name']}: schedule needs {count} positive "
                f"integers as {key}, has {value!r}"
            )
        return found
