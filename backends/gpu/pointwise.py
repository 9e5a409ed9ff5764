"""Ops of which an element can be computed from a few elements of the operands.

In float32 Triton's own division, root, exponential, logarithm and cosine are
approximations of the hardware; what stands here is as exact as NumPy's.

Each rule gives source for the elements of its op at indices, in float32 where values
are stored in 16 bits: a fused value is not rounded until it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isinf, isnan, prod
from typing import TYPE_CHECKING

from convc.backends.gpu.affine import Condition, Index
from convc.backends.gpu.scope import computed, dtype, ratio, root
from convc.ir.graph import Attr, Node, Value
from convc.ir.ops.base import ints, number, shape_of
from convc.ir.ops.pool import pool_axes
from convc.ir.ops.window import Axis
from convc.ir.philox import keep_threshold
from convc.ir.types import DType, TensorType

if TYPE_CHECKING:
    from convc.backends.gpu.tile import Tile

EXACT_LOG = "tl.log({}.to(tl.float64)).to(tl.float32)"
"""The logarithm of a float32."""

Where = Sequence[Condition]
Coords = Sequence[Index]
Rule = Callable[["Tile", Node, Coords, Where], str]


def literal(value: Attr, kind: DType) -> str:
    """Source for a number of that dtype."""
    if kind.is_float:
        real = float(value)  # type: ignore[arg-type]
        return f'float("{real}")' if isinf(real) or isnan(real) else repr(real)
    return repr(bool(value) if kind is DType.BOOL else int(value))  # type: ignore[arg-type]


def _at(value: Value, result: TensorType, coords: Coords) -> list[Index]:
    """Where an operand is read that is broadcast to the result, NumPy's way."""
    shape = value.type.shape
    own = list(coords)[len(coords) - len(shape) :]
    wide = result.shape[len(result.shape) - len(shape) :]
    return [
        Index() if small == 1 and large != 1 else c
        for c, small, large in zip(own, shape, wide, strict=True)
    ]


def _operands(t: Tile, node: Node, coords: Coords, where: Where) -> list[str]:
    return [t.value(v, _at(v, node.result.type, coords), where) for v in node.operands]


def _simple(text: str, exact: str | None = None) -> Rule:
    """A rule that is a format of the operands; ``exact`` is taken for float32."""

    def rule(t: Tile, node: Node, coords: Coords, where: Where) -> str:
        rounded = node.operands[0].type.dtype is not DType.F64
        chosen = exact if exact and rounded else text
        return chosen.format(*_operands(t, node, coords, where))

    return rule


def _extremum(name: str) -> Rule:
    def rule(t: Tile, node: Node, coords: Coords, where: Where) -> str:
        x, y = _operands(t, node, coords, where)
        if node.result.type.dtype.is_float:
            return f"tl.{name}({x}, {y}, propagate_nan=tl.PropagateNan.ALL)"
        return f"tl.{name}({x}, {y})"

    return rule


def _constant(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    kind = computed(node.result.type.dtype)
    return f"tl.full((), {literal(node.attrs['value'], kind)}, {dtype(kind)})"


def _cast(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    (x,) = _operands(t, node, coords, where)
    kind = computed(node.result.type.dtype)
    if kind is computed(node.operands[0].type.dtype):
        return x
    if kind is DType.BOOL:
        return f"{x} != 0"
    return f"{x}.to({dtype(kind)})"


def _tanh(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    if node.result.type.dtype is DType.F64:
        raise t.kernel.refusal("tanh is computed in float32")
    return f"tanh({t.value(node.operands[0], coords, where)})"


def _apply_mask(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    x, mask = _operands(t, node, coords, where)
    scale = number(node.attrs["scale"])
    scaled = x if scale == 1 else f"{x} * {scale!r}"
    return f"tl.where({mask}, {scaled}, 0.0)"


def _apply_keep(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    x, mask, keep = _operands(t, node, coords, where)
    return ratio(f"tl.where({mask}, {x}, 0.0)", keep, node.result.type.dtype)


def _bias_add(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    x, bias = node.operands
    return f"{t.value(x, coords, where)} + {t.value(bias, coords[-1:], where)}"


def _batch_norm(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    x = t.value(node.operands[0], coords, where)
    gamma, beta, mean, variance = (
        t.value(v, coords[-1:], where) for v in node.operands[1:]
    )
    epsilon = number(node.attrs["epsilon"])
    kind = node.result.type.dtype
    deviation = root(f"{variance} + {epsilon!r}", kind)
    return f"{ratio(f'{gamma} * ({x} - {mean})', deviation, kind)} + {beta}"


def _moving_average(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    average, sample = _operands(t, node, coords, where)
    momentum = number(node.attrs["momentum"])
    return f"{average} * {momentum!r} + {sample} * {1 - momentum!r}"


def _spread(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    axes, shape = ints(node.attrs["axes"]), shape_of(node.attrs["shape"])
    kept = [c for axis, c in enumerate(coords) if axis not in axes]
    x = t.value(node.operands[0], kept, where)
    if node.op == "broadcast_to":
        return x
    kind = node.result.type.dtype
    count = t.count((d for a, d in enumerate(shape) if a in axes), kind)
    return x if count == "1.0" else ratio(x, count, kind)


def _reshape(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    (x,) = node.operands
    flat = t.named(t.offset(node.result, coords), "flat")
    sizes, found = x.type.bind(t.batch), []
    for axis in range(len(sizes)):
        weight = prod(sizes[axis + 1 :])
        digit = t.quotient(flat, weight, "digit")
        found.append(t.remainder(digit, sizes[axis], "digit") if axis else digit)
    return t.value(x, found, where)


def _transpose(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    perm = ints(node.attrs["perm"])
    inverse = [coords[perm.index(axis)] for axis in range(len(perm))]
    return t.value(node.operands[0], inverse, where)


def _slice(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    axis, start = ints(node.attrs["axis"])[0], ints(node.attrs["start"])[0]
    moved = [c + start if a == axis else c for a, c in enumerate(coords)]
    return t.value(node.operands[0], moved, where)


def _pad(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    (x,), pads = node.operands, ints(node.attrs["pads"])
    moved = [c + -pads[2 * a] for a, c in enumerate(coords)]
    outside = [
        condition
        for c, size in zip(moved, x.type.bind(t.batch), strict=True)
        for condition in t.within(c, size, "inner")
    ]
    return t.filled(x, moved, [*where, *outside], literal(0, x.type.dtype))


def _concat(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    axis, start, text = ints(node.attrs["axis"])[0], 0, ""
    at = coords[axis]
    for x in node.operands:
        size = x.type.bind(t.batch)[axis]
        moved = [c + -start if a == axis else c for a, c in enumerate(coords)]
        inside = t.within(moved[axis], size, "part")
        part = t.value(x, moved, [*where, *inside])
        start += size
        text = (
            part
            if not text
            else f"tl.where({t.text(at)} < {start - size}, {text}, {part})"
        )
    return text


# -- windows


def _axes(node: Node, size: Sequence[int]) -> tuple[Axis, ...]:
    return pool_axes(node.op, size, node.attrs)


def _window(
    t: Tile, axes: Sequence[Axis], coords: Coords
) -> Iterator[tuple[int, Coords, list[Condition]]]:
    """The taps of a window one after the other, written out: index, conditions."""
    n, p, q, c = coords
    down, right = axes
    for i in range(down.kernel):
        for j in range(right.kernel):
            h = p * down.stride + (i * down.dilation - down.before)
            w = q * right.stride + (j * right.dilation - right.before)
            inside = [*t.within(h, down.size, "h"), *t.within(w, right.size, "w")]
            yield i * right.kernel + j, (n, h, w, c), inside


def _max_pool(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    (x,) = node.operands
    axes = _axes(node, x.type.bind(1)[1:3])
    best = ""
    for _, at, inside in _window(t, axes, coords):
        tap = t.filled(x, at, [*where, *inside], 'float("-inf")')
        best = (
            tap
            if not best
            else t.let(
                "best", f"tl.maximum({best}, {tap}, propagate_nan=tl.PropagateNan.ALL)"
            )
        )
    return best


def _max_pool_argmax(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    (x,) = node.operands
    axes = _axes(node, x.type.bind(1)[1:3])
    best, which = "", t.let("which", t.full(coords, "0", DType.U8))
    for tap, at, inside in _window(t, axes, coords):
        text = t.filled(x, at, [*where, *inside], 'float("-inf")')
        if not best:
            best = text
            continue
        text = t.let("tap", text) if "(" in text else text
        better = t.let("better", f"{text} > {best}")
        which = t.let("which", f"tl.where({better}, {tap}, {which}).to(tl.uint8)")
        best = t.let("best", f"tl.where({better}, {text}, {best})")
    return which


def _avg_pool(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    (x,) = node.operands
    axes = _axes(node, x.type.bind(1)[1:3])
    total = ""
    for _, at, inside in _window(t, axes, coords):
        tap = t.filled(x, at, [*where, *inside])
        total = tap if not total else t.let("total", f"{total} + {tap}")
    count = _window_size(t, axes, coords[1], coords[2])
    return ratio(total, count, node.result.type.dtype)


def _window_size(t: Tile, axes: Sequence[Axis], p: Index, q: Index) -> str:
    """How many taps of a window lie in the input, as a float."""
    parts = []
    for axis, at in zip(axes, (p, q), strict=True):
        if not axis.padded:
            parts.append(str(axis.kernel))
            continue
        start = t.text(t.named(at * axis.stride + -axis.before, "start"))
        parts.append(
            f"(tl.minimum({start} + {axis.kernel}, {axis.size}) - "
            f"tl.maximum({start}, 0))"
        )
    if all(part.isdigit() for part in parts):
        return f"{prod(map(int, parts))}.0"
    return f"({' * '.join(parts)}).to(tl.float32)"


def _sources(
    t: Tile, axes: Sequence[Axis], h: Index, w: Index
) -> Iterator[tuple[int, Index, Index, list[Condition]]]:
    """Which windows hold an input element: tap numbers, window indices, conditions."""
    down, right = axes
    for i in range(down.kernel):
        for j in range(right.kernel):
            p, row = _window_of(t, down, h, i, "p")
            q, column = _window_of(t, right, w, j, "q")
            if row is not None and column is not None:
                yield i * right.kernel + j, p, q, [*row, *column]


def _window_of(
    t: Tile, axis: Axis, at: Index, tap: int, name: str
) -> tuple[Index, list[Condition] | None]:
    """The window of which ``at`` is that tap, and when there is one."""
    start = at + (axis.before - tap * axis.dilation)
    if axis.stride == 1:
        return start, t.within(start, axis.out, name)
    found = t.quotient(start, axis.stride, name)
    rest = t.remainder(start, axis.stride, f"{name}_rest")
    hit = []
    if rest.terms:
        symbols = tuple(s for s, _ in rest.terms)
        hit = [Condition(f"{t.text(rest)} == 0", rest.axes, symbols)]
    elif rest.constant:
        return found, None
    low = [] if start.low >= 0 else t.within(start, start.high + 1, name)
    return found, [*low, *hit, *t.within(found, axis.out, name)]


def tiles_evenly(axes: Sequence[Axis]) -> bool:
    """Whether each input element is in one window at most, at a tap that is certain."""
    return all(a.kernel == a.stride and not a.padded for a in axes)


def _max_pool_grad(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    index, dy = node.operands
    axes = _axes(node, ints(node.attrs["size"]))
    n, h, w, c = coords
    if tiles_evenly(axes):
        down, right = axes
        p, q = t.quotient(h, down.stride, "p"), t.quotient(w, right.stride, "q")
        p, rows = t.narrowed(p, down.out, "p")
        q, columns = t.narrowed(q, right.out, "q")
        inside = [*rows, *columns]
        i, j = t.remainder(h, down.stride, "i"), t.remainder(w, right.stride, "j")
        tap = t.text(t.named(i * right.kernel + j, "tap"))
        won = t.filled(index, (n, p, q, c), [*where, *inside], "255")
        g = t.value(dy, (n, p, q, c), [*where, *inside])
        return f"tl.where({won} == {tap}, {g}, 0.0)"
    total = ""
    for tap_number, p, q, inside in _sources(t, axes, h, w):
        won = t.filled(index, (n, p, q, c), [*where, *inside], "255")
        g = t.value(dy, (n, p, q, c), [*where, *inside])
        part = f"tl.where({won} == {tap_number}, {g}, 0.0)"
        total = t.let("total", part if not total else f"{total} + {part}")
    return total


def _avg_pool_grad(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    (dy,) = node.operands
    axes = _axes(node, ints(node.attrs["size"]))
    n, h, w, c = coords
    total = ""
    for _, p, q, inside in _sources(t, axes, h, w):
        g = t.filled(dy, (n, p, q, c), [*where, *inside])
        count = _window_size(t, axes, p, q)
        part = ratio(g, count, dy.type.dtype)
        if inside and "minimum" in count:
            part = f"tl.where({t.both(inside)}, {part}, 0.0)"
        total = t.let("total", part if not total else f"{total} + {part}")
    return total


# -- random bits


def _dropout_mask(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    seed, step = (t.value(v, ()) for v in node.operands)
    threshold = keep_threshold(number(node.attrs["keep"]))
    if threshold >= 2**32:
        return t.full(coords, "True", DType.BOOL)
    element = t.text(t.offset(node.result, coords))
    return f"keeps({seed}, {step}, {node.attrs['stream']}, {element}, {threshold})"


def _keep_mask(t: Tile, node: Node, coords: Coords, where: Where) -> str:
    seed, step, keep = (t.value(v, ()) for v in node.operands)
    element = t.text(t.offset(node.result, coords))
    return f"keeps_share({seed}, {step}, {node.attrs['stream']}, {element}, {keep})"


RULES: dict[str, Rule] = {
    "add": _simple("{} + {}"),
    "subtract": _simple("{} - {}"),
    "multiply": _simple("{} * {}"),
    "divide": _simple("{} / {}", "tl.div_rn({}, {})"),
    "maximum": _extremum("maximum"),
    "minimum": _extremum("minimum"),
    "negate": _simple("-{}"),
    "exp": _simple("tl.exp({})", "exp({})"),
    "log": _simple("tl.log({})", EXACT_LOG),
    "sqrt": _simple("tl.sqrt({})", "tl.sqrt_rn({})"),
    "cos": _simple("tl.cos({})", "tl.cos({}.to(tl.float64)).to(tl.float32)"),
    "tanh": _tanh,
    "sigmoid": _simple("1.0 / (1.0 + tl.exp(-{}))", "tl.div_rn(1.0, 1.0 + exp(-{}))"),
    "relu": _simple("tl.where({0} < 0.0, 0.0, {0})"),
    "relu_grad": _simple("tl.where({} > 0.0, {}, 0.0)"),
    "greater_equal": _simple("{} >= {}"),
    "equal": _simple("{} == {}"),
    "cast": _cast,
    "constant": _constant,
    "copy": _simple("{}"),
    "apply_mask": _apply_mask,
    "apply_keep": _apply_keep,
    "bias_add": _bias_add,
    "batch_norm": _batch_norm,
    "moving_average": _moving_average,
    "broadcast_to": _spread,
    "reduce_mean_grad": _spread,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "max_pool2d": _max_pool,
    "max_pool2d_argmax": _max_pool_argmax,
    "max_pool2d_grad": _max_pool_grad,
    "avg_pool2d": _avg_pool,
    "avg_pool2d_grad": _avg_pool_grad,
    "dropout_mask": _dropout_mask,
    "keep_mask": _keep_mask,
}
"""How each op that has elements of its own is written."""
