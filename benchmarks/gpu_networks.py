"""A whole network, trained or run, as convc and as PyTorch do it, in turns."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from gpu_rivals import RIVALS, Rival, torch_network
from gpu_timing import (
    Contestant,
    Row,
    backend_for,
    race,
    set_precision,
    share_of_roofline,
)
from seed_networks import SEED_NETWORKS

from convc.engines.triton_engine import TritonEngine
from convc.initializers import initialize
from convc.ir.graph import Graph
from convc.ir.ops import OPS
from convc.lockfile import using
from convc.model import Model
from convc.networks import NETWORKS
from convc.pipeline import Step
from convc.program import Program

PLAIN, GRAPH = "convc, plain launches", "convc, one graph"
SEVERAL, FED = "convc, {} steps a graph", "convc, {} steps a graph, batches gathered"
TOGETHER, FED_STEPS = 10, 100
"""Steps in one CUDA graph, and between two looks at their losses."""


def network(
    device: str,
    name: str,
    kind: str,
    batch: int,
    precision: str,
    rivals: Sequence[str],
    peaks: Row,
    lockfile: str,
    thin: int = 1,
) -> Row:
    """Race the network ``name``; a contestant that fails says why in its place."""
    flags = set_precision(precision)
    model = model_named(name, thin)
    with locked(lockfile):
        program = step_of(model, kind, precision).compile(
            backend_for(device), batch, device=device
        )
    images, labels = data_for(program)
    for given, array in zip(program.graph.inputs, (images, labels), strict=False):
        program.input(given.name)[...] = array
    outputs = program.run()
    entrants, failed = ours(program, images, labels, kind)
    made, more = torch_contestants(program, model, precision, rivals, images, labels)
    rows = race([*entrants, *made], device)
    row: Row = {
        "network": name,
        "step": kind,
        "batch": batch,
        "precision": precision,
        "torch": flags,
        "launches": len(engine_of(program).calls),
        "finite": bool(all(np.isfinite(a).all() for a in outputs.values())),
        "contestants": rows | {k: {"error": v} for k, v in (failed | more).items()},
    }
    row |= agreement(program, model, precision, images) if kind == "inference" else {}
    if GRAPH in rows:
        best = rows[GRAPH]["median_us"]
        row["roofline_share"] = share_of_roofline(
            work_of(program.graph, batch), precision, peaks, best
        )
        row["speedup"] = {
            k: round(r["median_us"] / best, 3) for k, r in rows.items() if "torch" in k
        }
    return row


def network_sources(
    backend: str,
    name: str,
    kind: str,
    batch: int,
    precision: str,
    lockfile: str,
    thin: int,
    **others: Any,
) -> Iterator[str]:
    """The source that ``network`` will run."""
    del others  # rivals and peaks are of no matter here
    step = step_of(model_named(name, thin), kind, precision)
    with locked(lockfile):
        yield step.compile(backend, batch).source


def model_named(name: str, thin: int) -> Model:
    """A network of the notes, ``thin`` times narrower, or one that is built in."""
    if name in SEED_NETWORKS:
        return SEED_NETWORKS[name].model(name, thin)
    return Model(NETWORKS[name])


def step_of(model: Model, kind: str, precision: str) -> Step:
    """Its training step or its inference."""
    made = model.training_step if kind == "training" else model.inference
    return made(precision=precision)


def locked(lockfile: str) -> AbstractContextManager[None]:
    """The lockfile in force, if it has been written."""
    return using(lockfile) if Path(lockfile).exists() else nullcontext()


def data_for(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """Random images in 0 … 1 for a full batch, and labels."""
    random, image = np.random.default_rng(0), program.graph.inputs[0]
    images = random.random(image.type.bind(program.batch), np.float32)
    return images, random.integers(0, 10, program.batch).astype(np.int32)


def engine_of(program: Program) -> TritonEngine:
    """What runs a program of the Triton backend."""
    engine = program.engine
    assert isinstance(engine, TritonEngine)
    return engine


def ours(
    program: Program, images: np.ndarray, labels: np.ndarray, kind: str
) -> tuple[list[Contestant], dict[str, str]]:
    """The ways to launch a program, and of each that cannot be used why."""
    engine = engine_of(program)
    where, kept = engine.device, engine.kept
    together, steps_fed = (2, 2) if where.live else (TOGETHER, FED_STEPS)

    def captured(steps: int) -> Contestant:
        name = GRAPH if steps == 1 else SEVERAL.format(steps)
        return Contestant(name, [where.captured(engine.launch_all, steps, kept)], steps)

    def gathered() -> Contestant:
        size = (steps_fed, *[1] * (images.ndim - 1))
        batches = np.tile(images, size), np.tile(labels, steps_fed)
        names = [v.name for v in program.graph.inputs]
        pairs = list(zip(names, batches, strict=True))
        fed = program.resident(*pairs, graphed=together)
        assert fed is not None
        order = np.arange(len(batches[1]))

        def epoch() -> None:
            fed.begin(order, 0, 0)
            fed.steps(steps_fed)

        return Contestant(FED.format(together), [epoch], steps_fed)

    entrants = [
        (PLAIN, lambda: Contestant(PLAIN, [engine.launch_all])),
        (GRAPH, lambda: captured(1)),
        (SEVERAL.format(together), lambda: captured(together)),
    ]
    if kind == "training":
        entrants.append((FED.format(together), gathered))
    with where.active():
        return _made(entrants)


def torch_contestants(
    program: Program,
    model: Model,
    precision: str,
    rivals: Sequence[str],
    images: np.ndarray,
    labels: np.ndarray,
) -> tuple[list[Contestant], dict[str, str]]:
    """PyTorch's ways to run the same network from the same weights."""
    import torch

    if not rivals:
        return [], {}
    where, training = engine_of(program).device, len(program.graph.inputs) > 1
    x = torch.tensor(images, device=where.place)
    y = torch.tensor(labels, device=where.place).long()

    def entrant(name: str) -> Contestant:
        module = torch_network(model, training, first_state(model.graph))
        rival = Rival(module, where, precision, training)
        return Contestant(name, [rival.step(*RIVALS[name], x, y)])

    with where.active():
        return _made([(name, lambda name=name: entrant(name)) for name in rivals])


def _made(entrants: Sequence[tuple[str, Any]]) -> tuple[list[Contestant], dict]:
    """Those that can be made, and what is wrong with the others."""
    made, failed = [], {}
    for name, make in entrants:
        try:
            made.append(make())
        except Exception as error:  # noqa: BLE001 - the others go on
            failed[name] = f"{type(error).__name__}: {error}"
    return made, failed


def first_state(graph: Graph) -> dict[str, np.ndarray]:
    """The parameters as every program begins with them."""
    return {p.value.name: initialize(p, 0) for p in graph.parameters}


def agreement(
    program: Program, model: Model, precision: str, images: np.ndarray
) -> Row:
    """How far convc and PyTorch are apart, as a share of the largest output."""
    import torch

    where = engine_of(program).device
    module = torch_network(model, False, first_state(model.graph))
    rival = Rival(module, where, precision, training=False)
    program.initialize(0)
    names = [v.name for v in program.graph.inputs]
    ours = program(**dict(zip(names, (images,), strict=True)))["output"]
    step = rival.step("", False, torch.tensor(images, device=where.place), None)
    theirs = step().float().cpu().numpy()
    return {"difference": float(np.abs(ours - theirs).max() / np.abs(theirs).max())}


def work_of(graph: Graph, batch: int) -> list[tuple[float, float]]:
    """Operations and bytes of each kernel, by definition."""
    work = []
    for kernel in graph.nodes:
        inside = kernel.region.nodes if kernel.region else ()
        types = [([v.type for v in n.operands], n) for n in inside]
        flops = sum(OPS[n.op].flops(t, n.attrs, batch) for t, n in types)
        values = {v.name: v for v in (*kernel.operands, *kernel.results)}
        nbytes = sum(v.type.nbytes(batch) for v in values.values())
        work.append((float(flops), float(nbytes)))
    return work
