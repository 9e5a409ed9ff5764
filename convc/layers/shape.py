"""Layers that arrange elements, join tensors or sum them up."""

from collections.abc import Sequence
from math import prod

from convc.ir.errors import TypeRuleError
from convc.ir.types import Dim
from convc.layers import arguments as args
from convc.tracing import Tensor, layer_scope


def flatten(inputs: Tensor, name: str | None = None) -> Tensor:
    """Each image as one row: f32[N,H,W,C] -> f32[N,H·W·C]."""
    with layer_scope("flatten", name, absorb=True) as t:
        x = args.tensor("flatten", "inputs", inputs)
        if x.rank < 1:
            raise TypeRuleError(f"flatten: a scalar has no batch (inputs: {x.type})")
        if x.rank == 2:
            return x
        rest = [d for d in x.shape[1:] if isinstance(d, int)]
        return t.emit("reshape", x, shape=(x.shape[0], prod(rest)))


def reshape(
    inputs: Tensor, shape: Sequence[int | str | None], name: str | None = None
) -> Tensor:
    """The same elements in the same order under another shape.

    The batch stays first and is written -1, None or ``"N"``; one further dimension
    may be -1, to be computed from the rest. ModelError when the elements do not fit.
    """
    with layer_scope("reshape", name, absorb=True) as t:
        x = args.tensor("reshape", "inputs", inputs)
        return t.emit("reshape", x, shape=_target(x, shape))


def _target(x: Tensor, given: Sequence[int | str | None]) -> tuple[Dim, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeRuleError(f"reshape: shape is a list of dimensions, got {given!r}")
    dims, head = list(given), []
    if x.type.batched:
        if not dims or dims[0] not in (-1, None, "N"):
            raise TypeRuleError(
                f"reshape: the batch stays first, shape {dims} begins otherwise "
                f"(inputs: {x.type}); write {['N', *dims[1:]]} with -1 for N"
            )
        head = [x.shape[0]]
        del dims[0]
    open_at = [i for i, d in enumerate(dims) if d == -1]
    sizes = [args.whole("reshape", "a dimension", d) for d in dims if d != -1]
    if len(open_at) > 1:
        raise TypeRuleError(
            f"reshape: one dimension beside the batch may be -1, "
            f"shape {list(given)} has {len(open_at)}"
        )
    have, want = prod(x.type.inner), prod(sizes)
    if have % want or (have != want and not open_at):
        per = " per image" if x.type.batched else ""
        raise TypeRuleError(
            f"reshape: {have} elements{per} do not fill shape {list(given)}, "
            f"which has {'a multiple of ' * bool(open_at)}{want} (inputs: {x.type}); "
            "check the sizes, or leave one as -1"
        )
    for i in open_at:
        sizes.insert(i, have // want)
    return (*head, *sizes)


def concat(inputs: Sequence[Tensor], axis: int = -1, name: str | None = None) -> Tensor:
    """Tensors one after the other along ``axis``, which is not the batch."""
    with layer_scope("concat", name, absorb=True) as t:
        if isinstance(inputs, Tensor) or not isinstance(inputs, Sequence) or not inputs:
            raise TypeRuleError("concat: inputs must be a list of tensors, as [x, y]")
        parts = [args.tensor("concat", f"inputs[{i}]", x) for i, x in enumerate(inputs)]
        return t.emit("concat", *parts, axis=args.axis("concat", axis, parts[0]))


def transpose(inputs: Tensor, perm: Sequence[int], name: str | None = None) -> Tensor:
    """The axes in the order ``perm``: axis i of the result is axis perm[i] of inputs.

    The batch stays first. ModelError for what does not order the axes.
    """
    with layer_scope("transpose", name, absorb=True) as t:
        x = args.tensor("transpose", "inputs", inputs)
        if isinstance(perm, str) or not isinstance(perm, Sequence):
            raise TypeRuleError(f"transpose: perm is a list of axes, got {perm!r}")
        order = tuple(args.whole("transpose", "perm", a, low=0) for a in perm)
        return t.emit("transpose", x, perm=order)


def pad(
    inputs: Tensor,
    padding: int | Sequence[Sequence[int]],
    name: str | None = None,
) -> Tensor:
    """Zeros around images, f32[N,H,W,C], or around any tensor.

    ``padding`` is a number for all sides of images, [[top, bottom], [left, right]], or
    [before, after] for each axis, [0, 0] for the batch.
    """
    with layer_scope("pad", name, absorb=True) as t:
        x = args.tensor("pad", "inputs", inputs)
        return t.emit("pad", x, pads=tuple(n for s in _sides(x, padding) for n in s))


def _sides(x: Tensor, given: object) -> list[tuple[int, int]]:
    listed = list(given) if isinstance(given, Sequence) else [[given] * 2] * 2
    if len(listed) == 2 and x.rank == 4:
        listed = [[0, 0], *listed, [0, 0]]
    pairs = [isinstance(s, Sequence) and len(s) == 2 for s in listed]
    if len(listed) != x.rank or not all(pairs):
        raise TypeRuleError(
            f"pad: padding is a number or [[top, bottom], [left, right]] for images, "
            f"or [before, after] for each axis, got {given!r} (inputs: {x.type})"
        )
    sides = [[args.whole("pad", "padding", n, low=0) for n in s] for s in listed]
    return [(before, after) for before, after in sides]


def crop2d(inputs: Tensor, pixels: int, name: str | None = None) -> Tensor:
    """Images without their border: f32[N,H,W,C] -> f32[N,H-2·pixels,W-2·pixels,C].

    ModelError if nothing would be left.
    """
    with layer_scope("crop2d", name, absorb=True) as t:
        x = args.tensor("crop2d", "inputs", inputs, rank=4)
        border = args.whole("crop2d", "pixels", pixels, low=0)
        for axis, size in enumerate(x.type.inner[:2], 1):
            if size <= 2 * border:
                raise TypeRuleError(
                    f"crop2d: a border of {border} pixels on both sides leaves nothing "
                    f"of {size} (inputs: {x.type}); crop less"
                )
            if border:
                kept = size - 2 * border
                x = t.emit("slice", x, axis=axis, start=border, size=kept)
        return x


def add(x: Tensor, y: Tensor, name: str | None = None) -> Tensor:
    """The sum x + y by NumPy's broadcasting rule, as in a residual connection."""
    with layer_scope("add", name, absorb=True) as t:
        return t.emit("add", args.tensor("add", "x", x), args.tensor("add", "y", y))


def reduce_mean(
    inputs: Tensor, axes: int | Sequence[int], name: str | None = None
) -> Tensor:
    """The mean over ``axes`` (negative: from the end), which vanish from the shape."""
    return _reduce("reduce_mean", inputs, axes, name)


def reduce_sum(
    inputs: Tensor, axes: int | Sequence[int], name: str | None = None
) -> Tensor:
    """The sum over ``axes`` (negative: from the end), which vanish from the shape."""
    return _reduce("reduce_sum", inputs, axes, name)


def _reduce(
    op: str, inputs: Tensor, axes: int | Sequence[int], name: str | None
) -> Tensor:
    with layer_scope(op, name, absorb=True) as t:
        x = args.tensor(op, "inputs", inputs)
        listed = axes if isinstance(axes, Sequence) else [axes]
        numbers = [args.whole(op, "axes", a, low=-x.rank) for a in listed]
        return t.emit(
            op, x, axes=tuple(sorted(a % x.rank if a < 0 else a for a in numbers))
        )
