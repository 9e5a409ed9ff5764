"""Lower precision by name: products in tf32, or values stored in 16 bits.

``tf32``: every convolution and matrix product says ``precision=tf32``. ``bf16`` and
``fp16``, with float32 accumulation and float32 master weights (Micikevicius et al.,
"Mixed precision training", 2018, section 3):

1. conv2d and matmul take 16-bit operands and give 16-bit results. Parameters stay f32
   and are cast where they are first used, once; constants are written in 16 bits.
2. An op in FOLLOWS has a 16-bit result where one of its operands has 16 bits; the
   others are cast.
3. batch_norm is computed in f32, statistics too; for the ops of case 2 its result then
   counts as one of 16 bits, if its x was, and is cast.
4. Every other op, the loss among them, takes f32, as outputs and updates do.

In float64 a cast is the identity, so there nothing at all may change; what the lower
precision changes is within derived bounds. Both are what check mode tests.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from convc.ir.builder import GraphBuilder
from convc.ir.graph import Graph, Node, Value
from convc.ir.interpreter import interpret
from convc.ir.ops import OPS
from convc.ir.ops.random import DROPOUTS
from convc.ir.rounding import bounded
from convc.ir.types import DType
from convc.passes.canonicalize import drop_dead
from convc.passes.certificate import Verdict
from convc.passes.check import Checker, compare_bounds, compare_equal
from convc.passes.manager import Context, Pass

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""What a program may be asked to compute in."""
HALVES: Mapping[str, DType] = {"bf16": DType.BF16, "fp16": DType.F16}
"""Those that store values in 16 bits, and the dtype of these."""
PRODUCTS = ("conv2d", "conv2d_input_grad", "matmul")
"""Ops that are done in the precision; the second is a transposed convolution."""
FOLLOWS = (
    *("bias_add", "add", "subtract", "multiply", "maximum", "minimum", "negate"),
    *("relu", "tanh", "sigmoid", "max_pool2d", "avg_pool2d", *DROPOUTS),
    *("reshape", "transpose", "concat", "slice", "pad", "copy", "broadcast_to"),
)
"""Ops that go on in 16 bits: what they read has been rounded already."""
WIDE: Mapping[str, int] = {"apply_keep": 2}
"""Operands of such ops that stay in f32, by their number."""
ACCUMULATED = ("conv2d_filter_grad", "matmul", "reduce_sum")
"""Ops whose sums need not be rounded to 16 bits, for f32 is what they are wanted in."""


@cache
def choose_precision(precision: str) -> Pass:
    """The pass that has a traced graph compute in ``precision``, one of PRECISIONS."""

    def rewrite(graph: Graph, context: Context) -> Graph:
        if precision in HALVES:
            return _Lowering(graph, HALVES[precision]).run()
        return _in_tf32(graph) if precision == "tf32" else graph

    return Pass("choose-precision", rewrite, exact=False, check=check_precision)


def _in_tf32(graph: Graph) -> Graph:
    nodes = tuple(
        replace(n, attrs={**n.attrs, "precision": "tf32"})
        if n.op in PRODUCTS and n.result.type.dtype is DType.F32
        else n
        for n in graph.nodes
    )
    return replace(graph, nodes=nodes)


class _Lowering:
    """Makes a graph anew, node by node, with values of f32 stored in ``half``."""

    def __init__(self, graph: Graph, half: DType) -> None:
        self._graph, self._half = graph, half
        self._b = GraphBuilder(graph.name, graph)  # it knows all names
        self._b.nodes = []
        self._now: dict[str, Value] = {}
        self._cast: dict[tuple[str, DType], Value] = {}
        self._to_store: set[str] = set()
        """Names of f32 values whose readers take them in 16 bits if they can."""

    def run(self) -> Graph:
        """The graph with casts and 16-bit results by the cases above."""
        for node in self._graph.nodes:
            self._b.locs = node.locs
            self._remake(node)
        self._b.locs = ()
        outputs = [(k, self._in(v, DType.F32)) for k, v in self._graph.outputs]
        updates = [(p, self._in(v, DType.F32)) for p, v in self._graph.updates]
        self._b.outputs, self._b.updates = outputs, updates
        return drop_dead(self._b.finish())

    def _remake(self, node: Node) -> None:
        floats = [v for v in node.operands if v.type.dtype.is_float]
        single = all(v.type.dtype is DType.F32 for v in floats)
        rounded = any(self._is_half(v) for v in floats)
        lower = node.op in PRODUCTS or (node.op in FOLLOWS and rounded)
        kind = self._half if lower and single else DType.F32
        operands = tuple(
            self._in(v, DType.F32 if WIDE.get(node.op) == i else kind)
            for i, v in enumerate(node.operands)
        )
        types = OPS[node.op].result_types([v.type for v in operands], node.attrs)
        results = tuple(
            Value(old.name, t) for old, t in zip(node.results, types, strict=True)
        )
        self._b.nodes.append(replace(node, operands=operands, results=results))
        self._now.update((v.name, v) for v in results)
        if node.op == "batch_norm" and rounded:  # case 3
            self._to_store.add(node.name)

    def _is_half(self, value: Value) -> bool:
        now = self._now.get(value.name, value)
        return now.type.dtype.is_half or value.name in self._to_store

    def _in(self, value: Value, kind: DType) -> Value:
        """A value of the old graph in ``kind``, if it is an f32 number there."""
        now = self._now.get(value.name, value)
        if value.type.dtype is not DType.F32 or now.type.dtype is kind:
            return now
        key = value.name, kind
        if key not in self._cast:
            self._cast[key] = self._convert(value, now, kind)
        return self._cast[key]

    def _convert(self, value: Value, now: Value, kind: DType) -> Value:
        maker = self._graph.producers().get(value.name)
        if maker is not None and maker.op == "constant":
            return self._b("constant", value=maker.attrs["value"], dtype=kind.value)
        return self._b("cast", now, dtype=kind.value)


def keep_sums(graph: Graph, context: Context) -> Graph:
    """``cast(f32)`` of a 16-bit sum that nobody else reads: the sum with out=f32.

    Such are, after differentiation, the gradients of parameters.
    """
    producers, users, live = graph.producers(), graph.users(), graph.live_out()
    kept: dict[str, Node] = {}
    for node in graph.nodes:
        maker = producers.get(node.operands[0].name) if node.op == "cast" else None
        if maker is None or maker.op not in ACCUMULATED:
            continue
        alone = len(users[maker.name]) == 1 and maker.name not in live
        if alone and maker.result.type.dtype.is_half and node.attrs["dtype"] == "f32":
            attrs = {**maker.attrs, "out": "f32"}
            kept[maker.name] = replace(maker, attrs=attrs, results=node.results)
    gone = {n.name for n in kept.values()}
    nodes = (kept.get(n.name, n) for n in graph.nodes if n.name not in gone)
    return replace(graph, nodes=tuple(nodes))


def check_wide(checker: Checker, before: Graph, after: Graph) -> Verdict:
    """CompileError unless in float64 both graphs are equal, bit for bit."""
    if after == before:
        return checker.equal(before, after)
    count = 0
    for whole in (True, False):
        data = checker.data(before, after, whole=whole)
        old, new = (interpret(g, *data, float64=True) for g in (before, after))
        count += compare_equal(old, new).values
    return Verdict("equal", count, note="in float64")


def check_precision(checker: Checker, before: Graph, after: Graph) -> Verdict:
    """CompileError unless only the precision changed, and by what it allows.

    In float64 both graphs must be equal; as it stands, ``after`` must be within the
    bounds derived for it, on whole numbers and on real ones.
    """
    same = check_wide(checker, before, after)
    if after == before:
        return same
    count, worst = same.values, 0.0
    for whole in (True, False):
        data = checker.data(before, after, whole=whole)
        found = compare_bounds(checker.run(after, *data, whole), bounded(after, *data))
        count, worst = count + found.values, max(worst, found.worst)
    return Verdict("bound", count, worst, "equal in float64, and as it is stored")


KEEP_SUMS = Pass("keep-sums", keep_sums, exact=False, check=check_wide)
