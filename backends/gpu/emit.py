"""Writes the source file of a planned graph."""

import json
import keyword
import re
import textwrap
from collections.abc import Iterable, Sequence

from convc.backends.base import Emitted, EmittedKernel
from convc.backends.gpu import optimizer
from convc.backends.gpu.affine import Symbol
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.names import RESERVED, TORCH
from convc.backends.gpu.prelude import helpers_for, runner
from convc.backends.gpu.region import is_optimizer, launches, scratch_values
from convc.backends.gpu.section import Launch, Section, function_name
from convc.backends.gpu.tile import Tile
from convc.backends.source import LINE, comment, identifier, listed, wrapped
from convc.ir.graph import Arena, Graph, Value
from convc.ir.printer import node_lines

TAIL = 64
"""Bytes after the graph's arena: how many images a step has, and who has arrived."""

HEAD = '''
It needs torch and triton. Kernels take pointers only: shapes, strides and tiles are
written out. Above each stands what it computes, as the compiler's graph says it. A step
is the list LAUNCHES; all that it touches lies in one block of memory, at PLACES.
"""

import time

import torch
import triton
import triton.language as tl
'''


class File:
    """The parts of an emitted file while it is written."""

    def __init__(self, graph: Graph, arena: Arena) -> None:
        self.arena = arena
        self.buffers = {b.name: b for b in arena.buffers}
        self.values = {v.name: v for v in graph.values()}
        self.places: dict[str, tuple[str, int, int]] = {
            "!images": ("int32", arena.size, 1),
            "!arrived": ("int32", arena.size + 4, 1),
        }
        self.lines: list[str] = []
        self.kernels: list[EmittedKernel] = []
        self.launches: list[str] = []
        self.counts: list[int] = []
        self.names: set[str] = set()

    def place(self, kernel: Kernel, name: str) -> None:
        """Enter what an argument points to in the table."""
        if name in self.places:
            return
        if name in self.values:
            self.enter(self.values[name])
            return
        part = name.partition("!")[2]
        if is_optimizer(kernel) and part in optimizer.block_places(kernel):
            first = optimizer.block_places(kernel)[part]
            kind, count = self.values[first].type.dtype, optimizer.total(kernel)
            offset = self.buffers[first].offset
        else:
            scratch = next(v for v in scratch_values(kernel) if v.name == name)
            kind, count = scratch.type.dtype, scratch.type.elements(1)
            offset = self.buffers[name].offset
        self.places[name] = TORCH[kind], offset, count

    def enter(self, value: Value) -> None:
        """Enter a value of the graph in the table."""
        offset, count = (
            self.buffers[value.name].offset,
            value.type.elements(self.arena.batch),
        )
        self.places.setdefault(value.name, (TORCH[value.type.dtype], offset, count))

    def kernel(self, kernel: Kernel) -> None:
        """The functions and launches of a kernel."""
        first = len(self.lines) + 3
        made = launches(kernel)
        for launch in made:
            name = self.unique(launch.name)
            if launch.name == function_name(kernel):
                function = name
            self.launch(kernel, launch, name)
        self.counts.append(len(made))
        place = EmittedKernel(function, kernel.node.name, first, len(self.lines))
        self.kernels.append(place)

    def launch(self, kernel: Kernel, launch: Launch, name: str) -> None:
        """A launch: one function, or one for each section and one that chooses."""
        if len(launch.sections) == 1:
            places, lines = self.section(kernel, launch.sections[0], "tl.program_id(0)")
        else:
            places, lines = self.sections(kernel, launch)
        about = [f"# {launch.about}"] if launch.about else describe(kernel)
        self.function(name, places, lines, about)
        for place in places.values():
            self.place(kernel, place)
        self.launches += [
            f"    ({name}, {launch.programs}, (",
            *_filled(f"{json.dumps(place)}," for place in places.values()),
            f"    ), {launch.warps}, {launch.stages}),",
        ]

    def sections(
        self, kernel: Kernel, launch: Launch
    ) -> tuple[dict[str, str], list[str]]:
        """A function for each section; pointers and lines that choose among them."""
        places: dict[str, str] = {}
        lines, first = ["pid = tl.program_id(0)"], 0
        for number, section in enumerate(launch.sections):
            own, body = self.section(kernel, section, None)
            name = self.unique(section.name)
            self.function(name, ["pid", *own], body, [])
            places.update(own)
            until = first + section.programs
            test = f"{'elif' if number else 'if'} pid < {until}:"
            lines.append("else:" if section is launch.sections[-1] else test)
            pid = f"pid - {first}" if first else "pid"
            lines.append(f"    {name}({', '.join([pid, *own])})")
            first = until
        return places, lines

    def section(
        self, kernel: Kernel, section: Section, pid: str | None
    ) -> tuple[dict[str, str], list[str]]:
        """The pointers and lines of a section's body."""
        t = Tile(kernel)
        number = Symbol("pid", 0, max(0, section.programs - 1), frozenset(), t.top)
        number.definition = pid
        section.write(t, number)
        return t.pointers, list(t.top.lines())

    def function(
        self,
        name: str,
        arguments: Iterable[str],
        lines: Sequence[str],
        comments: Sequence[str],
    ) -> None:
        """A jitted function, with comments above it."""
        self.lines += ["", "", *comments, "@triton.jit"]
        self.lines += wrapped(f"def {name}({', '.join(arguments)}):")
        for line in lines:
            self.lines += wrapped(f"    {line}")

    def unique(self, name: str) -> str:
        """A function name that is not taken; PTX knows none that is just ``_``."""
        plain = identifier(name)
        if (
            keyword.iskeyword(plain)
            or plain == "_"
            or not plain.isidentifier()
            or plain in RESERVED
            or plain.startswith("__")
        ):
            plain = f"kernel_{plain}"
        found, number = plain, 1
        while found in self.names:
            number += 1
            found = f"{plain}_{number}"
        self.names.add(found)
        return found


def _filled(items: Iterable[str]) -> list[str]:
    """Items side by side, as many on a line as fit."""
    lines = [" " * 7]
    for item in items:
        if len(lines[-1]) + 1 + len(item) > LINE:
            lines.append(" " * 7)
        lines[-1] += f" {item}"
    return lines


def describe(kernel: Kernel) -> list[str]:
    """Comments: what a kernel computes, and the lines it comes from."""
    found, operands = [], kernel.node.operands
    if kernel.node.locs:
        found += textwrap.wrap(comment(listed(kernel.node.locs)), LINE - 2)
    if is_optimizer(kernel):
        found += textwrap.wrap(comment(_updated(kernel)), LINE - 2)
        return [f"# {line}" for line in found]
    names = {
        inside.name: v for inside, v in zip(kernel.region.inputs, operands, strict=True)
    }
    for node in kernel.region.nodes:
        inner = node_lines(node)[0].partition("   @ ")[0]
        text = re.sub(r"%(\d+)\b", lambda m: str(names[m.group(1)]), inner)
        found += textwrap.wrap(comment(text), LINE - 2, subsequent_indent="    ")
    yields = zip(kernel.node.results, kernel.region.yields, strict=True)
    text = ", ".join(f"{outside} = {inside}" for outside, inside in yields)
    found += textwrap.wrap(comment(text), LINE - 2, subsequent_indent="    ")
    return [f"# {line}" for line in found]


def _updated(kernel: Kernel) -> str:
    """An update, and of which parameters."""
    first = optimizer.updates(kernel)[0]
    attrs = node_lines(first)[0].partition("{")[2].partition("}")[0]
    parameters = (kernel.outer(n.operands[0]) for n in optimizer.updates(kernel))
    return f"{first.op} {{{attrs}}}: {', '.join(map(str, parameters))}"


def emit_program(graph: Graph, arena: Arena) -> Emitted:
    """The file: header, helpers, kernels, launch list, tables, runner."""
    file = File(graph, arena)
    for node in graph.nodes:
        if node.region is not None:
            file.kernel(Kernel(node, arena.batch))
    source = "\n".join(file.lines)
    head = [f'"""{comment(graph.name)}: emitted by convc for Triton.']
    head += HEAD.rstrip("\n").split("\n")
    head += ["", f"BATCH = {arena.batch}  # the most images one step takes"]
    head += [f"ARENA_BYTES = {arena.size + TAIL}"]
    for text in helpers_for(source):
        head += ["", "", *text.split("\n")]
    shift = len(head)
    kernels = tuple(
        EmittedKernel(k.function, k.node, k.first + shift, k.last + shift)
        for k in file.kernels
    )
    tail = runner(source, bool(graph.feeds))
    lines = [*head, *file.lines, *_tables(file, graph), "", "", tail]
    return Emitted("\n".join(lines) + "\n", kernels)


def _tables(file: File, graph: Graph) -> list[str]:
    entries = [(v.name, v) for v in graph.inputs]
    entries += [(p.value.name, p.value) for p in graph.parameters]
    entries += [(f"-> {name}", value) for name, value in graph.outputs]
    for _, value in entries:
        file.enter(value)
    found = ["", "", "# a step: kernel, programs, what its pointers are, warps, stages"]
    found += ["LAUNCHES = [", *file.launches, "]"]
    found += ["# how many of them each kernel of the graph has"]
    found += ["LAUNCHES_OF = [", *_filled(f"{count}," for count in file.counts), "]"]
    found += ["", "# dtype, byte offset, elements of a full batch", "PLACES = {"]
    for name, row in file.places.items():
        found.append(f'    {json.dumps(name)}: ("{row[0]}", {row[1]}, {row[2]}),')
    found += ["}", "", "# what goes in and out: place, shape (None: the batch)"]
    found.append("ARRAYS = {")
    for key, value in entries:
        shape = tuple(None if isinstance(d, str) else d for d in value.type.shape)
        found.append(f"    {json.dumps(key)}: ({json.dumps(value.name)}, {shape}),")
    found.append("}")
    if graph.feeds:
        found += ["", "# inputs that hold a number until they are given another"]
        rows = (f"    {json.dumps(name)}: {number!r}," for name, number in graph.feeds)
        found += ["FEEDS = {", *rows, "}"]
    return found
