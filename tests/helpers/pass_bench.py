"""One pass on a bench: IR text in, the stage it leaves out."""

from collections.abc import Mapping
from textwrap import dedent

from convc.backends import backend_named
from convc.backends.base import Backend
from convc.ir.graph import Graph
from convc.ir.ops.base import Array
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.passes.manager import Context, Pass, Stage, run_passes


def context(
    batch: int = 4, threads: int = 2, backend: Backend | None = None
) -> Context:
    """What passes are told: the NumPy backend, four images, two threads."""
    return Context(backend or backend_named("numpy"), batch, threads)


def graph_of(text: str) -> Graph:
    """The graph that ``text`` says."""
    return parse(dedent(text).lstrip("\n"))


def stage_after(
    *passes: Pass,
    of: str | Graph,
    check: bool = True,
    backend: Backend | None = None,
) -> Stage:
    """The last stage when ``passes`` have run, each checked for its meaning.

    The stage's text is read back and must give the same graph.
    """
    graph = graph_of(of) if isinstance(of, str) else of
    stage = run_passes(graph, passes, context(backend=backend), check)[-1]
    assert parse(stage.text) == stage.graph
    return stage


def same(found: Graph, text: str) -> bool:
    """Whether ``found`` prints as ``text``; shows both sides if it does not."""
    assert print_graph(found) == dedent(text).lstrip("\n")
    return True


def equal(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    """Whether two sets of arrays have the same names and the same bits."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a
    )
