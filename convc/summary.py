"""A table of a traced network: layers, shapes, parameters and work."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convc.ir.graph import Graph, Loc, Node, Parameter
from convc.ir.ops import OPS
from convc.ir.ops.random import DROPOUTS, MASKS
from convc.sizes import Size, sizes

if TYPE_CHECKING:
    from rich.table import Table

UNNAMED = "(variables)"
"""What stands in a layer's place for variables made outside of all layers."""
HEADINGS = ("Layer (type)", "Output shape", "Param #", "FLOPs")
"""FLOPs are those of the forward pass for one image, a multiply-add counted as two."""
SIZES = "output size: (input - window + padding)/stride + 1"
"""What stands above the derivations of sizes."""

# A layer is called after the first of these ops in it, else after its only op.
_TYPES = {
    "conv2d": "conv2d",
    "conv2d_input_grad": "conv2d_transpose",
    "max_pool2d": "max_pool2d",
    "avg_pool2d": "avg_pool2d",
    "matmul": "dense",
    **dict.fromkeys(DROPOUTS, "dropout"),
    "batch_norm": "batch_norm",
}
# Scalars of a formula and draws of bits: no layer is named after these.
_HELPERS = ("constant", *MASKS)
# What stands for images in a type is less or more where a result has other axes.
_RANKS = {3: "1d", 5: "3d"}


def _convolution(nodes: list[Node]) -> str:
    """What a layer is whose first node with a name is the convolution ``nodes[0]``."""
    channels = nodes[0].operands[0].type.inner[-1]
    if channels == 1 or nodes[0].attrs["groups"] != channels:
        return "conv2d"
    return "separable_conv2d" if len(nodes) > 1 else "depthwise_conv2d"


@dataclass
class Row:
    """One layer: its nodes and the parameters it made."""

    layer: str
    nodes: list[Node] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """What the layer is, by its ops."""
        nodes = [n for n in self.nodes if n.op not in _HELPERS]
        known = [n for n in nodes if n.op in _TYPES]
        if known:
            rank = self.nodes[-1].results[0].type.rank
            kind = _convolution(known) if known[0].op == "conv2d" else ""
            return (kind or _TYPES[known[0].op]).replace("2d", _RANKS.get(rank, "2d"))
        # Around an op of images whose channels come first stand transposes.
        nodes = [n for n in nodes if n.op != "transpose"] or nodes
        if not nodes:
            return "variables"
        return nodes[0].op if len(nodes) == 1 else "expression"

    @property
    def shape(self) -> str:
        """The type of the layer's result, empty for bare variables."""
        return str(self.nodes[-1].results[0].type) if self.nodes else ""

    @property
    def count(self) -> int:
        """How many numbers the layer's parameters and states have."""
        return elements(self.parameters)

    @property
    def flops(self) -> int:
        """Arithmetic operations for one image, forwards."""
        return sum(
            OPS[n.op].flops([v.type for v in n.operands], n.attrs, 1)
            for n in self.nodes
        )


@dataclass(frozen=True)
class Summary:
    """The table: ``str`` gives plain text, a rich console draws it with lines."""

    name: str
    rows: tuple[Row, ...]
    foot: tuple[str, ...]

    def cells(self) -> list[tuple[str, ...]]:
        """The rows as text, the totals last."""
        body = [
            (title(r.layer, r.kind), r.shape, f"{r.count:,}", f"{r.flops:,}")
            for r in self.rows
        ]
        count, flops = (
            sum(r.count for r in self.rows),
            sum(r.flops for r in self.rows),
        )
        return [*body, ("total", "", f"{count:,}", f"{flops:,}")]

    def derivations(self) -> list[Size]:
        """How the sizes come about that convolutions, pools and dense layers give."""
        return sizes(node for row in self.rows for node in row.nodes)

    def sizes(self) -> str:
        """The derivations as text, a line per layer, or per axis where axes differ.

        ``conv1  (28 - 5 + 2*2)/1 + 1 = 28``, under a line that says what that is.
        """
        found = self.derivations()
        layer = max((len(size.layer) for size in found), default=0)
        axis = max((len(size.axis) for size in found), default=0)
        lines = [
            f"{size.layer:<{layer}}  "
            + (f"{size.axis:<{axis}}  " if axis else "")
            + size.formula
            for size in found
        ]
        return "\n".join([SIZES, *lines])

    def __str__(self) -> str:
        lines = [HEADINGS, *self.cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
        texts = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in lines
        ]
        rule = "-" * len(texts[0])
        parts = [self.name, texts[0], rule, *texts[1:-1], rule, texts[-1], *self.foot]
        return "\n".join(parts)

    def __rich__(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        caption = "\n".join(self.foot)
        table = Table(title=Text(self.name), caption=caption, show_footer=True)
        *body, total = [[Text(cell) for cell in line] for line in self.cells()]
        for i, heading in enumerate(HEADINGS):
            table.add_column(
                heading, footer=total[i], justify="left" if i < 2 else "right"
            )
        for line in body:
            table.add_row(*line)
        return table


def summary_table(graph: Graph) -> Summary:
    """What each layer of a traced graph gives, holds and costs.

    Nodes and parameters are grouped by the layer they come from, in order; shared
    parameters count once, where they were made; the training counters do not count.
    """
    rows: dict[str, Row] = {}
    held = [p for p in graph.parameters if not p.value.name.startswith("training/")]
    for node in graph.nodes:
        name = node.locs[0].layer if node.locs else ""
        rows.setdefault(name, Row(name)).nodes.append(node)
    bare: dict[str, Row] = {}
    for parameter in held:
        name = layer_of(parameter.locs[0]) if parameter.locs else UNNAMED
        row = rows.get(name) or bare.setdefault(name, Row(name))
        row.parameters.append(parameter)
    return Summary(graph.name, (*bare.values(), *rows.values()), _foot(graph, held))


def title(layer: str, kind: str) -> str:
    """A layer's name and what it is: ``conv1 (conv2d)``."""
    return layer if layer == UNNAMED else f"{layer} ({kind})"


def layer_of(loc: Loc) -> str:
    """The layer of a location, UNNAMED outside of all layers."""
    return loc.layer or UNNAMED


def _foot(graph: Graph, held: list[Parameter]) -> tuple[str, ...]:
    trainable = elements(p for p in held if p.trainable)
    nbytes = sum(p.value.type.nbytes(1) for p in held)
    results = [v for n in graph.nodes for v in n.results if v.type.batched]
    values = sum(v.type.nbytes(1) for v in results)
    return (
        f"trainable: {trainable:,}, other: {elements(held) - trainable:,}",
        f"parameters: {size(nbytes)}",
        f"values per image: {size(values)} before fusion",
    )


def elements(parameters: Iterable[Parameter]) -> int:
    """How many numbers some parameters have together."""
    return sum(p.value.type.elements(1) for p in parameters)


def size(nbytes: int) -> str:
    """A number of bytes for people: 12.5 MiB."""
    amount, unit = float(nbytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{nbytes} B" if unit == "B" else f"{amount:.1f} {unit}"
