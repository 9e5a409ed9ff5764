"""What a program's memory plan says, for people."""

from dataclasses import dataclass

from convc.ir.graph import Graph


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one program, all in one arena; ``arena_bytes`` is the exact peak."""

    arena_bytes: int
    parameter_bytes: int
    activation_bytes: int
    batch: int
    buffers: int

    @staticmethod
    def of(graph: Graph) -> "MemoryPlan":
        """The plan of a planned graph (all zero without an arena)."""
        if graph.arena is None:
            return MemoryPlan(0, 0, 0, 0, 0)
        parameters = sum(p.value.type.nbytes(1) for p in graph.parameters)
        return MemoryPlan(
            graph.arena.size,
            parameters,
            graph.arena.size - parameters,
            graph.arena.batch,
            len(graph.arena.buffers),
        )

    def __str__(self) -> str:
        return (
            f"memory: one arena of {self.arena_bytes:,} bytes "
            f"({self.arena_bytes / 2**20:.1f} MiB) for batch {self.batch}: "
            f"{self.parameter_bytes / 2**20:.1f} MiB parameters and state, "
            f"{self.activation_bytes / 2**20:.1f} MiB activations and scratch"
        )
