"""Runs a list of passes: verifies before and after, times, keeps every stage."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from convc.backends.base import Backend
from convc.ir.errors import CompileError, ConvcError
from convc.ir.graph import Graph, Loc, Node
from convc.ir.printer import print_graph
from convc.ir.verifier import verify
from convc.passes.check import check_same_meaning


@dataclass(frozen=True)
class Refusal:
    """What a pass left undone at a node, and why.

    ``subject`` is what people call the node; ``locs`` are the lines it comes from.
    """

    subject: str
    reason: str
    locs: tuple[Loc, ...] = ()

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


@dataclass
class Context:
    """What passes may ask for, and where they leave their refusals."""

    backend: Backend
    batch: int
    threads: int
    refusals: list[Refusal] = field(default_factory=list)

    def refuse(self, node: Node, reason: str, subject: str | None = None) -> None:
        """Record why something was not done at ``node``, for people who ask."""
        self.refusals.append(Refusal(subject or node.name, reason, node.locs))


@dataclass(frozen=True)
class Pass:
    """A rewrite with its contract.

    It takes graphs whose stage is in ``requires`` and leaves them at the stage
    ``ensures`` (empty: as it was). With ``same_meaning`` the outputs and updates that
    both graphs have are equal for all inputs, bit for bit in the interpreter, which
    check mode tests on small random data.
    """

    name: str
    rewrite: Callable[[Graph, Context], Graph]
    requires: tuple[str, ...] = ("tensor",)
    ensures: str = ""
    same_meaning: bool = True


@dataclass(frozen=True)
class Stage:
    """The program after a pass; ``seconds`` is the time of the pass alone."""

    name: str
    graph: Graph
    seconds: float
    refusals: tuple[Refusal, ...] = ()
    checked: bool = False

    @property
    def text(self) -> str:
        """The IR at this stage."""
        return print_graph(self.graph)


def run_passes(
    graph: Graph, passes: Sequence[Pass], context: Context, check: bool = False
) -> list[Stage]:
    """Every stage from ``trace`` (the graph as given) to the last pass.

    CompileError that names the pass and those before it when one fails, breaks its
    contract or, with ``check``, changes the program's meaning.
    """
    stages = [Stage("trace", verify(graph), 0.0)]
    for item in passes:
        stages.append(_run(item, stages, context, check))
    return stages


def _run(item: Pass, stages: list[Stage], context: Context, check: bool) -> Stage:
    before = stages[-1].graph
    done = ", ".join(s.name for s in stages)
    if before.stage not in item.requires:
        wanted = " or ".join(item.requires)
        raise CompileError(
            f"pass {item.name} needs a graph at the {wanted} stage, this one is at "
            f"the {before.stage} stage (after {done})"
        )
    local = replace(context, refusals=[])
    start = time.perf_counter()
    try:
        after = item.rewrite(before, local)
        seconds = time.perf_counter() - start
        verify(after)
        if after.stage != (item.ensures or before.stage):
            raise CompileError(f"it left the graph at the {after.stage} stage")
        if check and item.same_meaning:
            check_same_meaning(before, after)
    except ConvcError as error:
        raise CompileError(f"pass {item.name} failed after {done}: {error}") from error
    except Exception as error:
        error.add_note(f"in pass {item.name}, after {done}")
        raise
    return Stage(
        item.name, after, seconds, tuple(local.refusals), check and item.same_meaning
    )
