"""How each op passes on errors and adds its own roundings: arithmetic and decisions.

A rule takes a ``Site`` and gives, for each result, an array of errors or an open
``Sum``. Rules of whole formulas (softmax, normalization, optimizers) are next door.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from convc.ir.ops.base import Array, dtype_named, ints, number
from convc.ir.ops.pool import pool_axes
from convc.ir.ops.window import crop, pad_input, padded_sizes, taps
from convc.ir.rounding_base import (
    LIBRARY,
    Outcome,
    Rounded,
    Site,
    Sum,
    grid_of,
    lipschitz,
    winner_error,
)
from convc.ir.rounding_formulas import FORMULAS
from convc.ir.rounding_storage import taken
from convc.ir.types import DType

Rule = Callable[[Site], Outcome]


def bilinear(site: Site) -> Sum:
    """A sum of products: f(|x|, Ey) + f(Ex, |y| + Ey), and each product rounded."""
    x, y, loosely = taken(site)
    inherited = np.zeros(site.value.shape)
    if y.error.any():
        inherited = inherited + site.apply(np.abs(x.value), y.error)
    if x.error.any():
        inherited = inherited + site.apply(x.error, y.size)
    terms = site.terms
    roundings = loosely * (1 if terms == 1 else terms + 2)
    return Sum(inherited, site.apply(x.size, y.size), roundings, x.grid * y.grid)


def merge(site: Site) -> Sum:
    """The sum x ± y of which each may itself be open: a bias may come first."""
    x, y = (a.as_sum() for a in site.args)
    return Sum(
        x.inherited + y.inherited,
        x.mass + y.mass,
        x.roundings + y.roundings + 1,
        min(x.grid, y.grid),
    )


def move(site: Site) -> Outcome:
    """Elements change places only; a sum stays open."""
    sums = [a.as_sum() for a in site.args]
    if all(a.sum is None for a in site.args):
        return np.abs(site.apply(*(a.error for a in site.args)))
    return Sum(
        np.abs(site.apply(*(s.inherited for s in sums))),
        np.abs(site.apply(*(s.mass for s in sums))),
        max(s.roundings for s in sums),
        min(s.grid for s in sums),
    )


def total(extra: int, exact: bool) -> Rule:
    """A sum of ``terms`` operand elements with ``extra`` roundings, a mean's scale."""

    def rule(site: Site) -> Sum:
        (x,) = site.args
        grid = x.grid if exact else 0.0
        return Sum(site.apply(x.error), site.apply(x.size), site.terms + extra, grid)

    return rule


def apply_mask(site: Site) -> Sum:
    """The product x · scale, the scale itself rounded."""
    x, mask = site.args
    scale = abs(number(site.attrs["scale"]))
    undecided = mask.error > 0
    inherited = np.where(mask.value, x.error * scale, 0)
    inherited = np.where(undecided, x.size * scale, inherited)
    mass = np.where(mask.value | undecided, x.size * scale, 0)
    return Sum(inherited, mass, 2, x.grid * grid_of(np.asarray(scale)))


def apply_keep(site: Site) -> Array:
    """The quotient x / keep where the mask may be set."""
    x, mask, keep = site.args
    undecided = mask.error > 0
    error = np.where(mask.value, x.error, 0)
    error = np.where(undecided, np.maximum(x.size, x.error), error)
    masked = Rounded(np.where(mask.value, x.value, 0), error)
    return divide(replace(site, args=(masked, keep)))


def maximum(site: Site) -> Array:
    """1-Lipschitz: only operands that may win count."""
    x, y = site.args
    return lipschitz([x, y])


def minimum(site: Site) -> Array:
    """The maximum of the negated operands."""
    return lipschitz([Rounded(-1.0 * a.value, a.error) for a in site.args])


def relu(site: Site) -> Array:
    """The maximum of x and an exact 0."""
    (x,) = site.args
    zero = np.zeros(x.value.shape)
    return lipschitz([x, Rounded(zero, zero)])


def relu_grad(site: Site) -> Array:
    """The error of dy where y is clearly positive, else the whole possible change."""
    y, dy = site.args
    undecided = np.where(y.value > 0, np.maximum(np.abs(dy.value), dy.error), dy.size)
    return np.where(y.low > 0, dy.error, np.where(y.high <= 0, 0, undecided))


def _windows(site: Site, array: Array, fill: float) -> Array:
    """The taps of every window: [taps, n, p, q, c]."""
    axes = pool_axes(site.node.op, array.shape[1:3], site.attrs)
    padded = pad_input(array, axes, fill)
    return np.stack([padded[where] for _, where in taps(axes)])


def max_pool2d(site: Site) -> Array:
    """1-Lipschitz over each window; padding never wins."""
    (x,) = site.args
    values = _windows(site, np.asarray(x.value, np.float64), -np.inf)
    errors = _windows(site, x.error, 0.0)
    return lipschitz([Rounded(*pair) for pair in zip(values, errors, strict=True)])


def max_pool2d_argmax(site: Site) -> Array:
    """0, or the distance to the farthest tap that may win."""
    (x,) = site.args
    low, high = (_windows(site, a, -np.inf) for a in (x.low, x.high))
    return winner_error(low, high, site.value)


def max_pool2d_grad(site: Site) -> Sum:
    """The error of dy at the tap that wins, or in an undecided window all of dy.

    The taps within an index's error of it may win: each may gain dy, the reference's
    own may lose it.
    """
    index, dy = site.args
    axes = pool_axes(site.node.op, ints(site.attrs["size"]), site.attrs)
    shape = (dy.value.shape[0], *padded_sizes(axes), dy.value.shape[-1])
    inherited, mass = np.zeros(shape), np.zeros(shape)
    undecided = index.error > 0
    lost = np.where(undecided, np.maximum(np.abs(dy.value), dy.error), dy.error)
    for tap, (_, where) in enumerate(taps(axes)):
        distance = np.abs(index.value.astype(np.int64) - tap)
        may_win = distance <= index.error
        change = np.where(distance == 0, lost, np.where(may_win, dy.size, 0))
        inherited[where] += change
        mass[where] += np.where(may_win, dy.size, 0)
    return Sum(crop(inherited, axes), crop(mass, axes), site.terms, dy.grid)


def argmax(site: Site) -> Array:
    """0, or the distance to the farthest class that may win."""
    (x,) = site.args
    low, high = (np.moveaxis(a, -1, 0) for a in (x.low, x.high))
    return winner_error(low, high, site.value)


def greater_equal(site: Site) -> Array:
    """1 where either answer is possible."""
    x, y = site.args
    return np.where((x.low >= y.high) | (x.high < y.low), 0.0, 1.0)


def equal(site: Site) -> Array:
    """1 where either answer is possible."""
    x, y = site.args
    apart = (x.high < y.low) | (y.high < x.low)
    exact = (x.error == 0) & (y.error == 0)
    return np.where(apart | exact, 0.0, 1.0)


def cast(site: Site) -> Array:
    """Towards floats one rounding, towards integers the jump of the fraction."""
    (x,), kind = site.args, dtype_named(site.attrs["dtype"], "cast")
    if kind is DType.BOOL:
        return np.where((x.low > 0) | (x.high < 0) | (x.error == 0), 0.0, 1.0)
    if not kind.is_float:
        low, high = np.trunc(x.low), np.trunc(x.high)
        value = np.trunc(x.value)
        return np.asarray(np.maximum(high - value, value - low))
    kept = (x.error == 0) & (site.value == site.value.astype(site.computed))
    local = site.gamma(1) * x.size + site.arithmetic.tiny
    return np.where(kept, 0, x.error + local)


def constant(site: Site) -> Array:
    """What rounding to the constant's own dtype loses."""
    stored = site.value.astype(site.computed).astype(np.float64)
    return np.asarray(np.abs(site.value.astype(np.float64) - stored))


def divide(site: Site) -> Array:
    """(Ex + |x / y| Ey) / (|y| - Ey), unbounded where y may be 0.

    Three roundings: x · (1 / y) counts as another order of x / y.
    """
    x, y = site.args
    least = np.abs(y.value) - y.error
    change = (x.error + np.abs(site.value) * y.error) / least
    local = site.gamma(3) * x.size / least + site.arithmetic.tiny
    return np.where(least > 0, np.where(x.size == 0, 0, change + local), np.inf)


def monotone(roundings: int) -> Callable[[Site], Array]:
    """An increasing function: its change over the operand's interval, and its own."""

    def rule(site: Site) -> Array:
        (x,) = site.args
        low, high = site.apply(x.low), site.apply(x.high)
        change = np.maximum(high - site.value, site.value - low)
        size = np.maximum(np.abs(low), np.abs(high))
        local = site.gamma(roundings) * size + site.arithmetic.tiny
        return _unless_unknown(x, change + local)

    return rule


def _unless_unknown(x: Rounded, error: Array) -> Array:
    """``error``, or inf where x may be a NaN, which no range of a function bounds."""
    return np.where(np.isinf(x.error), np.inf, error)


def exp(site: Site) -> Array:
    """Increasing; 2 to the x · log2(e), with two roundings more of x, counts too."""
    (x,) = site.args
    wider = Rounded(x.value, x.error + site.gamma(2) * x.size)
    return monotone(LIBRARY)(replace(site, args=(wider,)))


def cos(site: Site) -> Array:
    """1-Lipschitz and within [-1, 1]; the library's error is relative to 1."""
    (x,) = site.args
    return _unless_unknown(x, np.minimum(x.error, 2) + site.gamma(LIBRARY))


def sigmoid(site: Site) -> Array:
    """At most a quarter of the operand's error; the library's is relative to 1.

    (The form by tanh cancels for negative x, so its error is absolute.)
    """
    (x,) = site.args
    return _unless_unknown(x, np.minimum(0.25 * x.error, 1) + site.gamma(LIBRARY + 3))


def dropout_mask(site: Site) -> Array:
    """Random bits are exact functions of exact integers."""
    unknown = any(a.error.any() for a in site.args)
    return np.full(site.value.shape, float(unknown))


_EXACT_SUM, _MEAN = total(0, exact=True), total(2, exact=False)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(
            ("conv2d", "conv2d_input_grad", "conv2d_filter_grad"), bilinear
        ),
        **dict.fromkeys(("matmul", "multiply"), bilinear),
        **dict.fromkeys(("add", "subtract", "bias_add"), merge),
        **dict.fromkeys(
            ("reshape", "copy", "transpose", "concat", "slice", "pad"), move
        ),
        **dict.fromkeys(("broadcast_to", "negate"), move),
        "reduce_sum": _EXACT_SUM,
        **dict.fromkeys(("reduce_mean", "reduce_mean_grad"), _MEAN),
        **dict.fromkeys(("avg_pool2d", "avg_pool2d_grad"), _MEAN),
        "exp": exp,
        "log": monotone(LIBRARY),
        "tanh": monotone(LIBRARY),
        "sqrt": monotone(4),  # 1 by IEEE 754; fast GPU square roots need more
        "cos": cos,
        "sigmoid": sigmoid,
        "divide": divide,
        "cast": cast,
        "constant": constant,
        "maximum": maximum,
        "minimum": minimum,
        "relu": relu,
        "relu_grad": relu_grad,
        "max_pool2d": max_pool2d,
        "max_pool2d_argmax": max_pool2d_argmax,
        "max_pool2d_grad": max_pool2d_grad,
        "argmax": argmax,
        "greater_equal": greater_equal,
        "equal": equal,
        **dict.fromkeys(("dropout_mask", "keep_mask"), dropout_mask),
        "apply_keep": apply_keep,
        "apply_mask": apply_mask,
        **FORMULAS,
    }
)
"""The rule of every op, by the op's name."""
