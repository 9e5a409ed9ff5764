"""Judges schedules by their compiled code, where there is no GPU to measure them on.

A schedule that spills registers, or needs more than a block may have, is out. The rest
are ranked by the predicted time, longer where too few warps fit on a multiprocessor to
hide the latency of memory: Volkov, "Better performance at lower occupancy" (GTC 2010),
where about 8 warps with several loads under way each are enough.
"""

from dataclasses import replace

from convc.backends.base import Candidate
from convc.backends.gpu.compiling import compile_source
from convc.backends.gpu.resources import Resources, resources_of
from convc.ir.errors import CompileError
from convc.passes.manager import run_passes
from convc.tuning import Outcome, Task, Trial

ENOUGH = 8
"""Warps on a multiprocessor that hide the latency of memory."""


def judge(task: Task, top: int) -> Outcome:
    """Compile the best candidates of a kernel; the best of what came of it wins.

    The outcome has no rounds: nothing was measured.
    """
    trials = tuple(_trial(task, candidate) for candidate in task.best(top))
    return Outcome(task, trials, 0)


def _trial(task: Task, candidate: Candidate) -> Trial:
    node = replace(task.kernel, schedule=candidate.schedule)
    graph = replace(task.graph, nodes=(node,))
    planned = run_passes(graph, task.passes, task.context)[-1].graph
    target = task.context.backend.name.partition(":")[2]
    try:
        source = task.context.backend.emit(planned).source
        found = resources_of(compile_source(source, target))
    except CompileError as error:
        return Trial(candidate, None, str(error))
    drawback = next(filter(None, map(_drawback, found)), "")
    if drawback:
        return Trial(candidate, None, drawback=drawback)
    return Trial(candidate, candidate.cost.seconds * max(map(_wait, found)))


def _drawback(found: Resources) -> str:
    """Why a kernel's code is not worth a try, if it is not."""
    if found.spills and not found.fault:
        return f"{found.spills} instructions spill registers"
    return found.fault


def _wait(found: Resources) -> float:
    """How many times longer a kernel takes for want of warps."""
    return max(1.0, ENOUGH / max(1, found.blocks * found.warps))
