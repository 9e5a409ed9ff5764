"""Layers that act differently in training: dropout and batch normalization.

A function is traced in its training form; the inference pipeline takes dropout out
and puts the moving averages in place of the batch's statistics.
"""

from convc.ir import philox
from convc.ir.errors import TypeRuleError
from convc.ir.types import DType, TensorType
from convc.layers import arguments as args
from convc.tracing import SEED, STEP, Tensor, Trace, layer_scope


def dropout(
    inputs: Tensor,
    rate: float | None = None,
    keep: float | Tensor | None = None,
    name: str | None = None,
    training: bool = True,
) -> Tensor:
    """Each element times 1/keep with probability keep = 1 - rate, else 0.

    Give one of the two: ``rate`` in [0, 1) or ``keep`` in (0, 1]. The mask is drawn
    from the layer's name, the seed and the training step (Srivastava et al., 2014).

    A number is for training: evaluation leaves it out, and ``training=False`` leaves it
    out of every program. A tensor ``keep: f32[]``, say an input that is fed a number,
    holds in every program, and keeps all where it is 1.
    """
    with layer_scope("dropout", name) as t:
        x = args.tensor("dropout", "inputs", inputs)
        share = _share(rate, keep) if isinstance(keep, Tensor) else None
        kept = 0.0 if isinstance(keep, Tensor) else _kept(rate, keep)
        if kept == 1 or not training:
            return x
        call = t.call_of(t.scope)
        stream = philox.stream_of(f"{t.scope}:{call}" if call else t.scope)
        seed, step = t.state(SEED), t.state(STEP)
        if share is not None:
            drawn = t.emit("keep_mask", seed, step, share, shape=x.shape, stream=stream)
            return t.emit("apply_keep", x, drawn, share)
        mask = t.emit(
            "dropout_mask", seed, step, shape=x.shape, keep=kept, stream=stream
        )
        return t.emit("apply_mask", x, mask, scale=1 / kept)


def _share(rate: float | None, keep: Tensor) -> Tensor:
    """``keep``, a scalar f32[], which may not stand beside a rate."""
    if keep.type != TensorType(DType.F32, ()):
        raise TypeRuleError(
            f"dropout: keep must be a number or a tensor f32[] (keep: {keep.type})"
        )
    if rate is not None:
        raise TypeRuleError(
            f"dropout: give either rate or keep, got rate={rate!r} and keep={keep!r}"
        )
    return keep


def _kept(rate: float | None, keep: float | None) -> float:
    if (rate is None) == (keep is None):
        given = "neither" if rate is None else f"rate={rate!r} and keep={keep!r}"
        raise TypeRuleError(
            f"dropout: give either rate (the share set to 0) or keep (the share kept), "
            f"got {given}; keep=0.75 is the same as rate=0.25"
        )
    if keep is None:
        return 1 - args.fraction("dropout", "rate", rate)
    value = args.real("dropout", "keep", keep)
    if not 0 < value <= 1:
        raise TypeRuleError(
            f"dropout: keep must be above 0 and at most 1, got {keep!r}; "
            "it is the share kept, rate is the share set to 0"
        )
    return value


def batch_norm(
    inputs: Tensor,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    name: str | None = None,
    reuse: bool = False,
) -> Tensor:
    """The output is gamma · (x - mean) / sqrt(variance + epsilon) + beta.

    All are per channel (last axis). Mean and variance are the batch's;
    ``name/moving_mean`` and
    ``name/moving_variance`` follow them by momentum · old + (1 - momentum) · new and
    take their place at inference (Ioffe and Szegedy, 2015).
    """
    with layer_scope("batch_norm", name, reuse) as t:
        x = args.tensor("batch_norm", "inputs", inputs)
        if x.rank < 2:
            raise TypeRuleError(
                f"batch_norm: inputs must have a batch and channels (inputs: {x.type})"
            )
        share = args.fraction("batch_norm", "momentum", momentum)
        small = args.real("batch_norm", "epsilon", epsilon)
        if small <= 0:
            raise TypeRuleError(f"batch_norm: epsilon must be above 0, got {epsilon!r}")
        shape, axes = x.type.inner[-1:], tuple(range(x.rank - 1))
        gamma = t.variable("gamma", shape, "ones")
        beta = t.variable("beta", shape, "zeros")
        mean = t.emit("reduce_mean", x, axes=axes)
        variance = t.emit("reduce_variance", x, axes=axes)
        _follow(t, "moving_mean", "zeros", mean, share)
        _follow(t, "moving_variance", "ones", variance, share)
        return t.emit("batch_norm", x, gamma, beta, mean, variance, epsilon=small)


def _follow(t: Trace, name: str, start: str, sample: Tensor, momentum: float) -> None:
    average = t.variable(name, sample.type.inner, start, trainable=False)
    new = t.emit("moving_average", t.latest(average), sample, momentum=momentum)
    t.update(average, new)
