"""Measures the schedules that the cost model likes best; the fastest right one wins.

A kernel is tuned alone, as a program whose inputs and parameters are its operands. A
schedule may only win after its results agreed with the interpreter: within the bounds
of ``ir.rounding`` on a few images, of whole numbers and of real ones, and on a whole
batch of whole numbers, where tiles meet. Then the right ones take turns, so that
whatever else the machine does hits all alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from convc.backends import backend_named
from convc.backends.base import Candidate
from convc.ir.graph import Attrs, Graph, Node
from convc.ir.interpreter import Result, interpret
from convc.ir.ops.base import Array
from convc.ir.rounding import Bounds, bounded
from convc.ir.rounding_schedules import transform_of
from convc.lockfile import Entry, Key, Measured, key_of
from convc.passes.manager import Context, Pass, run_passes
from convc.passes.samples import BATCH, Samples, State
from convc.passes.schedule import CHOOSE_DIRECT, CHOOSE_SCHEDULE, preferred
from convc.pipeline import Step
from convc.program import Program

_TURN_SECONDS = 0.01
"""How long a candidate's turn should last at least, so that the clock can tell."""
_MOST_RUNS = 50


@dataclass(frozen=True)
class Task:
    """One kernel to tune, as often as a program has it.

    ``graph`` holds it alone, without a schedule; ``passes`` lead from there to a
    planned graph; ``candidates`` are all there are, the cost model's choice first.
    """

    graph: Graph
    key: Key
    candidates: tuple[Candidate, ...]
    context: Context
    passes: tuple[Pass, ...]
    count: int = 1

    @property
    def kernel(self) -> Node:
        """The kernel's node."""
        return self.graph.nodes[0]

    @property
    def name(self) -> str:
        """The kernel's name."""
        return str(self.kernel.attrs["name"])

    def best(self, top: int) -> tuple[Candidate, ...]:
        """The ``top`` best predicted candidates, and the best of each algorithm."""
        chosen, seen = [], set()
        for rank, candidate in enumerate(self.candidates):
            algorithm = candidate.schedule.get("algorithm")
            if rank < top or algorithm not in seen:
                chosen.append(candidate)
            seen.add(algorithm)
        return tuple(chosen)

    def program(self, candidate: Candidate) -> Program:
        """The kernel alone, with that schedule."""
        node = replace(self.kernel, schedule=candidate.schedule)
        stages = run_passes(
            replace(self.graph, nodes=(node,)), self.passes, self.context
        )
        return Program(tuple(stages), self.context.backend)


@dataclass(frozen=True)
class Trial:
    """What came of a candidate: its median seconds, or what is wrong with it.

    A ``drawback`` keeps it from winning, too, but its results are right.
    """

    candidate: Candidate
    seconds: float | None
    fault: str = ""
    drawback: str = ""


@dataclass(frozen=True)
class Outcome:
    """The trials of a kernel, the cost model's choice first.

    ``known`` says that they come from the lockfile.
    """

    task: Task
    trials: tuple[Trial, ...]
    rounds: int
    known: bool = False

    @property
    def winner(self) -> Trial | None:
        """The fastest trial that was right, None if none was."""
        right = [t for t in self.trials if t.seconds is not None]
        return min(right, key=lambda t: t.seconds or 0.0, default=None)

    @property
    def ratio(self) -> float | None:
        """The measured time of the cost model's choice in units of the fastest."""
        winner, chosen = self.winner, self.trials[0].seconds
        if winner is None or winner.seconds is None or chosen is None:
            return None
        return chosen / winner.seconds

    @property
    def entry(self) -> Entry | None:
        """What the lockfile shall say, None if no schedule was right."""
        measured = [
            Measured(t.candidate.schedule, t.seconds)
            for t in self.trials
            if t.seconds is not None
        ]
        fastest_first = tuple(sorted(measured, key=lambda m: m.seconds))
        return Entry(self.task.key, self.rounds, fastest_first) if measured else None


def tasks_of(
    step: Step, backend: str, batch: int, threads: int | None
) -> tuple[list[Task], int]:
    """The kernels of a step that leave a choice, and how many leave none.

    A step that is to be exact has none but direct schedules. Kernels that mean the same
    on the same shapes are one task.
    """
    target = backend_named(backend)
    context = step.context(target, batch, threads)
    exact = CHOOSE_DIRECT in step.passes
    at = step.passes.index(CHOOSE_DIRECT if exact else CHOOSE_SCHEDULE)
    graph = run_passes(step.graph, step.passes[:at], context)[-1].graph
    tasks: dict[Key, Task] = {}
    single = 0
    for node in (n for n in graph.nodes if n.region is not None):
        key = key_of(node, batch, context.machine)
        if key in tasks:
            tasks[key] = replace(tasks[key], count=tasks[key].count + 1)
            continue
        every = context.backend.candidates(node, batch, context.threads)
        found = tuple(c for c in every if c.direct or not exact)
        if len(found) > 1:
            made, ranked = alone(graph, node), preferred(node, found, context)
            tasks[key] = Task(made, key, ranked, context, step.passes[at:])
        single += len(found) == 1
    return list(tasks.values()), single


def alone(graph: Graph, node: Node) -> Graph:
    """One kernel of a graph as a graph of its own.

    What it reads are inputs, but for the graph's parameters; what it updates it
    updates, its other results are outputs.
    """
    updates = tuple((p, v) for p, v in graph.updates if v in node.results)
    updated = {v.name for _, v in updates}
    held = {v.name for v in node.operands} | {p.name for p, _ in updates}
    parameters = [p for p in graph.parameters if p.value.name in held]
    known = {p.value.name for p in parameters}
    return Graph(
        str(node.attrs["name"]),
        tuple(v for v in dict.fromkeys(node.operands) if v.name not in known),
        tuple(replace(p, initializer="zeros", attrs={}) for p in parameters),
        (replace(node, schedule=None),),
        tuple((v.name, v) for v in node.results if v.name not in updated),
        updates,
        "kernel",
        feeds=tuple(f for f in graph.feeds if f[0] in {v.name for v in node.operands}),
    )


def recalled(task: Task, entry: Entry | None, top: int, rounds: int) -> Outcome | None:
    """What the lockfile knows of a task, None if that is less than was asked for."""
    if entry is None or entry.rounds < rounds:
        return None
    trials = tuple(Trial(c, entry.seconds(c.schedule)) for c in task.best(top))
    if any(t.seconds is None for t in trials):
        return None
    return Outcome(task, trials, entry.rounds, known=True)


def tune(task: Task, top: int, rounds: int) -> Outcome:
    """Verify the best candidates of a kernel, measure those that are right.

    ``rounds`` is how often they take turns.
    """
    candidates, oracle = task.best(top), Oracle(task)
    programs: dict[int, Program] = {}
    faults: dict[int, str] = {}
    for number, candidate in enumerate(candidates):
        try:
            program = task.program(candidate)
            tests = oracle.references(candidate.schedule)
            found = [fault for test in tests for fault in test.faults(program)]
        except Exception as error:  # noqa: BLE001 - wrong code may raise anything
            found = [f"{type(error).__name__}: {error}"]
        if found:
            faults[number] = found[0]
        else:
            programs[number] = program
    medians = measure([*programs.values()], task.kernel.name, rounds)
    seconds = dict(zip(programs, medians, strict=True))
    trials = (
        Trial(c, seconds.get(i), faults.get(i, "")) for i, c in enumerate(candidates)
    )
    return Outcome(task, tuple(trials), rounds)


@dataclass(frozen=True)
class Reference:
    """Data for a kernel, and what the interpreter makes of it."""

    inputs: State
    parameters: State
    bounds: Bounds

    @property
    def every_bound(self) -> list[Array]:
        """The bounds of outputs and updates."""
        found = self.bounds
        return [*found.output_bounds.values(), *found.update_bounds.values()]

    def faults(self, program: Program) -> list[str]:
        """How the program's results differ by more than rounding may."""
        program.load(self.parameters)
        with np.errstate(all="ignore"):
            outputs = program(**self.inputs)
        return self.bounds.faults(Result(outputs, program.state()))


class Oracle:
    """What the results of one kernel must be, and how far off they may be.

    The bounds depend on the schedule where its algebra is another than the kernel's;
    candidates of one algebra share them.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._known: dict[tuple[object, ...], list[Reference]] = {}

    def references(self, schedule: Attrs) -> list[Reference]:
        """A batch of whole numbers, and a few images of whole and of real numbers.

        The batch comes first: what it leaves in memory the others must not see.
        """
        transform = transform_of(schedule)
        if transform not in self._known:
            self._known[transform] = self._made(schedule)
        return self._known[transform]

    def _made(self, schedule: Attrs) -> list[Reference]:
        node = replace(self._task.kernel, schedule=schedule)
        graph = replace(self._task.graph, nodes=(node,))
        batch = self._task.context.batch
        small = [bounded_on(graph, min(BATCH, batch), whole) for whole in (True, False)]
        if batch <= BATCH:
            return small
        exact = not any(bound.any() for bound in small[0].every_bound)
        full = self._exact(batch) if exact else bounded_on(graph, batch, True)
        return [full, *small]

    def _exact(self, batch: int) -> Reference:
        """The interpreter's results on whole numbers that nothing rounds."""
        graph = self._task.graph
        inputs, parameters = Samples(batch=batch).of(graph)
        result = interpret(graph, inputs, parameters, float64=True)
        outputs, updates = result.outputs, result.updates
        bounds = Bounds(outputs, updates, _zeros(outputs), _zeros(updates))
        return Reference(inputs, parameters, bounds)


def bounded_on(graph: Graph, batch: int, whole: bool) -> Reference:
    """The interpreter's results on drawn data within derived bounds."""
    inputs, parameters = Samples(whole, batch).of(graph)
    return Reference(inputs, parameters, bounded(graph, inputs, parameters))


def _zeros(arrays: Mapping[str, Array]) -> State:
    return {name: np.zeros(array.shape) for name, array in arrays.items()}


def measure(programs: Sequence[Program], node: str, rounds: int) -> list[float]:
    """The median seconds of each program's kernel; the programs take turns."""
    return [median(times) for times in turns(programs, node, rounds)]


def turns(programs: Sequence[Program], node: str, rounds: int) -> list[list[float]]:
    """For each program the median seconds of its kernel in every round, on real data.

    A turn has as many runs as make it long enough for the clock.
    """
    for program in programs:
        inputs, parameters = Samples(False, program.batch).of(program.graph)
        program.load(parameters)
        for name, array in inputs.items():
            program.input(name)[...] = array
    warm = [p.time_kernels(1)[node] for p in programs]
    runs = [max(1, min(_MOST_RUNS, int(_TURN_SECONDS / s))) for s in warm]
    seen: list[list[float]] = [[] for _ in programs]
    for _ in range(rounds):
        for program, count, times in zip(programs, runs, seen, strict=True):
            times.append(program.time_kernels(count)[node])
    return seen
