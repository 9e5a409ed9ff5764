"""Writes the source file of a planned graph."""

import keyword
from collections.abc import Iterator

from convc.backends.cpu.kernel import Kernel, Writer, comment, identifier
from convc.backends.cpu.prelude import HEAD, PRELUDES, TAIL
from convc.backends.cpu.table import emitter_for
from convc.ir.graph import Arena, Graph, Node
from convc.ir.types import TensorType

RESERVED = frozenset(
    "math time np Memory Program KERNELS ARRAYS share pieces span shifts slabs taps philox "
    "add copyto equal greater matmul maximum multiply subtract ZERO BATCH THREADS "
    "ARENA_BYTES ThreadPoolExecutor zip_longest".split()
)


def emit_program(graph: Graph, arena: Arena) -> str:
    """The file: header, helpers, one function per kernel, tables, runner."""
    buffers = {b.name: b for b in arena.buffers}
    kernels = []
    for node in graph.nodes:
        if node.region is not None:
            bare = Kernel(node, arena.threads)
            scratches = emitter_for(bare).scratch(bare)
            kernels.append(Kernel(node, arena.threads, buffers, scratches))
    names = _names(kernels)
    w = Writer()
    _emit_header(w, graph, arena)
    w.block(HEAD)
    used = [p for k in kernels for p in PRELUDES[emitter_for(k).requires]]
    for text in dict.fromkeys(used):
        w("", "")
        w.block(text)
    for kernel, name in zip(kernels, names, strict=True):
        _emit_kernel(w, kernel, name)
    _emit_tables(w, graph, names, buffers)
    w("", "")
    w.block(TAIL)
    return "\n".join(w.lines) + "\n"


def _emit_header(w: Writer, graph: Graph, arena: Arena) -> None:
    w(f'"""{comment(graph.name)}: emitted by convc for NumPy, needs nothing else.', "")
    w("Each kernel function binds its views once and returns what a step runs. Arrays")
    w("that have a batch keep it innermost: an image [h, w, c] is stored [h, w, c, n].")
    w('"""', "")
    w("import math", "import time")
    w("from concurrent.futures import ThreadPoolExecutor")
    w("from itertools import zip_longest", "")
    w("import numpy as np")
    names = "add copyto equal greater matmul maximum multiply subtract".split()
    w.call("from numpy import ", [n for n in names], "")
    w("")
    w(f"BATCH = {arena.batch}  # the most images one step takes")
    w(f"THREADS = {arena.threads}")
    w(f"ARENA_BYTES = {arena.size}")
    w("ZERO = np.float32(0)", "", "")


def _emit_kernel(w: Writer, kernel: Kernel, name: str) -> None:
    w("", "", f"def {name}(mem, n, t):")
    w.depth += 1
    ops = " + ".join(n.op for n in kernel.ops)
    w.call('"""', [comment(ops)], "") if len(ops) < 78 else _wrap(w, '"""', ops)
    w("")
    for line in _signature(kernel):
        w(comment(line))
    w('"""')
    emitter_for(kernel).emit(w, kernel)
    w.depth -= 1


def _wrap(w: Writer, head: str, text: str) -> None:
    words, line = text.split(" "), head
    for word in words:
        if len(line) + len(word) > 80:
            w(line.rstrip())
            line = ""
        line += comment(word) + " "
    w(line.rstrip())


def _signature(kernel: Kernel) -> Iterator[str]:
    for loc in kernel.node.locs:
        yield f"at {loc}"
    inputs, line = [_named(v.name, v.type) for v in kernel.node.operands], ""
    outputs = [_named(v.name, v.type) for v in kernel.node.results]
    for item in [*(f"in  {i}" for i in inputs[:8]), *(f"out {o}" for o in outputs[:8])]:
        yield item[:80]
    hidden = max(0, len(inputs) - 8) + max(0, len(outputs) - 8)
    if hidden:
        line = f"and {hidden} more"
        yield line


def _named(name: str, tensor: TensorType) -> str:
    return f"{name}: {tensor.plain}"


def _names(kernels: list[Kernel]) -> list[str]:
    names: list[str] = []
    for kernel in kernels:
        name = identifier(str(kernel.node.attrs["name"]))
        if not name.isidentifier() or keyword.iskeyword(name) or name in RESERVED:
            name = f"kernel_{name}"
        base, count = name, 1
        while name in names:
            count += 1
            name = f"{base}_{count}"
        names.append(name)
    return names


def _emit_tables(
    w: Writer, graph: Graph, names: list[str], buffers: dict[str, "object"]
) -> None:
    w("", "", "KERNELS = [")
    w(*(f"    {name}," for name in names), "]", "")
    w("# name: dtype, offset in the arena, storage order of the axes, shape (None: n)")
    w("ARRAYS = {")
    entries = [(v.name, v) for v in graph.inputs]
    entries += [(p.value.name, p.value) for p in graph.parameters]
    entries += list(graph.outputs)
    for key, value in entries:
        shape = tuple(None if isinstance(d, str) else d for d in value.type.shape)
        offset = buffers[value.name].offset  # type: ignore[attr-defined]
        dtype = value.type.dtype.numpy.name
        row = f"    {key!r}: ({dtype!r}, {offset}, {value.type.order}, {shape}),"
        w(row.replace("'", '"'))
    w("}")


