"""What a network is trained by and judged by: functions of logits and labels."""

from convc.ir.errors import TypeRuleError
from convc.ir.types import DType, TensorType
from convc.tracing import Tensor, layer_scope


def softmax_cross_entropy(
    logits: Tensor, labels: Tensor, name: str | None = None
) -> Tensor:
    """The mean over the batch of -log softmax(logits)[label], an f32 scalar.

    logits: f32[N,C], labels: i32[N], class numbers from 0. ModelError otherwise.
    """
    with layer_scope("loss", name) as t:
        _check("softmax_cross_entropy", logits, labels)
        each = t.emit("softmax_cross_entropy", logits, labels)
        return t.emit("reduce_mean", each, axes=(0,))


def correct(logits: Tensor, labels: Tensor, name: str | None = None) -> Tensor:
    """How many images of the batch have their largest logit at the label, i32.

    logits: f32[N,C], labels: i32[N]. Of equal logits the first counts.
    """
    with layer_scope("correct", name) as t:
        _check("correct", logits, labels)
        hits = t.emit("equal", t.emit("argmax", logits), labels)
        return t.emit("reduce_sum", t.emit("cast", hits, dtype="i32"), axes=(0,))


def _check(what: str, logits: object, labels: object) -> None:
    for name, side in (("logits", logits), ("labels", labels)):
        if not isinstance(side, Tensor):
            raise TypeRuleError(
                f"{what}: {name} must be a tensor of the traced function, "
                f"got a {type(side).__name__}"
            )
    assert isinstance(logits, Tensor)
    assert isinstance(labels, Tensor)
    if logits.rank != 2:
        raise TypeRuleError(
            f"{what}: logits must have 2 axes, has {logits.rank} "
            f"(logits: {logits.type}); end the network with dense(flatten(x), classes)"
        )
    expected = TensorType(DType.I32, logits.shape[:1])
    if labels.type != expected:
        raise TypeRuleError(
            f"{what}: labels must be {expected}, are {labels.type} "
            f"(logits: {logits.type}); give class numbers, not one-hot rows"
        )
