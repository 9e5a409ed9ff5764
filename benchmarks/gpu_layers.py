"""Each convolution of ResNet-50, alone and in each direction, against cuDNN.

The network is that of He et al., "Deep residual learning for image recognition", 2015,
table 1, with the stride in the convolution of 3x3. A layer is one kernel of convc.
"""

from collections.abc import Iterator, Mapping
from math import inf, prod
from typing import Any

import torch
from gpu_networks import engine_of, locked, work_of
from gpu_timing import (
    Contestant,
    Row,
    backend_for,
    race,
    set_precision,
    share_of_roofline,
)

from convc.engines.device import Call
from convc.engines.device import device as device_called
from convc.ir.builder import GraphBuilder
from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.types import BATCH, DType, TensorType
from convc.lockfile import Entry, Measured, update_lockfile
from convc.pipeline import LOWERING, Step
from convc.program import Program
from convc.tuning import Task, tasks_of

Layer = tuple[int, int, int, int, int]
"""Size of the square image, channels, size of the window, filters, stride."""
DIRECTIONS = ("forward", "input gradient", "filter gradient")
OPERANDS = dict(zip(DIRECTIONS, (("x", "w"), ("dy", "w"), ("x", "dy")), strict=True))
CUDNN = "cudnn"


def resnet50() -> list[Layer]:
    """The shapes of its convolutions, each once, those of 3x3 and stride 1 first."""
    found: dict[Layer, None] = {(224, 3, 7, 64, 2): None}
    channels, size = 64, 56
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            small = size // stride
            found[size, channels, 1, width, 1] = None
            found[size, width, 3, width, stride] = None
            found[small, width, 1, 4 * width, 1] = None
            if not block:
                found[size, channels, 1, 4 * width, stride] = None
            channels, size = 4 * width, small
    return sorted(found, key=lambda x: (x[4], -x[2]))


SMALL: tuple[Layer, ...] = ((9, 3, 7, 8, 2), (4, 64, 3, 64, 1), (4, 72, 1, 16, 1))
"""Layers of the same kinds for the interpreter."""


def label(layer: Layer) -> str:
    """A layer on one line."""
    size, channels, window, filters, stride = layer
    return f"{window}x{window} {channels}->{filters} at {size}, stride {stride}"


def goal_of(layer: Layer, direction: str, precision: str) -> str:
    """Which of the goals a layer counts for: 3x3, 1x1, a direction, or none."""
    _, channels, window, _, stride = layer
    if precision != "bf16" or channels < 64:
        return ""
    if direction != DIRECTIONS[0]:
        return direction
    return f"{window}x{window}" if stride == 1 else ""


def layer(
    device: str,
    shape: Layer,
    direction: str,
    batch: int,
    precision: str,
    top: int,
    peaks: Row,
    lockfile: str,
) -> Row:
    """Race a layer's kernel against cuDNN, with its ``top`` best predicted schedules.

    Where more than one is tried, the fastest right one goes into the lockfile.
    """
    flags = set_precision(precision)
    graph = layer_graph(shape, direction, precision)
    step, backend = Step(graph, LOWERING), backend_for(device)
    tensors = data_for(graph, batch, device_called(device).place)
    rival = cudnn(shape, direction, tensors)
    reference = Reference(shape, direction, tensors)
    task = next(iter(tasks_of(step, backend, batch, 1)[0]), None)
    programs = dict(_programs(step, task, top, batch, device, lockfile))
    entrants = []
    shares = {CUDNN: reference.share(as_ours(rival(), direction))}
    for name, program in programs.items():
        engine = engine_of(program)
        for value, tensor in zip(program.graph.inputs, tensors.values(), strict=True):
            engine.emitted.array(value.name).copy_(tensor)
        with engine.device.active():
            engine.launch_all()
        ((output, _),) = program.graph.outputs
        shares[name] = reference.share(engine.emitted.array(f"-> {output}"))
        entrants.append(Contestant(name, engine.calls))
    rows = race([*entrants, Contestant(CUDNN, [rival])], device, cold=True)
    best = min(programs, key=lambda n: (shares[n] > 1, rows[n]["median_us"]))
    if task is not None and top > 1:
        keep_right(task, rows, shares, lockfile)
    taken, work = rows[best]["median_us"], work_of(programs[best].graph, batch)
    return {
        "layer": label(shape),
        "direction": direction,
        "batch": batch,
        "precision": precision,
        "goal": goal_of(shape, direction, precision),
        "torch": flags,
        "cudnn_share": round(rows[CUDNN]["median_us"] / taken, 4),
        "roofline_share": share_of_roofline(work, precision, peaks, taken),
        "best": best,
        "share_of_bound": shares,
        "contestants": rows,
    }


def layer_sources(
    backend: str,
    shape: Layer,
    direction: str,
    batch: int,
    precision: str,
    **others: Any,
) -> Iterator[str]:
    """The source that ``layer`` will run with the schedule that is chosen for it."""
    del others  # how many schedules, peaks and lockfile are of no matter here
    step = Step(layer_graph(shape, direction, precision), LOWERING)
    yield step.compile(backend, batch, 1).source


def _programs(
    step: Step, task: Task | None, top: int, batch: int, device: str, lockfile: str
) -> Iterator[tuple[str, Program]]:
    """The kernel as it is chosen, or with each of its best schedules, by schedule."""
    if task is None or top == 1:
        with locked(lockfile):
            program = step.compile(backend_for(device), batch, 1, device=device)
        kernels = [n for n in program.graph.nodes if n.region is not None]
        if len(kernels) != 1:
            raise CompileError(f"{step.graph.name} is {len(kernels)} kernels, not one")
        yield str(dict(kernels[0].schedule or {})), program
        return
    for candidate in task.best(top):
        yield str(dict(candidate.schedule)), task.program(candidate)


def keep_right(task: Task, rows: Row, shares: Row, lockfile: str) -> None:
    """Write down what was measured of the schedules that are right."""
    seconds = []
    for candidate in task.candidates:
        name = str(dict(candidate.schedule))
        if shares.get(name, inf) <= 1:
            taken = rows[name]["median_us"] * 1e-6
            seconds.append(Measured(candidate.schedule, taken))
    if seconds:
        ranked = tuple(sorted(seconds, key=lambda m: m.seconds))
        update_lockfile(lockfile, [Entry(task.key, rows[CUDNN]["rounds"], ranked)])


def layer_graph(shape: Layer, direction: str, precision: str) -> Graph:
    """The convolution or one of its gradients, all operands inputs; output ``y``.

    In bf16 a filter's gradient is f32, as the optimizer wants it.
    """
    size, channels, window, filters, stride = shape
    kind = DType.BF16 if precision == "bf16" else DType.F32
    pad, out = window // 2, (size + 2 * (window // 2) - window) // stride + 1
    geometry: Any = {"strides": (stride, stride), "padding": ((pad, pad), (pad, pad))}
    if precision == "tf32":
        geometry["precision"] = "tf32"
    types = {
        "x": TensorType(kind, (BATCH, size, size, channels)),
        "w": TensorType(kind, (window, window, channels, filters)),
        "dy": TensorType(kind, (BATCH, out, out, filters)),
    }
    b = GraphBuilder(f"conv_{direction.replace(' ', '_')}")
    names = OPERANDS[direction]
    operands = [b.input(name, types[name]) for name in names]
    if direction == DIRECTIONS[0]:
        y = b("conv2d", *operands, **geometry)
    elif direction == DIRECTIONS[1]:
        y = b("conv2d_input_grad", *operands, size=(size, size), **geometry)
    else:
        more = {"out": "f32"} if precision == "bf16" else {}
        kernel = (window, window)
        y = b("conv2d_filter_grad", *operands, kernel=kernel, **more, **geometry)
    b.output("y", y)
    return b.finish()


def data_for(graph: Graph, batch: int, place: str) -> dict[str, Any]:
    """Normal numbers for each operand, in the graph's layouts and types."""
    kinds = {DType.BF16: torch.bfloat16, DType.F32: torch.float32}
    return {
        v.name: torch.randn(v.type.bind(batch), device=place).to(kinds[v.type.dtype])
        for v in graph.inputs
    }


def cudnn(shape: Layer, direction: str, tensors: Mapping[str, Any]) -> Call:
    """A call of PyTorch for a layer; it gives what PyTorch gives, [n,c,h,w]."""
    size, channels, window, filters, stride = shape
    geometry = ([stride] * 2, [window // 2] * 2, [1, 1])
    t = {name: _as_theirs(name, tensor) for name, tensor in tensors.items()}
    if direction == DIRECTIONS[0]:
        return lambda: torch.nn.functional.conv2d(t["x"], t["w"], None, *geometry)
    some = next(iter(t.values()))
    batch = some.shape[0] if "w" not in tensors else t["dy"].shape[0]
    empty = some.new_empty  # only its shape is looked at
    x = t.get("x", empty(batch, channels, size, size))
    w = t.get("w", empty(filters, channels, window, window))
    x, w = (v.contiguous(memory_format=torch.channels_last) for v in (x, w))
    wanted = [direction == name for name in DIRECTIONS[1:]]
    rest = (*geometry, False, [0, 0], 1, [*wanted, False])
    at = wanted.index(True)
    backward = torch.ops.aten.convolution_backward
    return lambda: backward(t["dy"], x, w, None, *rest)[at]


def _as_theirs(name: str, tensor: Any) -> Any:
    """[n,h,w,c] as [n,c,h,w], [h,w,in,out] as [out,in,h,w]; both channels_last."""
    order = (3, 2, 0, 1) if name == "w" else (0, 3, 1, 2)
    return tensor.permute(order).contiguous(memory_format=torch.channels_last)


def as_ours(result: Any, direction: str) -> Any:
    """What PyTorch gave, with the axes of the graph."""
    order = (2, 3, 1, 0) if direction == DIRECTIONS[2] else (0, 2, 3, 1)
    return result.permute(order)


class Reference:
    """A layer in float64, and how far off a result may be by what is rounded.

    With S the sum of the |products| of n terms: a sum in float32 is off by n·2⁻²³ S at
    most, whatever the order and if sums are cut, not rounded; tf32 cuts both operands
    after 10 bits, together (2⁻⁹ + 2⁻²⁰) S; bf16 rounds the result, by 2⁻⁸ of it.
    """

    def __init__(self, shape: Layer, direction: str, tensors: Row) -> None:
        wide = {name: tensor.double() for name, tensor in tensors.items()}
        absolute = {name: tensor.abs() for name, tensor in wide.items()}
        torch.backends.cudnn.benchmark = False  # nobody times these
        self._exact = as_ours(cudnn(shape, direction, wide)(), direction)
        sums = as_ours(cudnn(shape, direction, absolute)(), direction)
        torch.backends.cudnn.benchmark = True
        half = any(t.dtype is torch.bfloat16 for t in tensors.values())
        if direction == DIRECTIONS[2]:
            terms = prod(tensors["dy"].shape[:3])
        else:
            summed = DIRECTIONS.index(direction) + 2  # channels, or filters
            terms = prod(tensors["w"].shape[:2]) * tensors["w"].shape[summed]
        products = 0.0 if half else 2.0**-9 + 2.0**-20
        self._most = (terms * 2.0**-23 + products) * sums
        if half:
            self._most += 2.0**-8 * (self._exact.abs() + self._most)

    def share(self, found: Any) -> float:
        """The largest error as a share of what it may be: above 1 is wrong."""
        error = (found.double() - self._exact).abs()
        if not bool(torch.isfinite(error).all()):
            return inf
        return float((error / self._most.clamp_min(1e-300)).max())
