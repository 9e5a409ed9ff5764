"""A stage from a file, perhaps edited by hand: which passes are left, and data for it.

Which passes are left follows from the last one that the stage went through: the one
that is given, else the one in the file's name, ``NN-PASS.ir``. The pipeline is the one
that is given, else the one its folder is named after (``training.ir``,
``01-net-training``); it does not matter where all with that pass go on alike.

A file of another name goes on where its own stage says: ops are fused and formed into
kernels, kernels get layouts and schedules where they have none, a planned graph is
emitted as it is. Passes that do not take a graph at its stage are left out.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import dropwhile
from pathlib import Path

import numpy as np

from convc.backends.base import Backend
from convc.initializers import check_initializer, initial_state
from convc.ir import philox
from convc.ir.errors import CompileError, IRSyntaxError, TypeRuleError, VerifyError
from convc.ir.graph import Graph, Parameter
from convc.ir.interpreter import fed
from convc.ir.ops.base import Array
from convc.ir.parser import parse
from convc.ir.verifier import underline, verify
from convc.optimizers import Adam
from convc.passes.manager import Pass
from convc.passes.samples import fewest_classes
from convc.pipeline import INFERENCE, LOWERING, Step, training

PIPELINES = {
    "training": training(Adam()),
    "evaluation": INFERENCE,
    "inference": INFERENCE,
}
"""What the command line compiles models with in fp32, by kind of program.

What is in another precision says so itself once choose-precision has run.
"""

_NAME = re.compile(r"\d+-(.+?)(?:\.failed)?\.ir")
_FOLDER = re.compile(rf"(?:\d+-.*-)?({'|'.join(PIPELINES)})(?:\.ir)?")


def read_stage(path: Path) -> Graph:
    """The graph in a file, verified, first values included.

    CompileError with the file, and line, column and a caret for what does not parse, or
    the culprit underlined for what is not legal.
    """
    try:
        graph = verify(parse(path.read_text("utf-8")))
        for parameter in graph.parameters:
            _check_first_value(graph, parameter)
        return graph
    except (OSError, UnicodeDecodeError) as error:
        raise CompileError(f"{path}: cannot be read: {error}") from error
    except IRSyntaxError as error:
        excerpt = str(error).partition("\n")[2]
        where = f"{path}:{error.line}:{error.column}"
        raise CompileError(f"{where}: {error.reason}\n{excerpt}") from error
    except VerifyError as error:
        raise CompileError(f"{path}: {error}") from error


def _check_first_value(graph: Graph, parameter: Parameter) -> None:
    try:
        check_initializer(parameter)
    except TypeRuleError as error:
        said = underline(graph, parameter.value.name, str(error))
        raise VerifyError(said) from None


def rest(graph: Graph, path: Path, after: str = "", kind: str = "") -> Step:
    """What is left to be done for the stage in ``path``, by the rules above.

    CompileError if no pipeline has such a pass, or several go on from it differently.
    """
    named = _NAME.fullmatch(path.name)
    every = {p.name for passes in PIPELINES.values() for p in passes} | {"trace"}
    if not after and named and named.group(1) in every:
        after = named.group(1)
    if after:
        left = _chosen(path, after, kind)
    elif kind:
        raise CompileError(
            f"{path}: the name does not say which pass of {kind} it comes after; "
            "give --from PASS, or --from trace where all are left"
        )
    else:
        left = _after(LOWERING, _done(graph))
    takes = dropwhile(lambda item: graph.stage not in item.requires, left)
    return Step(graph, tuple(takes), "resumed")


def _chosen(path: Path, after: str, kind: str) -> tuple[Pass, ...]:
    """What is left after a pass, in the pipeline that is given or that it is of."""
    folder = _FOLDER.fullmatch(path.absolute().parent.name)
    known = [kind] if kind else list(PIPELINES)
    passes = {name: ("trace", *(p.name for p in PIPELINES[name])) for name in known}
    having = [name for name in known if after in passes[name]]
    if not having:
        names = sorted({name for listed in passes.values() for name in listed})
        raise CompileError(
            f"no pass of {' or '.join(known)} is called {after!r}; those that are: "
            f"{', '.join(names)}"
        )
    if folder and folder.group(1) in having:
        having = [folder.group(1)]
    ways = {
        tuple(p.name for p in left): left
        for left in (_after(PIPELINES[k], after) for k in having)
    }
    if len(ways) > 1:
        raise CompileError(
            f"{path}: training goes on from {after} in another way than inference; "
            "say which with --step"
        )
    (left,) = ways.values()
    return left


def _after(passes: tuple[Pass, ...], name: str) -> tuple[Pass, ...]:
    names = [p.name for p in passes]
    return passes[names.index(name) + 1 :] if name in names else passes


def _done(graph: Graph) -> str:
    """The last pass of the lowering that need not run, "" if all must."""
    if graph.stage == "planned":
        return LOWERING[-1].name
    if graph.stage != "kernel":
        return ""
    stored = any(v.type.layout is not None for v in graph.values())
    return "choose-layout" if stored else "form-kernels"


def batch_of(graph: Graph) -> int | None:
    """The images that a stage's plan or schedules are for, None if they do not say."""
    if graph.arena is not None:
        return graph.arena.batch
    found = [(n.schedule or {}).get("batch") for n in graph.nodes]
    return max((n for n in found if isinstance(n, int)), default=None)


def check_schedules(graph: Graph, backend: Backend, batch: int, threads: int) -> None:
    """CompileError, with the rule, if a kernel cannot run as it is scheduled."""
    for node in graph.nodes:
        planned = graph.stage == "planned" and node.region is not None
        if planned or node.schedule is not None:
            backend.check_schedule(node, batch, threads)


def random_inputs(graph: Graph, images: int, seed: int = 0) -> dict[str, Array]:
    """Numbers from 0 to 1, and classes there are, for every input not fed its own."""
    classes = np.uint32(fewest_classes(graph))
    found = fed(graph)
    for value in (v for v in graph.inputs if v.name not in found):
        t, stream = value.type, philox.stream_of(value.name)
        draw = philox.uniform if t.dtype.is_float else philox.bits
        drawn: Array = draw(seed, stream, 0, t.elements(images))
        if not t.dtype.is_float:
            drawn = drawn % classes
        found[value.name] = drawn.astype(t.dtype.numpy).reshape(t.bind(images))
    return found


def state_of(
    graphs: Iterable[Graph], weights: Mapping[str, Array], seed: int
) -> dict[str, Array]:
    """Parameters of all ``graphs``: those in ``weights``, first values for ``seed``."""
    state: dict[str, Array] = {}
    for graph in graphs:
        state |= initial_state(graph, seed)
    return state | dict(weights)
