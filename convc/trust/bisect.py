"""Finds the first pass and op, or kernel and op, at which a program goes wrong.

In the order in which a program is made: the gradient rules, each alone; the passes,
each against what it was given; the kernels, each against the oracle on the operands
that it got. What comes first is named, and cut down to the smallest graph that still
shows it.
"""

from collections.abc import Callable, Sequence
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
from convc.trust.stepping import IMAGES, Fault, compared, first_fault
from convc.trust.window import inlined, smallest, window

KERNELS = (CHOOSE_LAYOUT, CHOOSE_SCHEDULE, PLAN_MEMORY)
"""The passes from a kernel as a fusion leaves it to a program."""

ANCHORS = ("conv2d", "conv2d_input_grad", "conv2d_filter_grad", "matmul")
"""Ops without which a kernel is another: what is right without one proves nothing."""


@dataclass
class Search:
    """Looks for the first thing wrong with a step; counts what it compared.

    ``whole`` is a program that shows the whole model failing, for when nothing smaller
    does. ``tell`` hears what is being compared, for a line of progress.
    """

    step: Step
    backend: str = "numpy"
    batch: int = 128
    threads: int | None = None
    whole: str = ""
    tell: Callable[[str], None] = lambda what: None
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
        if self.threads is not None:
            return self.threads
        return default_threads(backend_named(self.backend))

    # -- gradient rules

    def _rules(self) -> Finding | None:
        if "differentiate" not in {p.name for p in self.step.passes}:
            return None
        self.tell("gradient rules")
        for rule in checked_rules(self.step.graph):
            self.rules += 1
            self.tell(f"gradient rule {rule.node.op}")
            if rule.wrong:
                repro = script(rule.graph, finding.RULE, self.whole)
                op, line = rule.node.op, line_of(rule.node)
                return Finding("gradient rule", op, op, line, rule.wrong, repro)
        return None

    # -- passes

    def _passes(self) -> Finding | None:
        trail = Trail(tell=lambda name: self.tell(f"pass {name}"))
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
        said, node = f"{error}".split(": ", 1)[-1], None
        reason = said
        if trail.rejected is not None:
            found = parting(before, trail.rejected[1])
            if found is not None:
                node, reason = found.node, f"{found.reason}; {said}"
        small = self._smallest(before, node, item)
        if not item.exact and small is not None and small is not before:
            node, reason = small.nodes[-1], said
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
        for item in compared(program):
            if isinstance(item, Fault):
                return self._fault(program, item)
            self.values += item.size
            self.tell(f"kernel {item.node.attrs['name']}")
        self.kernels = len(program.kernels)
        return None

    def _fault(self, program: Program, fault: Fault) -> Finding:
        name = str(fault.node.attrs["name"])
        line = line_of(fault.node)
        if fault.kind == "run":
            where = program.graph.name
            return Finding("run of", where, "", line, fault.reason, self.whole)
        if self._planned_wrong(program, fault):
            reason = (
                f"{fault.reason}; with bytes of its own for every value it is right"
            )
            return Finding("memory plan", name, "", line, reason, self.whole)
        kernel = self._before_layout(fault.node)
        if kernel is None:
            return Finding("kernel", name, "", line, fault.reason, self.whole)
        batch = self.batch if fault.images > IMAGES else 4
        op, graph = self._split(kernel, fault, batch)
        lines = finding.KERNEL.format(**{**self._options(), "batch": batch})
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
        self, kernel: tuple[Graph, Node], fault: Fault, batch: int
    ) -> tuple[Node, Graph | None]:
        """The op of a kernel that is to blame, and the fewest ops that show it.

        These are the first that lead to the wrong result and fail, less those that can
        be spared. Of them the one is to blame without which the rest is right. Where
        nothing fails alone it is the op that makes the wrong result.
        """
        graph, node = kernel
        alone = window(graph, [node.name])
        body = inlined(alone, next(n for n in alone.nodes if n.name == node.name))
        maker = body.producers().get(fault.value, body.nodes[-1])

        def failing(nodes: Sequence[Node]) -> Graph | bool | None:
            right = None  # as long as nothing could be compiled
            for schedule in (node.schedule, None):
                part = _as_kernel(body, nodes, node, schedule)
                wrong = self._is_wrong(part, batch)
                if wrong:
                    return part
                right = False if wrong is False else right
            return right

        chosen = [n for n in body.nodes if n.op != "constant"]
        tries = (*_prefixes(body, maker), chosen)
        small = next(((t, g) for t in tries if (g := failing(t))), None)
        if small is None:
            return maker, None
        chosen, shown = list(small[0]), small[1]
        blamed = chosen[-1] if len(chosen) == 1 else maker
        for op in tuple(chosen):
            rest = [n for n in chosen if n is not op]
            found = failing(rest) if rest else None
            if found:
                chosen, shown = rest, found
            elif found is False and op.op not in ANCHORS:
                blamed = op
        if len(chosen) == 1 or blamed not in chosen:
            blamed = chosen[-1]
        assert isinstance(shown, Graph)
        return blamed, shown

    def _is_wrong(self, graph: Graph, batch: int) -> bool | None:
        """Whether a graph of kernels makes a wrong program; None if it makes none."""
        try:
            program = Step(graph, KERNELS).compile(self.backend, batch, self.threads)
        except Exception:  # noqa: BLE001 - what cannot stand alone shows nothing
            return None
        return first_fault(program) is not None


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
    chain = [n for n in body.nodes if n.name in needed and n.op != "constant"]
    return [chain[: i + 1] for i in range(len(chain))]


def _as_kernel(
    body: Graph, nodes: Sequence[Node], like: Node, schedule: Attrs | None
) -> Graph:
    """Nodes of a body as one kernel that gives its results, and what none reads."""
    names = [n.name for n in nodes]
    part = window(body, names)
    read, results = {v.name for n in nodes for v in n.operands}, body.live_out()
    made = [v for n in nodes for v in n.results]
    updated = {v for _, v in part.updates}
    shown = tuple(
        (v.name, v)
        for v in made
        if (v.name in results or v.name not in read) and v not in updated
    )
    part = replace(part, outputs=shown, stage="fusing")
    kernel = outline(part, names, str(like.attrs["name"]))
    only = (n for n in kernel.nodes if n.region is not None)
    scheduled = tuple(replace(n, schedule=schedule) for n in only)
    return replace(kernel, nodes=scheduled, stage="kernel")
