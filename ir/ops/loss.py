"""Softmax and the cross-entropy of class labels."""

from collections.abc import Sequence

import numpy as np

from convc.ir.errors import RunError
from convc.ir.graph import Attrs, Node, Value
from convc.ir.ops.base import Array, Emit, Op, Types
from convc.ir.types import DType, TensorType


def _shifted(x: Array) -> Array:
    return np.asarray(x - x.max(axis=-1, keepdims=True))


def _softmax(x: Array) -> Array:
    e = np.exp(_shifted(x))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _check_labels(labels: Array, classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise RunError(
            f"a label must be a class from 0 to {classes - 1}, one is {wrong[0]}"
        )


class Softmax(Op):
    """exp(x) normalized to sum 1 along the last axis."""

    name = "softmax"
    operands = ("x",)
    exact = False

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        self.want_float(types)
        if types[0].rank < 2:
            raise self.fail("x must have a batch and a class axis", types)
        return (types[0],)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        return _softmax(arrays[0])

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        y, last = node.result, node.result.type.rank - 1
        weighted = b("multiply", dy, y)
        total = b("reduce_sum", weighted, axes=(last,))
        spread = b("broadcast_to", total, shape=y.type.shape, axes=(last,))
        return [b("subtract", weighted, b("multiply", y, spread))]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 5 * types[0].elements(batch)

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        return types[0].inner[-1]


class LogSoftmax(Softmax):
    """The logarithm of softmax, without forming it."""

    name = "log_softmax"

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        x = _shifted(arrays[0])
        return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        y, last = node.result, node.result.type.rank - 1
        total = b("reduce_sum", dy, axes=(last,))
        spread = b("broadcast_to", total, shape=y.type.shape, axes=(last,))
        return [b("subtract", dy, b("multiply", b("exp", y), spread))]


class SoftmaxCrossEntropy(Op):
    """-log softmax(logits)[label] of each example: f32[N,C], i32[N] -> f32[N]."""

    name = "softmax_cross_entropy"
    operands = ("logits", "labels")
    exact = False

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        logits, labels = types
        self.want_float(types, 0)
        self.want_rank(types, 0, 2)
        if labels.dtype is not DType.I32 or labels.shape != logits.shape[:1]:
            expected = TensorType(DType.I32, logits.shape[:1])
            raise self.fail(f"labels must be {expected}, are {labels}", types)
        return (logits.with_shape(logits.shape[:1]),)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        logits, labels = arrays
        _check_labels(labels, logits.shape[1])
        x = _shifted(logits)
        chosen = np.take_along_axis(x, labels[:, None].astype(np.int64), axis=1)[:, 0]
        return np.asarray(np.log(np.exp(x).sum(axis=-1)) - chosen)

    def gradient(self, b: Emit, node: Node, dy: Value) -> Sequence[Value | None]:
        return [b("softmax_cross_entropy_grad", *node.operands, dy), None]

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 5 * types[0].elements(batch)

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        return types[0].inner[-1]


class SoftmaxCrossEntropyGrad(Op):
    """(softmax(logits) - onehot(labels)) · dy for each example."""

    name = "softmax_cross_entropy_grad"
    operands = ("logits", "labels", "dy")
    exact = False

    def infer(self, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        logits, labels, dy = types
        self.want_float(types, 0, 2)
        self.want_rank(types, 0, 2)
        if labels.dtype is not DType.I32 or not (
            labels.shape == dy.shape == logits.shape[:1]
        ):
            raise self.fail("labels and dy must have one entry per example", types)
        return (logits,)

    def evaluate(self, arrays: Sequence[Array], attrs: Attrs, batch: int) -> Array:
        logits, labels, dy = arrays
        _check_labels(labels, logits.shape[1])
        onehot = np.arange(logits.shape[1]) == labels[:, None]
        return np.asarray((_softmax(logits) - onehot) * dy[:, None]).astype(
            logits.dtype
        )

    def flops(self, types: Types, attrs: Attrs, batch: int) -> int:
        return 7 * types[0].elements(batch)

    def reduction(self, types: Types, attrs: Attrs, batch: int) -> int:
        return types[0].inner[-1]
