"""Writes the source file of a planned graph."""

import builtins
import json
import keyword
import re
import textwrap
from collections.abc import Sequence

from convc.backends.base import Emitted, EmittedKernel
from convc.backends.cpu.kernel import Kernel
from convc.backends.cpu.plan_check import check_plan
from convc.backends.cpu.prelude import HELPERS, SHARE, helpers_for, memory_for, tail
from convc.backends.cpu.table import emitter_for
from convc.backends.source import LINE, Writer, comment, identifier, listed
from convc.ir.graph import Arena, Buffer, Graph

FUNCTIONS = (
    "add",
    "copyto",
    "equal",
    "greater",
    "matmul",
    "maximum",
    "multiply",
    "subtract",
)
"""NumPy functions that the emitted file uses by their bare name."""

RESERVED = frozenset(HELPERS).union(
    dir(builtins),
    (
        "math",
        "os",
        "timeit",
        "np",
        "call",
        "partialmethod",
        "Barrier",
        "ThreadPoolExecutor",
        "wait",
        "BrokenBarrierError",
    ),
    FUNCTIONS,
    ("BATCH", "THREADS", "ARENA_BYTES", "ZERO", "BARRIER", "KERNELS", "ARRAYS"),
    ("FEEDS", "Memory", "Program", "share", "pieces", "seconds"),
)
"""Names the emitted file uses itself."""


def emit_program(graph: Graph, arena: Arena) -> Emitted:
    """The file: header, helpers, one function per kernel, tables, runner."""
    buffers = {b.name: b for b in arena.buffers}
    kernels = []
    for node in graph.nodes:
        if node.region is not None:
            bare = Kernel(node, arena.threads)
            scratches = emitter_for(bare).scratch(bare)
            kernels.append(Kernel(node, arena.threads, buffers, scratches))
    check_plan(graph, arena, kernels)
    names = _names(kernels)
    body = Writer()
    for kernel, name in zip(kernels, names, strict=True):
        _emit_kernel(body, kernel, name)
    source = "\n".join(body.lines)
    helpers = helpers_for(source)
    w = Writer()
    _emit_header(w, graph, arena, _functions_in("\n".join([source, *helpers])))
    for text in (memory_for(source), SHARE, *helpers):
        w("", "")
        w.block(text)
    w("", "")
    w.block(source)
    _emit_tables(w, graph, names, buffers)
    w("", "")
    w.block(tail(bool(graph.feeds), runs_alone(graph, arena)))
    return Emitted("\n".join(w.lines) + "\n", _places_in_source(w, kernels, names))


def runs_alone(graph: Graph, arena: Arena) -> bool:
    """Whether one worker makes all calls where it is asked to, with no team.

    What updates parameters has a team of one: an interrupted step is finished by it.
    """
    return arena.threads == 1 and not graph.updates


def _places_in_source(
    w: Writer, kernels: list[Kernel], names: list[str]
) -> tuple[EmittedKernel, ...]:
    """The lines of each kernel's function."""
    found, end = [], 0
    for kernel, name in zip(kernels, names, strict=True):
        first = w.lines.index(f"def {name}(mem, n, t):", end)
        end = first + 1
        while w.lines[end].startswith(" ") or not w.lines[end]:
            end += 1
        last = end - 1
        while not w.lines[last]:
            last -= 1
        found.append(EmittedKernel(name, kernel.node.name, first + 1, last + 1))
    return tuple(found)


def _functions_in(source: str) -> list[str]:
    """Those of FUNCTIONS that are called, or bound to be called, by bare name."""
    return [f for f in FUNCTIONS if re.search(rf"(?<![\w.]){f}[(,]", source)]


def _emit_header(
    w: Writer, graph: Graph, arena: Arena, functions: Sequence[str]
) -> None:
    w(f'"""{comment(graph.name)}: emitted by convc for NumPy, needs nothing else.', "")
    w("A kernel function yields the calls that a step makes, with all views made in")
    w("advance: `call(add, x, y, out=z)` is add(x, y, out=z), run later by worker t.")
    w("Arrays with a batch keep it innermost: n images [h, w, c] are [h, w, c, n].")
    w('"""', "")
    alone = runs_alone(graph, arena)
    w("import math", "import os", "import timeit")
    if not alone:
        w("from concurrent.futures import ThreadPoolExecutor, wait")
    w("from functools import partial as call")
    w("from functools import partialmethod")
    if not alone:
        w("from threading import Barrier, BrokenBarrierError")
    whose = "the threads are ours, not the BLAS library's"
    if arena.blas > 1:
        whose = "the BLAS library shares each product"
    w("", f'if __name__ == "__main__":  # {whose}')
    w(f'    os.environ.setdefault("OPENBLAS_NUM_THREADS", "{arena.blas}")')
    w("import numpy as np")
    if functions:
        w(f"from numpy import {', '.join(functions)}")
    w("")
    w(f"BATCH = {arena.batch}  # the most images one step takes")
    w(f"THREADS = {arena.threads}")
    w(f"ARENA_BYTES = {arena.size}")
    w("ZERO = np.float32(0)")
    w("BARRIER = None  # yielded where all workers wait for each other")


def _emit_kernel(w: Writer, kernel: Kernel, name: str) -> None:
    w("", "", f"def {name}(mem, n, t):")
    w.depth += 1
    ops = " + ".join(dict.fromkeys(n.op for n in kernel.ops))
    places = f"  ({listed(kernel.node.locs)})" if kernel.node.locs else ""
    text = comment(ops + places)
    if len(text) + 10 <= LINE:
        w(f'"""{text}"""')
    else:
        w(*textwrap.wrap(f'"""{text}', LINE - 12), '"""')
    body = Writer()
    body.depth = 1
    emitter_for(kernel).emit(body, kernel)
    named = _named_places(kernel)
    w.lines += [_annotated(line, named) for line in body.lines]
    w.depth -= 1


def _named_places(kernel: Kernel) -> dict[int, str]:
    """What lies at each offset; of a result on its operand both names."""
    found: dict[int, tuple[str, Buffer]] = {}
    for value in (*kernel.node.operands, *kernel.node.results):
        buffer = kernel.buffers[value.name]
        name, old = found.get(buffer.offset, (value.name, buffer))
        taken_over = old.last == buffer.first < buffer.last
        text = f"{name}, then {value.name}" if taken_over else name
        found[buffer.offset] = text, old
    return {offset: text for offset, (text, _) in found.items()}


def _annotated(line: str, named: dict[int, str]) -> str:
    """A line that binds a whole value, with the value's name as a comment."""
    found = re.match(r"\s*\w+ = mem\.\w+\((\d+)[,)]", line)
    name = named.get(int(found.group(1))) if found else None
    longer = f"{line}  # {comment(name)}" if name else line
    return longer if len(longer) <= LINE else line


def _names(kernels: list[Kernel]) -> list[str]:
    names: dict[str, int] = {}
    for kernel in kernels:
        name = identifier(str(kernel.node.attrs["name"]))
        taken = keyword.iskeyword(name) or name in RESERVED or name.startswith("__")
        if taken or not name.isidentifier():
            name = f"kernel_{name}"
        base, count = name, names.get(name, 1)
        while name in names:
            count += 1
            name = f"{base}_{count}"
        names[name] = 1
        names[base] = count
    return list(names)


def _emit_tables(
    w: Writer, graph: Graph, names: list[str], buffers: dict[str, Buffer]
) -> None:
    w("", "", "KERNELS = [")
    w(*(f"    {name}," for name in names), "]", "")
    w("# name (outputs: -> name): dtype, offset in the arena, storage order, shape")
    w("ARRAYS = {")
    entries = [(v.name, v) for v in graph.inputs]
    entries += [(p.value.name, p.value) for p in graph.parameters]
    entries += [(f"-> {name}", value) for name, value in graph.outputs]
    for key, value in entries:
        shape = tuple(None if isinstance(d, str) else d for d in value.type.shape)
        offset, dtype = buffers[value.name].offset, value.type.dtype.numpy.name
        row = f'("{dtype}", {offset}, {value.type.order}, {shape})'
        w(f"    {json.dumps(key)}: {row},")
    w("}")
    if graph.feeds:
        w("# inputs that hold a number until they are given another")
        w("FEEDS = {")
        w(*(f"    {json.dumps(k)}: {number!r}," for k, number in graph.feeds), "}")
