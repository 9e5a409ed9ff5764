"""What an emitter sees of the kernel it writes, and the writer it writes with."""

from dataclasses import dataclass, field
from typing import ClassVar

from convc.backends.base import Scratch
from convc.backends.body import Body
from convc.ir.errors import CompileError
from convc.ir.graph import Attr, Buffer, Node, Value
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


@dataclass(frozen=True)
class Kernel(Body):
    """A kernel node with the places of its operands, results and scratch.

    ``buffers`` is the arena's table by name; emitters ask for source expressions with
    ``mem`` (a graph value) and ``private`` (scratch of worker ``t``).
    """

    threads: int
    backend: ClassVar[str] = "numpy"
    buffers: dict[str, Buffer] = field(default_factory=dict)
    scratches: tuple[Scratch, ...] = ()

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
        whole = self.threads == 1 or worker == "0"
        offset = start if whole else f"{start} + {worker} * {scratch.nbytes}"
        shape = ", ".join(str(d) for d in dims or scratch.shape)
        return f"mem.{METHODS[scratch.dtype]}({offset}, {shape})"

    def check_batch(self, batch: int) -> None:
        """CompileError if the schedule is for fewer images than the program."""
        planned = self.schedule.get("batch", batch)
        if not isinstance(planned, int) or planned < batch:
            raise CompileError(
                f"kernel {self.node.attrs['name']}: its schedule is for {planned} "
                f"images, the program for {batch}; choose its schedule again"
            )

    def refuse_lower_precision(self) -> None:
        """CompileError if anything here has 16 bits or products are in tf32."""
        for node in self.region.nodes:
            types = [v.type for v in (*node.operands, *node.results)]
            tf32 = node.attrs.get("precision") == "tf32"
            if not tf32 and not any(t.dtype.is_half for t in types):
                continue
            listed = ", ".join(str(v.type) for v in node.operands)
            asked = "in tf32" if tf32 else f"to {node.results[0].type}"
            raise CompileError(
                f"kernel {self.node.attrs['name']} at {self.where()}: the numpy "
                f"backend computes in f32 and f64, not {node.op}({listed}) {asked}; "
                "ask for precision fp32, or for the triton backend"
            )


def single(kernel: Kernel) -> Node:
    """The only node of the body; CompileError where there are several."""
    if len(kernel.ops) != 1:
        raise kernel.refusal("they are not fused here")
    return kernel.ops[0]


def scalar(value: Attr, dtype: DType) -> str:
    """Source for a NumPy scalar."""
    number = value if dtype.is_float else int(value)  # type: ignore[arg-type]
    return f"np.{dtype.numpy.name}({number!r})"
