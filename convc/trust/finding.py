"""What a search for a wrong result found, with a program that shows it."""

from dataclasses import dataclass

from convc.ir.graph import Graph, Node
from convc.ir.printer import print_graph

LONGEST = 29
"""Lines of a repro."""


@dataclass(frozen=True)
class Finding:
    """The first thing that is wrong.

    ``kind`` is "gradient rule", "pass", "kernel", "memory plan", "run of", "backend"
    or "graph", and ``where`` the name of that; ``op`` is the operation in it, "" where
    none can be named, ``line`` the user's line that it comes from, and ``repro`` a
    Python program that fails as long as the bug is there.
    """

    kind: str
    where: str
    op: str
    line: str
    reason: str
    repro: str

    def __str__(self) -> str:
        op = f"\n  op      {self.op}" if self.op else ""
        line = f"\n  line    {self.line}" if self.line else ""
        return f"{self.kind} {self.where}{op}{line}\n  reason  {self.reason}"


def line_of(node: Node | None) -> str:
    """The user's line that a node comes from."""
    return str(node.locs[0]) if node is not None and node.locs else ""


def script(graph: Graph | None, lines: str, otherwise: str) -> str:
    """A program that reads ``graph`` as PROGRAM and goes on with ``lines``.

    Where that would be longer than LONGEST, or without a graph, it is ``otherwise``.
    """
    if graph is None:
        return otherwise
    text = print_graph(graph).replace("\\", "?").replace('"""', "???")
    whole = f'from convc.ir.parser import parse\n\nPROGRAM = """\\\n{text}"""\n{lines}'
    return whole if len(whole.splitlines()) <= LONGEST else otherwise


RULE = """
from convc.trust.rules import raise_wrong

raise_wrong(parse(PROGRAM))
"""
PASS = """
from convc.optimizers import Adam
from convc.pipeline import INFERENCE, Step, training

passes = {{p.name: p for p in (*INFERENCE, *training(Adam(1e-3)))}}
Step(parse(PROGRAM), (passes[{name!r}],)).stages({backend!r}, {batch}, {threads}, True)
"""
KERNEL = """
from convc.pipeline import Step
from convc.trust.bisect import KERNELS
from convc.trust.stepping import raise_fault

raise_fault(Step(parse(PROGRAM), KERNELS).compile({backend!r}, {batch}, {threads}))
"""
WHOLE = """\
from convc.model import Fed, Model
from convc.networks import load_network
from convc.trust.stepping import raise_fault

network, name = load_network({model!r})
how = {{"precision": {precision!r}, "exact": {exact!r}}}
model = Model(network, name=name, **how, **{inputs!r})
step = model.{step}()
raise_fault(step.compile({backend!r}, {batch}, {threads}, check=True))
"""
