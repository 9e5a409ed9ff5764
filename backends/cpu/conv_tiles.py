"""Geometry of the tiled convolution, shared by the forward and backward emitters.

Arrays keep the batch innermost. For a tile of m images and every padded row h the
*windows* array holds KW shifted copies of that row, ``[group, phase, row, kw, c,
part, j, m]``: kernel rows h, h+d, …, h+(KH-1)d lie one after the other, so the
im2col matrix of an output row is a plain view of (KH·KW·C) x (columns·m), and only
KW copies are made, not KH·KW. Rows are grouped by their phase modulo the dilation;
columns are ordered (position within the pool window, pooled column, image), so that
pooling reads long contiguous runs.
"""

from dataclasses import dataclass

from convc.backends.cpu.kernel import Kernel
from convc.ir.errors import CompileError
from convc.ir.graph import Node
from convc.ir.ops.base import ints
from convc.ir.ops.conv import conv_axes
from convc.ir.ops.pool import pool_axes
from convc.ir.types import DType

SLAB_BYTES = 3 * 1024 * 1024
"""Target size of one im2col matrix. The BLAS library packs it into cache-sized blocks
by itself; more images per tile make the copies' inner runs, and the calls, longer."""
EPILOGUE_ELEMENTS = 64 * 1024
"""Elements per call in the epilogue: fewer make the workers wait for the interpreter
lock more than they compute."""


@dataclass(frozen=True)
class ConvTiles:
    """Sizes of one convolution: x [h,w,c], filters [kh,kw,c/groups,k], pool [ph,pw].

    ``rows`` x ``cols`` is the size after the pool (or of the plain output), ``height``
    the padded rows per phase that are kept in the windows array.
    """

    h: int
    w: int
    c: int
    k: int
    kh: int
    kw: int
    groups: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    top: int
    left: int
    ph: int
    pw: int
    rows: int
    cols: int

    @property
    def height(self) -> int:
        """Rows per dilation phase of the windows array."""
        last = (self.rows * self.ph - 1) * self.stride_h
        return last // self.dilation_h + self.kh

    @property
    def depth(self) -> int:
        """Rows of an im2col matrix: KH·KW·C/groups."""
        return self.kh * self.kw * self.c // self.groups

    @property
    def width(self) -> int:
        """Columns of an im2col matrix per image."""
        return self.pw * self.cols

    @property
    def window_dims(self) -> tuple[int, ...]:
        """Shape of the windows array without the images."""
        channels = self.c // self.groups
        return (
            self.groups,
            self.dilation_h,
            self.height,
            self.kw,
            channels,
            self.pw,
            self.cols,
        )

    def images(self, batch: int, threads: int) -> int:
        """How many images a tile takes: the most whose matrix stays within bounds."""
        share = -(-batch // threads)
        fitting = SLAB_BYTES // (self.depth * self.width * 4)
        return max(1, min(share, max(8, fitting // 8 * 8), 128))

    def row_group(self, images: int) -> int:
        """How many (pooled) rows one epilogue takes."""
        per_row = self.k * self.cols * images
        return max(1, min(self.rows, -(-EPILOGUE_ELEMENTS // per_row)))


def conv_tiles(kernel: Kernel, conv: Node, pool: Node | None) -> ConvTiles:
    """The tiles of a conv2d, conv2d_input_grad or conv2d_filter_grad node.

    ``pool`` is the max_pool2d (or its gradient) that shares the kernel. CompileError
    unless its windows lie side by side in what is pooled.
    """
    if conv.result.type.dtype is not DType.F32:
        raise CompileError(
            f"{conv.op} at {kernel.where()}: the numpy backend convolves f32, this is "
            f"{conv.result.type}; cast to f32"
        )
    groups = ints(conv.attrs["groups"])[0]
    if conv.op == "conv2d":
        x, w = (v.type for v in conv.operands)
        h, width, c = x.inner
        kh, kw, _, k = w.inner
    elif conv.op == "conv2d_filter_grad":
        h, width, c = conv.operands[0].type.inner
        kh, kw, _, k = conv.result.type.inner
    else:
        h, width, c = conv.result.type.inner
        kh, kw, _, k = conv.operands[1].type.inner
    axes = conv_axes(conv.op, (h, width), (kh, kw), conv.attrs)
    ph = pw = 1
    rows, cols = axes[0].out, axes[1].out
    if pool is not None:
        ph, pw = ints(pool.attrs["window"])
        pooled = pool_axes(pool.op, (rows, cols), pool.attrs)
        if any(a.stride != a.kernel for a in pooled):
            raise kernel.refusal("windows of the pool overlap or leave gaps")
        if any(a.padded for a in pooled):
            raise kernel.refusal("windows of the pool reach into its padding")
        rows, cols = (a.out for a in pooled)
    return ConvTiles(
        h,
        width,
        c,
        k,
        kh,
        kw,
        groups,
        axes[0].stride,
        axes[1].stride,
        axes[0].dilation,
        axes[1].dilation,
        axes[0].before,
        axes[1].before,
        ph,
        pw,
        rows,
        cols,
    )


def shifts_of(array: str, g: ConvTiles) -> str:
    """Source for the pieces that move between images i … i+m and the windows."""
    geometry = f"{g.top}, {g.left}, {g.stride_w}, {g.dilation_w}"
    return f"*shifts({array}[..., i : i + m], windows, {geometry})"
