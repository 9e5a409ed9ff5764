"""Error rules of the ops that are whole formulas: softmax, normalization, optimizers.

Each covers every order in which float32 arithmetic may evaluate the formula. Numbers
that depend on attributes and the step only (1 - beta, 1 - beta**t) are taken to be
computed in float64 and rounded once, as the references do.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from convc.ir.ops.base import Array, ints, number
from convc.ir.rounding_base import LIBRARY, Outcome, Rounded, Site, Sum


def _log_softmax(site: Site, x: Rounded) -> tuple[Array, Array]:
    """Log softmax along the last axis, and its error.

    The error of each shifted logit moves its own term, and all of them the logarithm
    of the sum. The shift may be undone before or after the logarithm, hence |x|, |max|
    and the logarithm all count among what is rounded.
    """
    value = np.asarray(x.value, np.float64)
    peak = value.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(value - peak).sum(axis=-1, keepdims=True))
    result = value - peak - log_sum
    worst = x.error.max(axis=-1, keepdims=True)
    spread = peak - value + x.error + worst
    each = x.error + site.gamma(3) * spread + site.gamma(LIBRARY)  # 2**(x log2 e) too
    up = np.log(np.exp(result + each).sum(axis=-1, keepdims=True))
    down = -np.log(np.exp(result - each).sum(axis=-1, keepdims=True))
    of_sum = np.maximum(up, down) + site.gamma(site.terms)
    of_sum = of_sum + site.terms * site.arithmetic.tiny
    sizes = x.size + np.abs(peak) + worst + log_sum + of_sum
    local = site.gamma(3) * sizes + site.gamma(LIBRARY) * (log_sum + of_sum)
    return result, x.error + of_sum + local


def _softmax(site: Site, x: Rounded) -> tuple[Array, Array]:
    """Softmax and its error, by a quotient or by the exponential of log softmax."""
    log, error = _log_softmax(site, x)
    error = error + site.gamma(LIBRARY + 2)
    value = np.exp(log)
    change = np.where(error < 1, value * np.expm1(error), np.exp(log + error))
    most = np.maximum(value, 1 - value) + site.gamma(site.terms + 4)
    error = np.fmin(change + site.arithmetic.tiny, most)
    unknown = np.isinf(x.error).any(axis=-1, keepdims=True)
    return value, np.where(unknown, np.inf, error)


def softmax(site: Site) -> Array:
    """A relative error by the logits' errors; never more than 1."""
    return _softmax(site, site.args[0])[1]


def log_softmax(site: Site) -> Array:
    """The logit's own error and that of the logarithm of the sum."""
    return _log_softmax(site, site.args[0])[1]


def softmax_cross_entropy(site: Site) -> Array:
    """The error of minus log softmax at the label."""
    logits, labels = site.args
    error = _log_softmax(site, logits)[1]
    where = labels.value[:, None].astype(np.int64)
    chosen = np.take_along_axis(error, where, axis=1)[:, 0]
    return np.asarray(np.where(labels.error == 0, chosen, np.inf))


def softmax_cross_entropy_grad(site: Site) -> Array:
    """Softmax's error times dy, and the product rounded before or after."""
    logits, labels, dy = site.args
    value, error = _softmax(site, logits)
    onehot = np.arange(value.shape[1]) == labels.value[:, None]
    error = np.where(labels.error[:, None] == 0, error, np.inf)
    inherited = np.abs(dy.value)[:, None] * error
    inherited = inherited + dy.error[:, None] * (np.abs(value - onehot) + error)
    mass = (value + onehot + error) * dy.size[:, None]
    return np.asarray(inherited + site.gamma(3) * mass + site.arithmetic.tiny)


def reduce_variance(site: Site) -> Array:
    """The mean of (x - mean)² in two passes.

    The exact deviations sum to 0, so an error d of the mean adds d² only. (The mean of
    squares less the square of the mean is another algorithm, not another order.)
    """
    (x,), axes = site.args, ints(site.attrs["axes"])
    value = np.asarray(x.value, np.float64)
    away = np.abs(value - value.mean(axis=axes, keepdims=True))
    inherited = (2 * away * x.error + x.error**2).mean(axis=axes)
    shift = x.error.mean(axis=axes, keepdims=True)
    off = site.gamma(site.terms + 2) * x.size.mean(axis=axes, keepdims=True)
    mass = ((away + x.error + shift + off) ** 2).mean(axis=axes)
    local = site.gamma(site.terms + 5) * mass + np.squeeze(off, axes) ** 2
    return np.asarray(inherited + local + site.arithmetic.tiny)


def batch_norm(site: Site) -> Array:
    """A quotient by the deviation, or x · scale + shift with both folded first."""
    x, gamma, beta, mean, variance = site.args
    epsilon = number(site.attrs["epsilon"])
    under = variance.value + epsilon
    loss = variance.error + site.gamma(3) * (variance.size + epsilon)
    deviation, least = np.sqrt(under), np.sqrt(under - loss)  # NaN: may be negative
    change = np.maximum(np.sqrt(under + loss) - deviation, deviation - least)
    scale = np.abs(gamma.value) / deviation
    scale_error = (gamma.error + scale * change) / least
    largest = gamma.size / least
    inherited = largest * (x.error + mean.error) + beta.error
    inherited = inherited + scale_error * np.abs(x.value - mean.value)
    mass = largest * (x.size + mean.size) + beta.size
    return np.asarray(inherited + site.gamma(8) * mass + site.arithmetic.tiny)


def moving_average(site: Site) -> Sum:
    """Two products added, or average + (1 - momentum) · (sample - average)."""
    average, sample = site.args
    keep = number(site.attrs["momentum"])
    take = abs(1 - keep)
    inherited = keep * average.error + take * sample.error
    mass = (keep + take) * average.size + take * sample.size
    return Sum(inherited, mass, 4)


def _descend(p: Rounded, rate: Rounded, step: Sum) -> Sum:
    """The parameter p - rate · step, where the mass of ``step`` bounds its size."""
    inherited = p.error + rate.size * step.inherited + rate.error * step.mass
    return Sum(inherited, p.size + rate.size * step.mass, step.roundings + 2)


def _decayed(p: Rounded, g: Rounded, decay: float) -> Sum:
    """The gradient with the decay: g + decay · p."""
    return Sum(g.error + decay * p.error, g.size + decay * p.size, 3 if decay else 0)


def sgd(site: Site) -> Sum:
    """Five roundings of p - lr · (g + decay · p) in any order."""
    p, g, rate = site.args
    return _descend(p, rate, _decayed(p, g, number(site.attrs["weight_decay"])))


def _mix(keep: float, old: Rounded, take: float, new: Sum) -> Sum:
    """The sum keep · old + take · new, both factors rounded."""
    return Sum(
        keep * old.error + take * new.inherited,
        keep * old.size + take * new.mass,
        new.roundings + 4,
    )


def momentum(site: Site) -> Outcome:
    """Of p - lr · v' with v' = mu · v + g, or of the look-ahead of Nesterov."""
    p, g, v, rate = site.args
    mu = number(site.attrs["momentum"])
    gradient = _decayed(p, g, number(site.attrs["weight_decay"]))
    velocity = _mix(mu, v, 1.0, gradient)
    step = velocity
    if site.attrs["nesterov"]:
        ahead = Rounded(site.values[1], velocity.error(site.arithmetic))
        step = _mix(mu, ahead, 1.0, gradient)
    return _descend(p, rate, step), velocity


def adam(site: Site) -> Outcome:
    """Adam's step, with the sensitivity of m / (sqrt(v) + epsilon) near v = 0."""
    p, g, m, v, rate, step = site.args
    beta1, beta2, decay = (
        number(site.attrs[k]) for k in ("beta1", "beta2", "weight_decay")
    )
    decoupled = bool(site.attrs["decoupled"])
    gradient = _decayed(p, g, 0.0 if decoupled else decay)
    first = _mix(beta1, m, 1 - beta1, gradient)
    size, slack = gradient.mass, gradient.error(site.arithmetic)
    lost = np.where(size * size < site.arithmetic.huge, 2 * size * slack, np.inf)
    square = Sum(lost, size * size, gradient.roundings + 2)
    second = _mix(beta2, v, 1 - beta2, square)
    moments = [
        Rounded(value, part.error(site.arithmetic))
        for value, part in zip(site.values[1:], (first, second), strict=True)
    ]
    quotient, error = _quotient(site, moments[0], moments[1], size)
    move = Sum(error, np.abs(quotient) + error, 0)
    if decoupled:
        move = Sum(move.inherited + decay * p.error, move.mass + decay * p.size, 3)
    known = np.asarray(step.error) == 0
    descent = _descend(p, rate, move)
    spread = descent.error(site.arithmetic)
    return np.where(known, spread, np.inf), first, second


def _quotient(site: Site, m: Rounded, v: Rounded, g: Array) -> tuple[Array, Array]:
    """m^ / (sqrt(v^) + epsilon) and its error; ``g`` bounds the gradient's magnitude.

    Where v may be 0 the quotient is not bounded by the two errors apart. But both come
    from one gradient, so that |m'| / sqrt(v') <= beta1 |m| / sqrt(beta2 v) +
    (1 - beta1) / sqrt(1 - beta2) whatever the gradient, and the error cannot pass the
    sum of both sides' largest quotients.
    """
    beta1, beta2, epsilon = (
        number(site.attrs[k]) for k in ("beta1", "beta2", "epsilon")
    )
    t = int(site.args[5].value) + 1
    correct1, correct2 = 1 - beta1**t, 1 - beta2**t
    root = np.sqrt(v.value / correct2)
    low = np.sqrt(np.maximum(v.low, 0) / correct2)
    high = np.sqrt(v.high / correct2)
    ratio = m.value / correct1 / (root + epsilon)
    off = m.error / correct1
    down = (off + np.abs(ratio) * (root - low)) / (low + epsilon)
    up = (off + np.abs(ratio) * (high - root)) / (high + epsilon)
    separate = np.maximum(down, up)
    old_m, old_v = site.args[2], site.args[3]
    scale = np.sqrt(correct2) / correct1
    remembered = beta1 * old_m.size / np.sqrt(beta2 * np.maximum(old_v.low, 0))
    remembered = np.where(old_m.size == 0, 0, remembered)
    cap = scale * (remembered + (1 - beta1) / np.sqrt(1 - beta2)) * (1 + site.gamma(20))
    # a square that underflows leaves m alone over epsilon
    lost = np.sqrt(site.arithmetic.tiny / (1 - beta2)) / correct1
    joint = np.abs(ratio) + cap + np.minimum(g, lost) / epsilon
    error = np.fmin(separate, joint)
    return ratio, error + site.gamma(14) * (np.abs(ratio) + error)


FORMULAS: Mapping[str, Callable[[Site], Outcome]] = MappingProxyType(
    {
        "softmax": softmax,
        "log_softmax": log_softmax,
        "softmax_cross_entropy": softmax_cross_entropy,
        "softmax_cross_entropy_grad": softmax_cross_entropy_grad,
        "reduce_variance": reduce_variance,
        "batch_norm": batch_norm,
        "moving_average": moving_average,
        "sgd": sgd,
        "momentum": momentum,
        "adam": adam,
    }
)
"""The rules by the ops' names."""
