"""What each op of the table is in PyTorch: one call, or a few."""

from collections.abc import Callable, Sequence
from math import prod

from convc.ir import philox
from convc.ir.errors import CompileError
from convc.ir.graph import Node, Value
from convc.ir.ops.base import ints, number
from convc.ir.ops.conv import conv_axes
from convc.ir.ops.pool import pool_axes
from convc.ir.ops.window import Axis
from convc.ir.types import BATCH, DType

TYPES = {
    DType.F64: "torch.float64",
    DType.F32: "torch.float32",
    DType.BF16: "torch.bfloat16",
    DType.F16: "torch.float16",
    DType.I64: "torch.int64",
    DType.I32: "torch.int32",
    DType.U8: "torch.uint8",
    DType.BOOL: "torch.bool",
}
"""PyTorch's names of the element types."""

SIMPLE = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "maximum": "torch.maximum({0}, {1})",
    "minimum": "torch.minimum({0}, {1})",
    "greater_equal": "{0} >= {1}",
    "equal": "{0} == {1}",
    "negate": "-{0}",
    "exp": "{0}.exp()",
    "log": "{0}.log()",
    "sqrt": "{0}.sqrt()",
    "cos": "{0}.cos()",
    "tanh": "{0}.tanh()",
    "sigmoid": "{0}.sigmoid()",
    "relu": "F.relu({0})",
    "bias_add": "{0} + {1}",
    "copy": "{0}.clone()",
    "softmax": "{0}.softmax(-1)",
    "log_softmax": "{0}.log_softmax(-1)",
    "argmax": "{0}.argmax(-1).to(torch.int32)",
    "softmax_cross_entropy": 'F.cross_entropy({0}, {1}.long(), reduction="none")',
    "apply_keep": "torch.where({1}, {0}, 0.0) / {2}",
}
"""Ops without attributes that matter, of their operands by number."""

Names = Sequence[str]


def expression(node: Node, names: Names, bias: str = "") -> str:
    """A node as an expression of its operands' names; a bias is added by the call.

    The filter of a conv2d is given as [out, in, h, w], the second factor of a matmul as
    [out, in], which is how PyTorch's layers store them.
    CompileError, with the op and its line, for one that is not a network's own.
    """
    if node.op in SIMPLE:
        return SIMPLE[node.op].format(*names)
    if node.attrs.get("precision", "ieee") != "ieee":
        raise refusal(node, f"its products are in {node.attrs['precision']}")
    maker = _MAKERS.get(node.op)
    if maker is None:
        raise refusal(node, "gradients and updates are made by torch itself")
    if node.op in ("conv2d", "matmul"):
        names = [*names, bias]
    return maker(node, names)


def refusal(node: Node, reason: str) -> CompileError:
    """An error that says why a node is not written for PyTorch."""
    where = f" at {node.locs[0]}" if node.locs else ""
    types = ", ".join(str(v.type) for v in node.operands)
    return CompileError(
        f"{node.op} on ({types}){where} is not written for the torch backend: "
        f"{reason}; give it the network as traced, in fp32"
    )


def dims(shape: Sequence[int | str]) -> str:
    """A shape as a tuple, in which n is the number of images."""
    listed = ["n" if d == BATCH else str(d) for d in shape]
    return f"({listed[0]},)" if len(listed) == 1 else f"({', '.join(listed)})"


def _conv2d(node: Node, names: Names) -> str:
    (x, w, bias), a = names, node.attrs
    image = f"nchw({x})"
    kernel = node.operands[1].type.inner[:2]
    axes = conv_axes(node.op, node.operands[0].type.inner[:2], kernel, a)
    pads, even = _pads(axes)
    if not even:
        image = f"F.pad({image}, {pads})"
    options = {
        "stride": (ints(a["strides"]), (1, 1)),
        "padding": (tuple(axis.before for axis in axes) if even else (0, 0), (0, 0)),
        "dilation": (ints(a["dilations"]), (1, 1)),
        "groups": (a["groups"], 1),
    }
    given = [
        f"{key}={value}" for key, (value, usual) in options.items() if value != usual
    ]
    arguments = [image, w, *filter(None, [bias]), *given]
    return f"nhwc(F.conv2d({', '.join(arguments)}))"


def _pads(axes: Sequence[Axis]) -> tuple[tuple[int, ...], bool]:
    """Pads left, right, top and bottom; whether opposite ones are equal."""
    rows, columns = axes
    pads = (columns.before, columns.after, rows.before, rows.after)
    return pads, all(axis.before == axis.after for axis in axes)


def _matmul(node: Node, names: Names) -> str:
    a, rows, bias = names
    if node.attrs["transpose_a"]:
        a = f"{a}.mT"
    return f"F.linear({a}, {rows}{', ' + bias if bias else ''})"


def _pool_sizes(node: Node) -> tuple[tuple[int, ...], bool, str]:
    """Pads, whether PyTorch's pools take them themselves, and window and strides."""
    axes = pool_axes(node.op, node.operands[0].type.inner[:2], node.attrs)
    pads, even = _pads(axes)
    fit = even and all(2 * axis.before <= axis.kernel for axis in axes)
    window, strides = ints(node.attrs["window"]), ints(node.attrs["strides"])
    return pads, fit, f"{window}, {strides}"


def _max_pool2d(node: Node, names: Names) -> str:
    (x,), (pads, fit, sizes) = names, _pool_sizes(node)
    if not fit:
        padded = f'F.pad(nchw({x}), {pads}, value=float("-inf"))'
        return f"nhwc(F.max_pool2d({padded}, {sizes}))"
    padding = f", {(pads[2], pads[0])}" if any(pads) else ""
    return f"nhwc(F.max_pool2d(nchw({x}), {sizes}{padding}))"


def _avg_pool2d(node: Node, names: Names) -> str:
    (x,), (pads, fit, sizes) = names, _pool_sizes(node)
    if not fit:
        return f"nhwc(average(nchw({x}), {pads}, {sizes}))"
    padding = f", {(pads[2], pads[0])}, count_include_pad=False" if any(pads) else ""
    return f"nhwc(F.avg_pool2d(nchw({x}), {sizes}{padding}))"


def _sum(node: Node, names: Names) -> str:
    kind = TYPES[node.result.type.dtype]
    return f"{names[0]}.sum({ints(node.attrs['axes'])}, dtype={kind})"


def _spread(node: Node, names: Names) -> str:
    text, shape = names[0], node.result.type.shape
    for axis in sorted(ints(node.attrs["axes"])):
        text = f"{text}.unsqueeze({axis})"
    return f"{text}.expand({dims(shape)})"


def _spread_mean(node: Node, names: Names) -> str:
    shape = node.result.type.shape
    spread = [shape[axis] for axis in ints(node.attrs["axes"])]
    count = str(prod(d for d in spread if isinstance(d, int)))
    if BATCH in spread:
        count = f"({count} * n)"
    return f"{_spread(node, names)} / {count}"


def _reshape(node: Node, names: Names) -> str:
    return f"{names[0]}.reshape({dims(node.result.type.shape)})"


def _pad(node: Node, names: Names) -> str:
    pads = ints(node.attrs["pads"])
    pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)]
    return f"F.pad({names[0]}, {tuple(p for pair in reversed(pairs) for p in pair)})"


def _batch_norm(node: Node, names: Names) -> str:
    x, gamma, beta, mean, variance = names
    epsilon = number(node.attrs["epsilon"])
    return f"({x} - {mean}) * ({variance} + {epsilon}).rsqrt() * {gamma} + {beta}"


def _moving_average(node: Node, names: Names) -> str:
    momentum = number(node.attrs["momentum"])
    return f"{names[0]} * {momentum} + {names[1]} * {1 - momentum}"


def _mask(node: Node, names: Names) -> str:
    threshold = str(philox.keep_threshold(number(node.attrs["keep"])))
    return _below(node, names, threshold)


def _keep_mask(node: Node, names: Names) -> str:
    return _below(node, names, f"({names[2]}.double() * 2**32).floor()")


def _below(node: Node, names: Names, threshold: str) -> str:
    seed, step = names[:2]
    shape = dims(node.result.type.shape)
    return f"below({threshold}, {seed}, {node.attrs['stream']}, {step}, {shape})"


def _apply_mask(node: Node, names: Names) -> str:
    x, mask = names
    scale = number(node.attrs["scale"])
    return f"torch.where({mask}, {x} * {scale}, 0.0)"


def _constant(node: Node, _: Names) -> str:
    kind = TYPES[node.result.type.dtype]
    return f"torch.full((), {node.attrs['value']!r}, dtype={kind})"


def _slice(node: Node, names: Names) -> str:
    axis, start, size = (node.attrs[key] for key in ("axis", "start", "size"))
    return f"{names[0]}.narrow({axis}, {start}, {size})"


_MAKERS: dict[str, Callable[[Node, Names], str]] = {
    "conv2d": _conv2d,
    "matmul": _matmul,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "batch_norm": _batch_norm,
    "reduce_sum": _sum,
    "reduce_mean": lambda node, x: f"{x[0]}.mean({ints(node.attrs['axes'])})",
    "reduce_variance": lambda node, x: (
        f"{x[0]}.var({ints(node.attrs['axes'])}, correction=0)"
    ),
    "broadcast_to": _spread,
    "reduce_mean_grad": _spread_mean,
    "reshape": _reshape,
    "transpose": lambda node, x: f"{x[0]}.permute({ints(node.attrs['perm'])})",
    "concat": lambda node, x: f"torch.cat(({', '.join(x)},), {node.attrs['axis']})",
    "slice": _slice,
    "pad": _pad,
    "cast": lambda node, x: f"{x[0]}.to({TYPES[node.result.type.dtype]})",
    "constant": _constant,
    "moving_average": _moving_average,
    "dropout_mask": _mask,
    "keep_mask": _keep_mask,
    "apply_mask": _apply_mask,
}


def statistics_of(node: Node, makers: dict[str, Node]) -> tuple[Value, Value] | None:
    """Mean and variance of a batch_norm that normalizes by those of its own operand."""
    x, _, _, *given = node.operands
    every = tuple(range(x.type.rank - 1))
    for value, op in zip(given, ("reduce_mean", "reduce_variance"), strict=True):
        maker = makers.get(value.name)
        if maker is None or maker.op != op or maker.operands != (x,):
            return None
        if tuple(sorted(ints(maker.attrs["axes"]))) != every:
            return None
    mean, variance = given
    return mean, variance
