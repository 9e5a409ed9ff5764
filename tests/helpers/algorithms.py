"""One algorithm of a kernel on random data, against the bounds of its schedule."""

from compiled import compiled, faults, inputs_for, parameters_for, ran
from schedules import candidates_of, scheduled

from convc.ir.graph import Graph
from convc.ir.rounding import bounded

BATCH = 5
SETTINGS = ((2, 3), (7, BATCH))
"""Threads and images: fewer than planned, and more threads than images."""


def wrong(graph: Graph, op: str, algorithm: str, whole: bool = False) -> list[str]:
    """What is outside the bounds of its schedule, with the best and the worst tile.

    On numbers as they come, or on ``whole`` ones.
    """
    found = []
    for threads, n in SETTINGS:
        every = candidates_of(graph, op, BATCH, threads)
        offered = [c.schedule for c in every if c.schedule["algorithm"] == algorithm]
        assert offered
        for schedule in (offered[0], offered[-1]):
            program = compiled(graph, BATCH, threads, scheduled(op, schedule))
            feeds, given = inputs_for(graph, n, whole), parameters_for(graph, whole)
            if "index" in feeds:
                feeds["index"] %= 4
            bounds = bounded(program.graph, feeds, given)
            for _ in range(2):
                program.load(given)
                result = ran(program, feeds)
                found += [f"{schedule}: {f}" for f in faults(graph, bounds, result)]
    return found
