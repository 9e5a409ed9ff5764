"""Finds the first pass and op, or kernel and op, at which a program goes wrong.

In the order in which a program is made: the gradient rules, each alone; the passes,
each against what it was given; the kernels, each against the oracle on the operands
that it got. What comes first is named, and cut down to the smallest graph that still
shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from convc.backends import backend_named
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Graph, Node
from convc.passes.certificate import Verdict
from convc.passes.check import Checker
from convc.passes.layout import CHOOSE_LAYOUT
from convc.passes.manager import Context, Pass, Stage, Trail, run_passes
from convc.passes.outline import outline
from convc.passes.plan_memory import PLAN_MEMORY
from convc.passes.schedule import CHOOSE_SCHEDULE
from convc.pipeline import Step, default_threads
from convc.program import Program
from convc.trust import finding
from convc.trust.finding import Finding, line_of, script
from convc.trust.parting import parting
from convc.trust.rules import checked_rules
from convc.trust.spread import spread
from convc.trust.stepping import Fault, compared, first_fault
from convc.trust.window import inlined, smallest, window

KERNELS = (CHOOSE_LAYOUT, CHOOSE_SCHEDULE, PLAN_MEMORY)
"""The passes from a kernel as a fusion leaves it to a program."""


@dataclass
class Search:
    """Looks for the first thing wrong with a step; counts what it compared.

    ``whole`` is a program that shows the whole model failing, for when nothing smaller
    does.
    """

    step: Step
    backend: str = "numpy"
    batch: int = 128
    threads: int | None = None
    whole: str = ""
    rules: int = 0
    passes: list[Stage] = field(default_factory=list)
    kernels: int = 0
    values: int = 0

    def run(self) -> Finding | None:
        """The first thing that is wrong, None if nothing is."""
        return self._rules() or self._passes() or self._kernels()

    def _context(self) -> Context:
        return Context(backend_named(self.backend), self.batch, self._workers())

    def _workers(self) -> int:
        return default_threads() if self.threads is None else self.threads

    # -- gradient rules

    def _rules(self) -> Finding | None:
        if "differentiate" not in {p.name for p in self.step.passes}:
            return None
        for rule in checked_rules(self.step.graph):
            self.rules += 1
            if rule.wrong:
                repro = script(rule.graph, finding.RULE, self.whole)
                op, line = rule.node.op, line_of(rule.node)
                return Finding("gradient rule", op, op, line, rule.wrong, repro)
        return None

    # -- passes

    def _passes(self) -> Finding | None:
        trail = Trail()
        try:
            self.passes = self.step.stages(
                self.backend, self.batch, self.threads, True, trail
            )
        except Exception as error:  # the pass may be broken in any way
            if len(trail.stages) > len(self.step.passes) or not trail.stages:
                raise
            item = self.step.passes[len(trail.stages) - 1]
            return self._pass(item, trail, error)
        return None

    def _pass(self, item: Pass, trail: Trail, error: Exception) -> Finding:
        before = trail.stages[-1].graph
        reason, node = f"{error}".split(": ", 1)[-1], None
        if trail.rejected is not None:
            found = parting(before, trail.rejected[1])
            if found is not None:
                node, reason = found.node, f"{found.reason}; {reason}"
        small = self._smallest(before, node, item)
        lines = finding.PASS.format(name=item.name, **self._options())
        repro = script(small, lines, self.whole)
        op = node.op if node else ""
        return Finding("pass", item.name, op, line_of(node), reason, repro)

    def _smallest(self, before: Graph, node: Node | None, item: Pass) -> Graph | None:
        suspects = {v.name for v in node.results} if node else set()
        starts = [n.name for n in before.nodes if n.name in suspects]
        if not starts:
            return before

        def fails(graph: Graph) -> bool:
            return _refused(graph, item, self._context())

        return smallest(before, starts, fails) or before

    def _options(self) -> dict[str, object]:
        return {"backend": self.backend, "batch": 4, "threads": self._workers()}

    # -- kernels

    def _kernels(self) -> Finding | None:
        try:
            program = Program(tuple(self.passes), backend_named(self.backend))
        except Exception as error:  # noqa: BLE001 - emitters may be broken in any way
            reason = f"it emits no program: {error}"
            return Finding("backend", self.backend, "", "", reason, self.whole)
        for whole in (True, False):
            for item in compared(program, whole=whole):
                if isinstance(item, Fault):
                    return self._fault(program, item)
                self.values += item.size
        self.kernels = len(program.kernels)
        return None

    def _fault(self, program: Program, fault: Fault) -> Finding:
        name = str(fault.node.attrs["name"])
        line = line_of(fault.node)
        if self._planned_wrong(program, fault):
            reason = (
                f"{fault.reason}; with bytes of its own for every value it is right"
            )
            return Finding("memory plan", name, "", line, reason, self.whole)
        kernel = self._before_layout(fault.node)
        if kernel is None:
            return Finding("kernel", name, "", line, fault.reason, self.whole)
        op, graph = self._split(kernel, fault)
        lines = finding.KERNEL.format(**self._options())
        return Finding(
            "kernel",
            name,
            op.op,
            line_of(op) or line,
            fault.reason,
            script(graph, lines, self.whole),
        )

    def _planned_wrong(self, program: Program, fault: Fault) -> bool:
        """Whether there is no such fault where no two values share bytes."""
        last = replace(program.stages[-1], graph=spread(program.graph))
        apart = Program((*program.stages[:-1], last), backend_named(self.backend))
        found = first_fault(apart)
        return found is None or found.node.name != fault.node.name

    def _before_layout(self, node: Node) -> tuple[Graph, Node] | None:
        """The kernel before its layout was chosen, scheduled as ``node`` is."""
        for stage in reversed(self.passes):
            if stage.name == "form-kernels":
                for kernel in stage.graph.nodes:
                    if kernel.name == node.name and kernel.region is not None:
                        return stage.graph, replace(kernel, schedule=node.schedule)
        return None

    def _split(
        self, kernel: tuple[Graph, Node], fault: Fault
    ) -> tuple[Node, Graph | None]:
        """The first op with which a prefix of the kernel fails, and that prefix.

        Where none fails alone, the op that makes the wrong result, and the kernel.
        """
        graph, node = kernel
        assert node.region is not None
        names = {v.name for v in node.results}
        alone = window(graph, [node.name])
        alone = replace(
            alone, nodes=tuple(node if n.name in names else n for n in alone.nodes)
        )
        body = inlined(alone, node)
        maker = body.producers().get(fault.value, body.nodes[-1])
        for prefix in _prefixes(body, maker):
            for schedule in (node.schedule, None):
                small = _as_kernel(body, prefix, node, schedule)
                if self._fails(small):
                    return prefix[-1], small
        return maker, alone if self._fails(alone) else None

    def _fails(self, graph: Graph) -> bool:
        """Whether a graph of kernels compiles, and its program is then wrong."""
        try:
            step = Step(graph, KERNELS)
            return first_fault(step.compile(self.backend, 4, self.threads)) is not None
        except Exception:  # noqa: BLE001 - what cannot stand alone shows nothing
            return False


def between(before: Graph, after: Graph) -> Finding | Verdict:
    """Where two graphs part that should mean the same, else what shows that they do.

    They may differ by rounding: then it is within what both are allowed.
    """
    checker = Checker()
    try:
        return checker.equal(before, after)
    except CompileError:
        try:
            return checker.close(before, after)
        except CompileError as error:
            found = parting(before, after)
            reason = f"{found.reason}; {error}" if found else str(error)
            node = found.node if found else None
            op = node.op if node else ""
            return Finding("graph", after.name, op, line_of(node), reason, "")


def _refused(graph: Graph, item: Pass, context: Context) -> bool:
    """Whether ``item`` fails on ``graph``, which itself is legal."""
    trail = Trail()
    try:
        run_passes(graph, [item], context, check=True, trail=trail)
    except Exception:  # noqa: BLE001 - the pass may be broken in any way
        return trail.rejected is not None
    return False


def _prefixes(body: Graph, maker: Node) -> list[list[Node]]:
    """The nodes that lead to ``maker``, from the first alone to all of them."""
    made, needed, waiting = body.producers(), set[str](), [maker]
    while waiting:
        node = waiting.pop()
        needed.add(node.name)
        waiting += [made[v.name] for v in node.operands if v.name in made]
    chain = [n for n in body.nodes if n.name in needed]
    ends = [i for i, n in enumerate(chain) if n.op != "constant"]
    return [chain[: i + 1] for i in ends]


def _as_kernel(
    body: Graph, prefix: Sequence[Node], like: Node, schedule: Attrs | None
) -> Graph:
    """The nodes in ``prefix`` as one kernel that gives the last one's results."""
    names = [n.name for n in prefix if n.op != "constant"]
    last = prefix[-1]
    part = window(body, names)
    shown = tuple((v.name, v) for v in last.results)
    updates = tuple(u for u in part.updates if u[1] in last.results)
    part = replace(part, outputs=shown, updates=updates, stage="fusing")
    kernel = outline(part, names, str(like.attrs["name"]))
    nodes = tuple(
        replace(n, schedule=schedule) if n.region else n for n in kernel.nodes
    )
    nodes = tuple(n for n in nodes if n.region)
    return replace(kernel, nodes=nodes, stage="kernel")
