"""What a program's memory plan says, for people."""

from dataclasses import dataclass

from convc.ir.graph import Graph
from convc.ir.liveness import alive


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one program, all in one arena; ``arena_bytes`` is the exact peak.

    ``alive_bytes`` has what any plan must hold at each launch and at the end of the
    step. It is counted from the graph alone, without regard to where things lie.
    """

    arena_bytes: int
    parameter_bytes: int
    activation_bytes: int
    batch: int
    buffers: int
    alive_bytes: tuple[int, ...] = (0,)
    launches: tuple[str, ...] = ("the end",)
    """The names of the launches, the end of the step included."""

    @staticmethod
    def of(graph: Graph) -> "MemoryPlan":
        """The plan of a planned graph (all zero without an arena)."""
        if graph.arena is None:
            return MemoryPlan(0, 0, 0, 0, 0)
        parameters = sum(p.value.type.nbytes(1) for p in graph.parameters)
        scratch: dict[str, int] = {}
        for buffer in graph.arena.buffers:
            kernel, _, private = buffer.name.partition("!")
            if private:
                scratch[kernel] = scratch.get(kernel, 0) + buffer.size
        return MemoryPlan(
            graph.arena.size,
            parameters,
            graph.arena.size - parameters,
            graph.arena.batch,
            len(graph.arena.buffers),
            tuple(alive(graph, graph.arena.batch, scratch)),
            (*(str(n.attrs.get("name", n.name)) for n in graph.nodes), "the end"),
        )

    @property
    def bound_bytes(self) -> int:
        """The liveness bound: no plan for these launches has a smaller arena."""
        return max(self.alive_bytes)

    @property
    def peak_launch(self) -> int:
        """The first launch at which as much is alive as ever is."""
        return self.alive_bytes.index(self.bound_bytes)

    @property
    def peak_kernel(self) -> str:
        """The name of that launch."""
        return self.launches[self.peak_launch]

    @property
    def peak(self) -> str:
        """When that is, and how much is alive then, as a line."""
        return (
            f"peak: launch {self.peak_launch}, {self.peak_kernel}, "
            f"with {self.bound_bytes:,} bytes alive"
        )

    @property
    def above_bound(self) -> float:
        """By which share of the bound the arena is larger."""
        return self.arena_bytes / self.bound_bytes - 1 if self.bound_bytes else 0.0

    @property
    def arena(self) -> str:
        """The arena and what it holds, as a line."""
        return (
            f"one arena of {self.arena_bytes:,} bytes "
            f"({_mib(self.arena_bytes)}) for batch {self.batch}: "
            f"{_mib(self.parameter_bytes)} parameters and state, "
            f"{_mib(self.activation_bytes)} activations and scratch"
        )

    def __str__(self) -> str:
        return (
            f"memory: {self.arena}; "
            f"{self.above_bound:.1%} above the liveness bound of "
            f"{_mib(self.bound_bytes)}"
        )


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
