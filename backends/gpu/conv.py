"""Convolutions and their gradients as contractions.

The input gradient of a strided convolution is split by phase: the inputs whose index
leaves the same remainder use the same taps of the filter, and no others, so that no
product with zero is made.
"""

from collections.abc import Sequence
from dataclasses import replace

from convc.backends.gpu.affine import Condition, Index
from convc.backends.gpu.contraction import Contraction, Coords, Operand, Part, Where
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.section import power
from convc.backends.gpu.tile import Tile
from convc.ir.graph import Node
from convc.ir.ops.base import ints
from convc.ir.ops.conv import conv_axes
from convc.ir.ops.window import Axis


def _groups(node: Node) -> int:
    return ints(node.attrs["groups"])[0]


def axes_of(node: Node) -> tuple[Axis, ...]:
    """The spatial axes of a convolution or of one of its gradients."""
    if node.op == "conv2d":
        x, w = node.operands
        return conv_axes(node.op, x.type.bind(1)[1:3], w.type.inner[:2], node.attrs)
    if node.op == "conv2d_input_grad":
        w = node.operands[1]
        size = ints(node.attrs["size"])
        return conv_axes(node.op, size, w.type.inner[:2], node.attrs)
    x = node.operands[0]
    kernel = ints(node.attrs["kernel"])
    return conv_axes(node.op, x.type.bind(1)[1:3], kernel, node.attrs)


def _inside(t: Tile, axes: Sequence[Axis], h: Index, w: Index) -> Where:
    """When a tap lies in the image."""
    return [*t.within(h, axes[0].size, "h"), *t.within(w, axes[1].size, "w")]


def _tap(axis: Axis, out: Index, tap: Index) -> Index:
    """Which input element a tap of an output element reads."""
    return out * axis.stride + tap * axis.dilation + -axis.before


def window_width(pool: Node | None) -> int:
    """The positions of a pool's window, up to a power of two; 1 without a pool."""
    if pool is None:
        return 1
    window = ints(pool.attrs["window"])
    return power(window[0] * window[1])


def forward(kernel: Kernel, node: Node, pool: Node | None, taps: int) -> Contraction:
    """y[n,p,q,k] = Σ x[n, p·s+i·d, q·s+j·d, c] · w[i,j,c,k].

    Before a max-pool the rows are the pool's windows and the positions in each.
    """
    (x, w), axes, groups = node.operands, axes_of(node), _groups(node)
    kh, kw, c, filters = w.type.inner
    k, (height, width) = filters // groups, (a.out for a in axes)
    rows: tuple[Part, ...] = (("n", "N"), ("p", height), ("q", width))
    if not x.type.batched:
        rows = (("n", x.type.bind(1)[0]), *rows[1:])
    if pool is not None:
        (up, across), size = ints(pool.attrs["window"]), window_width(pool)
        rows = (rows[0], ("pool_p", height // up), ("pool_q", width // across))
        rows = (*rows, ("position", size))

    def place(t: Tile, own: Coords) -> Coords:
        if pool is None:
            return own
        n, p, q, position = own
        i = t.quotient(position, across, "down")
        j = t.remainder(position, across, "right")
        return [n, t.named(p * up + i, "p"), t.named(q * across + j, "q")]

    def read_x(
        t: Tile, outer: Coords, own: Coords, summed: Coords
    ) -> tuple[Coords, Where]:
        (n, p, q), (i, j, channel) = place(t, own), summed
        h, v = _tap(axes[0], p, i), _tap(axes[1], q, j)
        return [n, h, v, outer[0] * c + channel], _inside(t, axes, h, v)

    def read_w(
        t: Tile, outer: Coords, own: Coords, summed: Coords
    ) -> tuple[Coords, Where]:
        i, j, channel = summed
        return [i, j, channel, outer[0] * k + own[0]], []

    def result(t: Tile, outer: Coords, own: Coords, columns: Coords) -> Coords:
        return [*place(t, own), outer[0] * k + columns[0]]

    return Contraction(
        kernel,
        node,
        (("group", groups),),
        rows,
        (("k", k),),
        (("i", kh), ("j", kw), ("c", c)),
        Operand(x, read_x),
        Operand(w, read_w),
        result,
        taps,
    )


def phases(axes: Sequence[Axis]) -> tuple[int, int]:
    """Into how many phases the rows and columns of an input gradient are split."""
    down, right = (a.stride if a.dilation == 1 else 1 for a in axes)
    return down, right


def input_gradient(kernel: Kernel, node: Node, taps: int) -> Contraction:
    """dx[n,h,w,c] = Σ dy[n, (h+b-i·d)/s, (w+b-j·d)/s, k] · w[i,j,c,k]."""
    (dy, w), axes, groups = node.operands, axes_of(node), _groups(node)
    kh, kw, c, filters = w.type.inner
    k, split = filters // groups, phases(axes)
    heights = [-(-a.size // s) for a, s in zip(axes, split, strict=True)]
    counts = [-(-n // s) for n, s in zip((kh, kw), split, strict=True)]
    images: Part = ("n", "N") if dy.type.batched else ("n", dy.type.bind(1)[0])

    def read_dy(
        t: Tile, outer: Coords, own: Coords, summed: Coords
    ) -> tuple[Coords, Where]:
        (_, up, across), (n, h, v), (i, j, channel) = outer, own, summed
        p, rows = _source(t, axes[0], split[0], up, h, i, "p")
        q, columns = _source(t, axes[1], split[1], across, v, j, "q")
        return [n, p, q, outer[0] * k + channel], [*rows, *columns]

    def read_w(
        t: Tile, outer: Coords, own: Coords, summed: Coords
    ) -> tuple[Coords, Where]:
        (_, up, across), (i, j, channel) = outer, summed
        row, hits = _tap_of_phase(t, axes[0], split[0], up, i, "i")
        column, more = _tap_of_phase(t, axes[1], split[1], across, j, "j")
        return [row, column, own[0], outer[0] * k + channel], [*hits, *more]

    def result(t: Tile, outer: Coords, own: Coords, columns: Coords) -> Coords:
        (group, up, across), (n, h, v) = outer, own
        h = bounded(t, t.named(h * split[0] + up, "h"), axes[0].size)
        v = bounded(t, t.named(v * split[1] + across, "w"), axes[1].size)
        return [n, h, v, group * c + columns[0]]

    return Contraction(
        kernel,
        node,
        (("group", groups), ("phase_h", split[0]), ("phase_w", split[1])),
        (images, ("h", heights[0]), ("w", heights[1])),
        (("c", c),),
        (("i", counts[0]), ("j", counts[1]), ("k", k)),
        Operand(dy, read_dy),
        Operand(w, read_w),
        result,
        taps,
    )


def _source(
    t: Tile, axis: Axis, split: int, phase: Index, at: Index, tap: Index, name: str
) -> tuple[Index, Where]:
    """Which window an input element is in at that tap, and when there is one."""
    if split > 1:
        start = phase + axis.before
        shifted = at + t.quotient(start, axis.stride, "shift") + tap * -1
        _, hits = _tap_of_phase(t, axis, split, phase, tap, "ij"["pq".index(name)])
        window, inside = t.narrowed(shifted, axis.out, name)
        return window, [*hits, *inside]
    start = at + tap * -axis.dilation + axis.before
    if axis.stride == 1:
        return t.narrowed(start, axis.out, name)
    window = t.quotient(start, axis.stride, name)
    rest = t.remainder(start, axis.stride, "rest")
    symbols = tuple(s for s, _ in rest.terms)
    hit = [Condition(f"{t.text(rest)} == 0", rest.axes, symbols)]
    low = [] if start.low >= 0 else t.within(start, start.high + 1, "from")
    window, inside = t.narrowed(window, axis.out, name)
    return window, [*low, *hit, *inside]


def _tap_of_phase(
    t: Tile, axis: Axis, split: int, phase: Index, tap: Index, name: str
) -> tuple[Index, Where]:
    """The tap of the filter that is the ``tap``-th of a phase, and when there is."""
    if split == 1:
        return tap, []
    first = t.remainder(phase + axis.before, axis.stride, "first")
    r = first + tap * axis.stride
    return r, t.within(r, axis.kernel, name)


def bounded(t: Tile, index: Index, size: int) -> Index:
    """The same index, which only means something below ``size``."""
    if index.high < size:
        return index
    ((symbol, _),) = t.named(index, "at").terms
    below = Condition(f"{symbol.name} < {size}", symbol.axes, (symbol,))
    known = (*symbol.conditions, below)
    return Index.of(replace(symbol, high=size - 1, conditions=known))


def filter_gradient(kernel: Kernel, node: Node) -> Contraction:
    """dw[i,j,c,k] = Σ x[n, p·s+i·d, q·s+j·d, c] · dy[n,p,q,k]."""
    (x, dy), axes, groups = node.operands, axes_of(node), _groups(node)
    kh, kw, c, filters = node.result.type.inner
    k, (height, width) = filters // groups, (a.out for a in axes)
    images: Part = ("n", "N") if dy.type.batched else ("n", dy.type.bind(1)[0])

    def read_x(
        t: Tile, outer: Coords, own: Coords, summed: Coords
    ) -> tuple[Coords, Where]:
        (i, j, channel), (n, p, q) = own, summed
        h, v = _tap(axes[0], p, i), _tap(axes[1], q, j)
        return [n, h, v, outer[0] * c + channel], _inside(t, axes, h, v)

    def read_dy(
        t: Tile, outer: Coords, own: Coords, summed: Coords
    ) -> tuple[Coords, Where]:
        return [*summed, outer[0] * k + own[0]], []

    def result(t: Tile, outer: Coords, own: Coords, columns: Coords) -> Coords:
        return [*own, outer[0] * k + columns[0]]

    return Contraction(
        kernel,
        node,
        (("group", groups),),
        (("i", kh), ("j", kw), ("c", c)),
        (("k", k),),
        (images, ("p", height), ("q", width)),
        Operand(x, read_x),
        Operand(dy, read_dy),
        result,
    )


def product(kernel: Kernel, node: Node) -> Contraction:
    """A matmul, each operand transposed or not."""
    a, b = node.operands
    ta, tb = node.attrs["transpose_a"], node.attrs["transpose_b"]
    rows, inner = a.type.shape[::-1] if ta else a.type.shape
    columns = b.type.shape[0] if tb else b.type.shape[1]

    def read_a(
        t: Tile, outer: Coords, own: Coords, summed: Coords
    ) -> tuple[Coords, Where]:
        return ([*summed, *own] if ta else [*own, *summed]), []

    def read_b(
        t: Tile, outer: Coords, own: Coords, summed: Coords
    ) -> tuple[Coords, Where]:
        return ([*own, *summed] if tb else [*summed, *own]), []

    return Contraction(
        kernel,
        node,
        (),
        (("m", rows),),
        (("o", columns),),
        (("k", inner),),
        Operand(a, read_a),
        Operand(b, read_b),
        lambda t, outer, own, columns: [*own, *columns],
    )
