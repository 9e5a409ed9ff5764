"""Small valid graphs for hypothesis: ``graphs()``.

A test of a pass or a backend reads::

    @given(graphs())
    def test_it_means_the_same(example: Example) -> None:
        want = interpret(example.graph, example.inputs, example.parameters)
        ...
        if example.exact: the floats are equal bit for bit

Every number that is fed is a small integer. While only exact ops are drawn, a bound on
every partial sum is carried along and kept below 2**22, so float32 has no rounding
whatever the order of summation: ``exact`` promises that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from convc.ir.builder import GraphBuilder
from convc.ir.graph import Attr, Graph, Loc, Value
from convc.ir.ops import OPS
from convc.ir.types import DType, TensorType

LIMIT = 2.0**22
LARGEST = 3
"""Largest magnitude among the numbers fed."""


@dataclass(frozen=True)
class Example:
    """A graph at the tensor stage with arrays to run it on, f32 ones as float32."""

    graph: Graph
    inputs: dict[str, NDArray[Any]]
    parameters: dict[str, NDArray[Any]]
    exact: bool
    """Whether float32 evaluation rounds nothing, in any order of summation."""

    @property
    def loss(self) -> Value | None:
        """The scalar output ``loss``, where there is one."""
        return dict(self.graph.outputs).get("loss")

    @property
    def trainable(self) -> list[Value]:
        """The parameters that may receive gradients."""
        return [p.value for p in self.graph.parameters if p.trainable]


@dataclass
class _Sketch:
    """The graph so far, and how large each value may be."""

    draw: st.DrawFn
    b: GraphBuilder
    bound: dict[str, float] = field(default_factory=dict)
    line: int = 1

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def add(self, op: str, *operands: Value, **attrs: Attr) -> Value:
        """Append a node on a line of its own and bound its result."""
        self.line += 1
        self.b.locs = (Loc("random_net.py", self.line, f"{op}{self.line}"),)
        y = self.b(op, *operands, **attrs)
        sizes = [self.bound.get(v.name, 1.0) for v in operands]
        types = [v.type for v in operands]
        terms = OPS[op].reduction(types, self.b.nodes[-1].attrs, 4)
        self.bound[y.name] = _bound(op, sizes, terms)
        return y

    def parameter(self, kind: str, *shape: int, trainable: bool = True) -> Value:
        name = f"{kind}{self.line + 1}/{len(self.b.parameters)}"
        tensor = TensorType(DType.F32, shape)
        value = self.b.parameter(name, tensor, "zeros", trainable=trainable)
        self.bound[name] = LARGEST
        return value

    def state(self, name: str) -> Value:
        """The i64 scalar of this name, declared on its first use."""
        known = {p.value.name: p.value for p in self.b.parameters}
        scalar = TensorType(DType.I64, ())
        return known.get(name) or self.b.parameter(name, scalar, "zeros", None, False)

    def fits(self, x: Value, factor: float) -> bool:
        """Whether sums ``factor`` times as large as ``x`` stay exact."""
        return self.bound[x.name] * factor + LARGEST < LIMIT


def _bound(op: str, sizes: list[float], terms: int) -> float:
    """How large a partial sum of a result can be."""
    if op in ("add", "subtract", "bias_add"):
        return sum(sizes)
    if op in ("conv2d", "matmul", "multiply"):
        return terms * sizes[0] * sizes[1]
    if op == "reduce_sum":
        return terms * sizes[0]
    if op in ("softmax", "sigmoid", "tanh", "dropout_mask"):
        return 1.0
    if op == "apply_mask":
        return 2 * sizes[0]
    return max(sizes, default=1.0)


def _conv(s: _Sketch, x: Value) -> Value | None:
    _, h, w, c = x.type.shape
    assert isinstance(h, int)
    assert isinstance(w, int)
    assert isinstance(c, int)
    groups = s.pick(*{1, c})
    kernel = (s.draw(st.integers(1, min(3, h))), s.draw(st.integers(1, min(3, w))))
    filters = groups * s.draw(st.integers(1, 2)) if groups > 1 else s.pick(1, 2, 4)
    if not s.fits(x, prod(kernel) * c * LARGEST):
        return None
    padding = s.pick("valid", "same", ((1, 0), (0, 2)))
    dilation = s.pick(1, 1, 2) if padding == "same" else 1
    filter_ = s.parameter("kernel", *kernel, c // groups, filters)
    return s.add(
        *("conv2d", x, filter_),
        strides=(s.pick(1, 1, 2), s.pick(1, 1, 2, 3)),
        padding=padding,
        dilations=(dilation, s.pick(1, dilation)),
        groups=groups,
    )


def _pool(s: _Sketch, x: Value) -> Value:
    _, h, w, _ = x.type.bind(1)
    window = (s.draw(st.integers(1, min(3, h))), s.draw(st.integers(1, min(3, w))))
    strides = s.pick(window, (1, 1), (2, 3))
    padding = s.pick("valid", "same")
    op = s.pick("max_pool2d", "max_pool2d", "avg_pool2d")
    return s.add(op, x, window=window, strides=strides, padding=padding)


def _bias(s: _Sketch, x: Value) -> Value:
    return s.add("bias_add", x, s.parameter("bias", x.type.inner[-1]))


def _activation(s: _Sketch, x: Value) -> Value:
    return s.add(s.pick("relu", "relu", "relu", "tanh", "sigmoid", "negate"), x)


def _residual(s: _Sketch, x: Value) -> Value | None:
    """Combine x with an earlier value of its shape, so that some value has two uses."""
    known = [*s.b.inputs, *(v for n in s.b.nodes for v in n.results)]
    other = s.pick(*[v for v in known if v.type == x.type])
    op = s.pick("add", "subtract", "maximum", "minimum", "multiply")
    if not s.fits(x, s.bound[other.name] if op == "multiply" else 2.0):
        return None
    return s.add(op, x, other) if s.fits(other, 2.0) else None


def _scale(s: _Sketch, x: Value) -> Value | None:
    """Multiply x by a scalar constant or a broadcast parameter."""
    if not s.fits(x, LARGEST):
        return None
    if s.pick(True, False):
        two = s.add("constant", value=2.0)
        s.bound[two.name] = 2.0
        return s.add("multiply", x, two)
    return s.add("multiply", x, s.parameter("scale", 1, x.type.inner[-1]))


def _concat(s: _Sketch, x: Value) -> Value:
    return s.add("concat", x, s.add("negate", x), axis=x.type.rank - 1)


def _pad_or_slice(s: _Sketch, x: Value) -> Value:
    last, size = x.type.rank - 1, x.type.inner[-1]
    if size > 1 and s.pick(True, False):
        return s.add("slice", x, axis=last, start=1, size=size - 1)
    around = (1, 0, 0, 2, 0, 0) if last == 3 and s.pick(True, False) else (0, 1)
    return s.add("pad", x, pads=(0,) * (2 * last + 2 - len(around)) + around)


def _batch_norm(s: _Sketch, x: Value) -> Value:
    """Batch normalization in its training form, with its moving averages."""
    c, axes = x.type.inner[-1], tuple(range(x.type.rank - 1))
    gamma, beta = s.parameter("gamma", c), s.parameter("beta", c)
    mean = s.add("reduce_mean", x, axes=axes)
    variance = s.add("reduce_variance", x, axes=axes)
    for name, statistic in (("mean", mean), ("variance", variance)):
        average = s.parameter(f"moving_{name}", c, trainable=False)
        s.b.update(average, s.add("moving_average", average, statistic, momentum=0.9))
    y = s.add("batch_norm", x, gamma, beta, mean, variance)
    s.bound[y.name] = 4.0 * LARGEST
    return y


def _dropout(s: _Sketch, x: Value) -> Value | None:
    if not s.fits(x, 2.0):
        return None
    seed, step = s.state("training/seed"), s.state("training/step")
    attrs: dict[str, Attr] = {"shape": x.type.shape, "keep": 0.5, "stream": s.line}
    mask = s.add("dropout_mask", seed, step, **attrs)
    return s.add("apply_mask", x, mask, scale=2.0)


def _flatten(s: _Sketch, x: Value) -> Value:
    if x.type.rank == 4 and s.pick(True, False):
        x = s.add("transpose", x, perm=s.pick((0, 3, 1, 2), (0, 2, 1, 3)))
    return s.add("reshape", x, shape=("N", prod(x.type.inner)))


def _dense(s: _Sketch, x: Value) -> Value | None:
    inputs, outputs = x.type.inner[-1], s.pick(1, 3, 5)
    if not s.fits(x, inputs * LARGEST):
        return None
    if s.pick(True, True, False):
        return s.add("matmul", x, s.parameter("weights", inputs, outputs))
    turned = s.parameter("weights", outputs, inputs)
    return s.add("matmul", x, turned, transpose_b=True)


def _normalize(s: _Sketch, x: Value) -> Value:
    return s.add(s.pick("softmax", "log_softmax"), x)


def _global(s: _Sketch, x: Value) -> Value | None:
    op = s.pick("reduce_sum", "reduce_mean")
    if not s.fits(x, prod(x.type.inner[:2])):
        return None
    return s.add(op, x, axes=(1, 2))


Step = Callable[[_Sketch, Value], Value | None]
ANYWHERE: list[Step] = [
    *(_bias, _activation, _residual, _scale, _concat),
    *(_pad_or_slice, _batch_norm, _dropout),
]
ON_IMAGES: list[Step] = [_conv, _conv, _conv, _pool, _pool, _flatten, _global]
ON_ROWS: list[Step] = [_dense, _dense, _normalize]


@st.composite
def graphs(draw: st.DrawFn, steps: int = 7, loss: bool | None = None) -> Example:
    """Forward graphs from ``image: f32[N,h,w,c]``, at most ``steps`` layers deep.

    Outputs are ``output`` and, always or never as ``loss`` says or else at times, the
    scalar ``loss``: the mean cross-entropy of ``labels: i32[N]``, or a plain sum.
    """
    s = _Sketch(draw, GraphBuilder("random_net"))
    image = (s.pick(1, 2, 4, 5, 6), s.pick(1, 3, 4, 6), s.pick(1, 2, 3))
    x = s.b.input("image", TensorType(DType.F32, ("N", *image)))
    s.bound["image"] = LARGEST
    for _ in range(draw(st.integers(1, steps))):
        places = ON_IMAGES if x.type.rank == 4 else ON_ROWS
        x = draw(st.sampled_from([*ANYWHERE, *places]))(s, x) or x
    s.b.output("output", x)
    if draw(st.booleans()) if loss is None else loss:
        s.b.output("loss", _loss(s, x))
    graph = s.b.finish()
    exact = all(OPS[node.op].exact for node in graph.nodes)
    return Example(graph, *_data(draw, graph), exact)


def _loss(s: _Sketch, x: Value) -> Value:
    axes = tuple(range(x.type.rank))
    small = s.fits(x, 4.0 * prod(x.type.inner))
    if small and s.pick(True, False, False):
        return s.add("reduce_sum", x, axes=axes)
    labels = s.b.input("labels", TensorType(DType.I32, ("N",)))
    logits = x if x.type.rank == 2 else _flatten(s, x)
    each = s.add("softmax_cross_entropy", logits, labels)
    return s.add("reduce_mean", each, axes=(0,))


def _data(
    draw: st.DrawFn, graph: Graph
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    batch = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    entropy = graph.producers()
    classes = [n for n in entropy.values() if n.op == "softmax_cross_entropy"]

    def numbers(value: Value, low: int = -LARGEST) -> NDArray[Any]:
        high = LARGEST
        if value.name == "labels":
            low, high = 0, classes[0].operands[0].type.inner[-1] - 1
        drawn = rng.integers(low, high + 1, value.type.bind(batch))
        return np.asarray(drawn, value.type.dtype.numpy)

    states = {p.value.name: numbers(p.value, 0) for p in graph.parameters}
    weights = {p.value.name: numbers(p.value) for p in graph.parameters if p.trainable}
    return {value.name: numbers(value) for value in graph.inputs}, {**states, **weights}
