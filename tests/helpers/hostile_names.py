"""Texts that users may give as names, in a graph that holds them everywhere."""

import ast
from dataclasses import replace
from typing import Any

from pass_bench import graph_of

from convc.ir.graph import Graph, Loc, Node
from convc.passes.manager import Pass

HOSTILE = (
    '"""\nPWNED()\n"""',
    "'''\nPWNED()\n'''",
    '", PWNED(), "',
    "', PWNED(), '",
    "it's",
    'a"b',
    "\\",
    "\\N{BULLET}",
    "\nPWNED()",
    "\r\nPWNED()#",
    "\u2028PWNED()",
    "\x00\x0c\x1b[31m",
    "{PWNED()}",
    "{0} {x!r} %s %(x)d",
    "a" * 3000,
    "é ß 名前",
    "class",
    "match",
    "None",
    *("share", "call", "np", "matmul", "Memory", "Program", "program", "run"),
    *(
        "mem",
        "n",
        "t",
        "x",
        "span",
        "pieces",
        "ZERO",
        "ARRAYS",
        "OUTPUTS",
        "BARRIER",
        "os",
    ),
    *("slice", "range", "print", "__name__", "__builtins__", "__import__", "__file__"),
    *("0", "1x", "_", "-", ""),
)
NET = """
graph g(%image: f32[N,4,4,2]) -> (y=%4) {
  param %kernel : f32[3,3,2,3] = zeros()
  param %bias : f32[3] = zeros()
  %1 = conv2d(%image, %kernel) {padding=same} : f32[N,4,4,3]
  %2 = bias_add(%1, %bias) : f32[N,4,4,3]
  %3 = relu(%2) : f32[N,4,4,3]
  %4 = exp(%3) : f32[N,4,4,3]
}
"""


def named_everywhere(text: str) -> Graph:
    """A graph whose name, output, file and layers are all called ``text``."""
    graph = graph_of(NET)
    loc = (Loc(text, 7, text),)
    nodes = tuple(Node(n.op, n.operands, n.results, n.attrs, loc) for n in graph.nodes)
    ((_, value),) = graph.outputs
    return Graph(text, graph.inputs, graph.parameters, nodes, ((text, value),))


def rename_kernels(text: str) -> Pass:
    """A pass that calls every kernel ``text``."""

    def rewrite(graph: Graph, context: Any) -> Graph:
        nodes = (
            replace(n, attrs={"name": text}) if n.region else n for n in graph.nodes
        )
        return replace(graph, nodes=tuple(nodes))

    return Pass("rename-kernels", rewrite, ("kernel",))


def calls_in(source: str) -> set[str]:
    """Every name that the source reads or calls."""
    return {n.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name)}
