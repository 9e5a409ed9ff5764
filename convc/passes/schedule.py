"""How each kernel is run: as it says, as was measured, or as is predicted."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from convc.backends.base import Candidate
from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Graph, Node
from convc.lockfile import Entry, key_of
from convc.passes.manager import Choice, Context, Pass

NEAR = 1.005
"""Predictions no further apart than this do not tell which is faster."""


def choose_schedule(graph: Graph, context: Context, exact: bool = False) -> Graph:
    """Give every kernel a schedule: its own, else a measured, else a predicted one.

    Of those it may choose none is taken that is not ``direct``, if ``exact`` is asked
    for.
    """
    nodes = tuple(
        _scheduled(node, context, exact) if node.region is not None else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def preferred(
    node: Node, candidates: Sequence[Candidate], context: Context
) -> tuple[Candidate, ...]:
    """Candidates as predicted, but of the NEAR best the one with least scratch first.

    The first is what the cost model chooses.
    """

    def scratch(candidate: Candidate) -> int:
        made = replace(node, schedule=candidate.schedule)
        needed = context.backend.scratch(made, context.threads)
        return sum(item.nbytes for item in needed)

    limit = NEAR * candidates[0].cost.seconds
    best = min((c for c in candidates if c.cost.seconds <= limit), key=scratch)
    return (best, *(c for c in candidates if c is not best))


def _scheduled(node: Node, context: Context, exact: bool) -> Node:
    """The kernel with its schedule, and a note where that comes from."""
    key = key_of(node, context.batch, context.machine)
    entry = context.tuned.get(key)
    made, origin = node, "given"
    if node.schedule is None:
        found = context.backend.candidates(node, context.batch, context.threads)
        open_ = [c for c in found if c.direct or not exact]
        barred = [c.schedule for c in found if c not in open_]
        if entry is not None:
            made = _as_measured(node, entry, barred, context)
            origin = "lockfile" if entry.rounds else "compiled"
        if made.schedule is None:
            _refuse_barred(node, found[0].schedule, barred, "predicted", context)
            best = preferred(node, open_, context)[0]
            made, origin = replace(node, schedule=best.schedule), "cost model"
    context.backend.check_schedule(made, context.batch, context.threads)
    context.choices.append(Choice(node.name, origin, entry))
    return made


def _as_measured(
    node: Node, entry: Entry, barred: list[Attrs], context: Context
) -> Node:
    """The kernel with the fastest schedule, or as it is if the target refuses that."""
    ranked = [m.schedule for m in entry.measured]
    _refuse_barred(node, ranked[0], barred, "measured", context)
    best = next((s for s in ranked if s not in barred), None)
    if best is None:
        return node
    made = replace(node, schedule=best)
    try:
        context.backend.check_schedule(made, context.batch, context.threads)
    except CompileError as error:
        context.refuse(
            node,
            f"the lockfile's schedule does not fit: {error}; "
            "run convc tune again, the cost model's is taken",
            str(node.attrs["name"]),
        )
        return node
    return made


def _refuse_barred(
    node: Node, best: Attrs, barred: list[Attrs], how: str, context: Context
) -> None:
    """Say so where the best schedule is barred."""
    if best in barred:
        context.refuse(
            node,
            f"{best.get('algorithm')} is {how} to be faster, but does not sum up what "
            "it is defined by, and exact was asked for",
            str(node.attrs["name"]),
        )


CHOOSE_SCHEDULE = Pass("choose-schedule", choose_schedule, ("kernel",))
CHOOSE_DIRECT = replace(CHOOSE_SCHEDULE, rewrite=partial(choose_schedule, exact=True))
"""The same where every convolution is to be the sum that its definition is."""
