"""Runs a list of passes: verifies before and after, times, keeps every stage."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from convc.backends.base import Backend
from convc.ir.errors import CompileError, ConvcError
from convc.ir.graph import Graph, Loc, Node
from convc.ir.printer import print_graph
from convc.ir.verifier import verify
from convc.lockfile import Entry, Tuned
from convc.passes.certificate import NOT_CHECKED, Certificate, Verdict, digest
from convc.passes.check import Checker


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


@dataclass(frozen=True)
class Choice:
    """Why the kernel at ``node`` has its schedule.

    ``origin`` is "given" (the kernel had one), "lockfile" (it was measured to be the
    fastest), "compiled" (the lockfile has it by its compiled code, unmeasured) or "cost
    model"; ``entry`` is what the lockfile says of the kernel.
    """

    node: str
    origin: str
    entry: Entry | None = None


@dataclass
class Context:
    """What passes may ask for, and where they leave refusals and choices.

    ``threads`` workers share each kernel, ``blas`` threads of the BLAS library each
    product.
    """

    backend: Backend
    batch: int
    threads: int
    blas: int = field(default=1, kw_only=True)
    refusals: list[Refusal] = field(default_factory=list)
    tuned: Tuned = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)

    @property
    def machine(self) -> str:
        """What measured costs are valid for."""
        target = self.backend.target(self.threads)
        return f"{target} blas={self.blas}" if self.blas > 1 else target

    def refuse(self, node: Node, reason: str, subject: str | None = None) -> None:
        """Record why something was not done at ``node``, for people who ask."""
        self.refusals.append(Refusal(subject or node.name, reason, node.locs))


@dataclass(frozen=True)
class Pass:
    """A rewrite with its contract.

    It takes graphs whose stage is in ``requires`` and leaves them at the stage
    ``ensures`` (empty: as it was). The outputs and updates that both graphs have are
    equal for all inputs: if ``exact`` bit for bit in the interpreter, else up to
    rounding, within derived bounds. Check mode tests that on small random data, or
    runs ``check`` where the pass has another meaning to keep.
    """

    name: str
    rewrite: Callable[[Graph, Context], Graph]
    requires: tuple[str, ...] = ("tensor",)
    ensures: str = ""
    exact: bool = True
    check: Callable[[Checker, Graph, Graph], Verdict] | None = None
    """A check of its own, of the graphs before and after: CompileError or a verdict."""


@dataclass(frozen=True)
class Stage:
    """The program after a pass; ``seconds`` is the time of the pass alone.

    ``verdict`` is what check mode found, ``before`` the graph that the pass was given
    (None for the traced one), ``choices`` why its kernels have their schedules.
    """

    name: str
    graph: Graph
    seconds: float
    refusals: tuple[Refusal, ...] = ()
    verdict: Verdict = NOT_CHECKED
    before: Graph | None = None
    choices: tuple[Choice, ...] = ()

    @property
    def checked(self) -> bool:
        """Whether check mode was on."""
        return bool(self.verdict)

    @property
    def certificate(self) -> Certificate:
        """The verdict with what it is about: hashes of the text before and after."""
        after = digest(self.graph)
        before = after if self.before is None else digest(self.before)
        return Certificate(self.name, before, after, self.verdict)

    @property
    def text(self) -> str:
        """The IR at this stage."""
        return print_graph(self.graph)


@dataclass
class Trail:
    """How far the passes got, also when one fails: for who catches its error.

    ``rejected`` is the failing pass with the graph that it left, if it left one;
    ``tell`` is called with the name of each pass before it runs.
    """

    stages: list[Stage] = field(default_factory=list)
    rejected: tuple[str, Graph] | None = None
    tell: Callable[[str], None] = lambda name: None


def run_passes(
    graph: Graph,
    passes: Sequence[Pass],
    context: Context,
    check: bool = False,
    trail: Trail | None = None,
) -> list[Stage]:
    """Every stage from ``trace`` (the graph as given) to the last pass.

    CompileError that names the pass and those before it when one fails, breaks its
    contract or, with ``check``, changes the program's meaning. ``trail`` is filled on
    the way.
    """
    trail = trail or Trail()
    trail.stages.append(Stage("trace", verify(graph), 0.0))
    checker = Checker() if check else None
    for item in passes:
        trail.tell(item.name)
        trail.stages.append(_run(item, trail, context, checker))
    return trail.stages


def _run(item: Pass, trail: Trail, context: Context, checker: Checker | None) -> Stage:
    stages = trail.stages
    before = stages[-1].graph
    done = ", ".join(s.name for s in stages)
    if before.stage not in item.requires:
        wanted = " or ".join(item.requires)
        raise CompileError(
            f"pass {item.name} needs a graph at the {wanted} stage, this one is at "
            f"the {before.stage} stage (after {done})"
        )
    local = replace(context, refusals=[], choices=[])
    start = time.perf_counter()
    try:
        after = item.rewrite(before, local)
        seconds = time.perf_counter() - start
        trail.rejected = item.name, after  # until it has passed what follows
        verify(after)
        if after.stage != (item.ensures or before.stage):
            raise CompileError(f"it left the graph at the {after.stage} stage")
        verdict = _verdict(item, before, after, checker) if checker else NOT_CHECKED
    except ConvcError as error:
        raise CompileError(f"pass {item.name} failed after {done}: {error}") from error
    except Exception as error:
        error.add_note(f"in pass {item.name}, after {done}")
        raise
    trail.rejected = None
    refusals, choices = tuple(local.refusals), tuple(local.choices)
    return Stage(item.name, after, seconds, refusals, verdict, before, choices)


def _verdict(item: Pass, before: Graph, after: Graph, checker: Checker) -> Verdict:
    if item.check is not None:
        return item.check(checker, before, after)
    return checker.equal(before, after) if item.exact else checker.close(before, after)
