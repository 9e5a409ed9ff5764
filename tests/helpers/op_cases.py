"""Every op of the table with what PyTorch says it means: ``CASES``."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_reference as reference
from op_bench import Case
from torch import Tensor
from window_cases import conv_cases, pool_cases

from convc.ir import philox

NUMPY_TO_TORCH = {
    "f64": torch.float64,
    "f32": torch.float64,
    "i64": torch.int64,
    "i32": torch.int32,
    "u8": torch.uint8,
    "bool": torch.bool,
}
IMAGE, ROWS, CHANNELS = "f32[N,3,4,2]", "f32[N,5]", "f32[2]"

UNARY: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "negate": (torch.neg, ""),
    "exp": (torch.exp, ""),
    "log": (torch.log, "positive"),
    "sqrt": (torch.sqrt, "positive"),
    "cos": (torch.cos, ""),
    "tanh": (torch.tanh, ""),
    "sigmoid": (torch.sigmoid, ""),
    "relu": (torch.relu, ""),
}
BINARY: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "subtract": torch.subtract,
    "multiply": torch.multiply,
    "divide": torch.divide,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "greater_equal": torch.ge,
    "equal": torch.eq,
}
BROADCASTS = (
    ("f32[N,3,2]", "f32[N,3,2]"),
    ("f32[N,3,2]", "f32[]"),
    ("f32[]", "f32[N,3]"),
    ("f32[]", "f32[]"),
    ("f32[N,3,2]", "f32[2]"),
    ("f32[3,1]", "f32[N,1,2]"),
    ("f32[N,1,2]", "f32[1,3,1]"),
    ("f32[1,1]", "f32[N,4]"),
)


def elementwise_cases() -> Iterator[Case]:
    """Arithmetic, comparisons and activations."""
    for op, (function, domain) in UNARY.items():
        yield Case(op, (IMAGE,), function, domains=(domain,))
        yield Case(op, ("f32[]",), function, domains=(domain,))
    for op, function in BINARY.items():
        domains = ("", "positive") if op == "divide" else ()
        for types in BROADCASTS:
            yield Case(op, types, function, domains=domains)
        if op != "divide":
            yield Case(op, ("i64[N,3]", "i64[]"), function, note="integers")
    yield Case("relu_grad", (IMAGE, IMAGE), lambda y, dy: dy * (y.detach() > 0))
    for to, torch_type in NUMPY_TO_TORCH.items():
        for source in ("f32", "i32", "bool"):
            cast = _cast_to(torch_type)
            yield Case("cast", (f"{source}[N,3]",), cast, {"dtype": to}, ("positive",))
        constant = torch.tensor(1.0).to(torch_type)
        attrs = {"value": 1.0, "dtype": to}
        yield Case("constant", (), _always(constant), attrs)


def _cast_to(dtype: torch.dtype) -> Callable[..., Tensor]:
    return lambda x, **_: x.to(dtype)


def _always(value: Tensor) -> Callable[..., Tensor]:
    return lambda **_: value


def _transposed_product(
    a: Tensor, b: Tensor, transpose_a: bool, transpose_b: bool
) -> Tensor:
    return (a.T if transpose_a else a) @ (b.T if transpose_b else b)


def linear_cases() -> Iterator[Case]:
    """Matrix products in all transpositions, with the batch where it may be."""
    operands = {
        (False, False): [("f32[N,3]", "f32[3,4]"), ("f32[1,1]", "f32[1,1]")],
        (False, True): [("f32[N,3]", "f32[4,3]"), ("f32[2,5]", "f32[1,5]")],
        (True, False): [("f32[N,3]", "f32[N,4]"), ("f32[3,2]", "f32[3,4]")],
        (True, True): [("f32[3,2]", "f32[4,3]"), ("f32[3,1]", "f32[2,3]")],
    }
    for (ta, tb), pairs in operands.items():
        for types in pairs:
            attrs = {"transpose_a": ta, "transpose_b": tb}
            yield Case("matmul", types, _transposed_product, attrs, batch=3)
    for x in (IMAGE, "f32[N,2]", "f32[3,2]"):
        yield Case("bias_add", (x, CHANNELS), torch.add)


def _over(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, axes: function(x, dim=axes)


def _spread(mean: bool) -> Callable[..., Tensor]:
    def repeat(x: Tensor, shape: Any, axes: Any) -> Tensor:
        wide = x
        for axis in sorted(axes):
            wide = wide.unsqueeze(axis)
        bound = [2 if d == "N" else d for d in shape]
        count = int(np.prod([bound[axis] for axis in axes])) if mean else 1
        return wide.expand(bound) / count

    return repeat


def reduction_cases() -> Iterator[Case]:
    """Reductions over each kind of axes, and their adjoints."""
    variance = _over(lambda x, dim: torch.var(x, dim=dim, correction=0))
    functions = {"reduce_sum": _over(torch.sum), "reduce_mean": _over(torch.mean)}
    for op, function in {**functions, "reduce_variance": variance}.items():
        for axes in ((0,), (1, 2), (0, 1, 2), (3,), (2, 0), (0, 1, 2, 3)):
            yield Case(op, (IMAGE,), function, {"axes": axes})
        yield Case(op, ("f32[1,1]",), function, {"axes": (0,)}, note="one_element")
    for op in ("broadcast_to", "reduce_mean_grad"):
        for x, axes in (("f32[2]", (0, 1)), ("f32[N,2]", (1,)), ("f32[]", (2, 0, 1))):
            attrs = {"shape": ("N", 3, 2), "axes": axes}
            yield Case(op, (x,), _spread(op == "reduce_mean_grad"), attrs)
    for x in (ROWS, "f32[N,3,4]"):
        yield Case("argmax", (x,), lambda x: x.argmax(-1).to(torch.int32))


def _slice(x: Tensor, axis: int, start: int, size: int) -> Tensor:
    return x.narrow(axis, start, size)


def _pad(x: Tensor, pads: Any) -> Tensor:
    pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)]
    return F.pad(x, [p for pair in reversed(pairs) for p in pair])


def shape_cases() -> Iterator[Case]:
    """Ops that only move elements."""
    for x, shape in (
        (IMAGE, ("N", 24)),
        ("f32[N,24]", ("N", 3, 2, 4)),
        ("f32[N]", ("N", 1, 1)),
        ("f32[6]", (2, 3)),
        ("f32[1]", ()),
    ):
        bound = [2 if d == "N" else d for d in shape]
        yield Case("reshape", (x,), _reshape_to(bound), {"shape": shape})
    for x, perm in ((IMAGE, (0, 3, 1, 2)), ("f32[2,3]", (1, 0)), ("f32[N]", (0,))):
        yield Case("transpose", (x,), lambda x, perm: x.permute(perm), {"perm": perm})
    for types, axis in (
        ((IMAGE, "f32[N,3,4,5]"), 3),
        ((IMAGE, "f32[N,1,4,2]", IMAGE), 1),
        ((ROWS,), 1),
        (("f32[2]", "f32[3]"), 0),
    ):
        yield Case("concat", types, lambda *x, axis: torch.cat(x, axis), {"axis": axis})
    yield Case("copy", (IMAGE,), torch.clone)
    yield Case("copy", ("i64[]",), torch.clone)
    for axis, start, size in ((1, 0, 3), (2, 1, 2), (3, 1, 1)):
        attrs = {"axis": axis, "start": start, "size": size}
        yield Case("slice", (IMAGE,), _slice, attrs)
    for x, pads in (
        (IMAGE, (0, 0, 1, 2, 0, 3, 2, 0)),
        (ROWS, (0, 0, 0, 0)),
        ("f32[2]", (1, 0)),
    ):
        yield Case("pad", (x,), _pad, {"pads": pads})


def _reshape_to(bound: list[int]) -> Callable[..., Tensor]:
    return lambda x, shape: x.reshape(bound)


def _batch_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float = 1e-3,
) -> Tensor:
    channels_second = x.movedim(-1, 1)
    out = F.batch_norm(
        channels_second, mean.detach(), variance.detach(), gamma, beta, eps=epsilon
    )
    if not torch.is_grad_enabled():
        return out.movedim(1, -1)
    # torch treats the statistics as constants: the formula, checked against torch.
    formula = gamma * (x - mean) / torch.sqrt(variance + epsilon) + beta
    torch.testing.assert_close(formula, out.movedim(1, -1))
    return formula


def _moving_average(average: Tensor, sample: Tensor, momentum: float) -> Tensor:
    return torch.lerp(sample, average, momentum)


def normalization_cases() -> Iterator[Case]:
    """Batch normalization with given statistics, and the moving average."""
    for x, attrs in ((IMAGE, {}), ("f32[N,2]", {"epsilon": 0.1})):
        types = (x, *[CHANNELS] * 4)
        domains = ("", "", "", "", "positive")
        yield Case("batch_norm", types, _batch_norm, attrs, domains)
    attrs = {"momentum": 0.9}
    yield Case("moving_average", (CHANNELS, CHANNELS), _moving_average, attrs)


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels.long(), reduction="none")


def _entropy_grad(logits: Tensor, labels: Tensor, dy: Tensor) -> Tensor:
    loss = _entropy(logits, labels)
    return torch.autograd.grad(loss, logits, dy.detach())[0]


def loss_cases() -> Iterator[Case]:
    """Softmax, its logarithm, and the cross-entropy."""
    for x in (ROWS, "f32[N,2,3]", "f32[N,1]"):
        yield Case("softmax", (x,), lambda x: x.softmax(-1))
        yield Case("log_softmax", (x,), lambda x: x.log_softmax(-1))
    types = (ROWS, "i32[N]")
    yield Case("softmax_cross_entropy", types, _entropy, domains=("", "below 5"))
    domains = ("", "below 5", "")
    name = "softmax_cross_entropy_grad"
    yield Case(name, (*types, "f32[N]"), _entropy_grad, domains=domains)


def _mask(seed: Tensor, step: Tensor, shape: Any, keep: float, stream: int) -> Tensor:
    bound = [2 if d == "N" else d for d in shape]
    count = int(np.prod(bound))
    uniform = philox.bits(int(seed), stream, int(step), count) / 2.0**32
    return torch.tensor((uniform < keep).reshape(bound))


def _keep_mask(
    seed: Tensor, step: Tensor, keep: Tensor, shape: Any, stream: int
) -> Tensor:
    return _mask(seed, step, shape, float(keep.detach()), stream)


def _apply_keep(x: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
    return x * mask / keep.detach()


def random_cases() -> Iterator[Case]:
    """Dropout's mask and its application."""
    for keep in (0.25, 0.5, 1.0):
        attrs = {"shape": ("N", 3, 5), "keep": keep, "stream": 7}
        domains = ("below 1000", "below 9")
        yield Case("dropout_mask", ("i64[]", "i64[]"), _mask, attrs, domains)
    attrs = {"shape": ("N", 3, 5), "stream": 7}
    domains = ("below 1000", "below 9", "share")
    yield Case("keep_mask", ("i64[]", "i64[]", "f32[]"), _keep_mask, attrs, domains)
    types = (IMAGE, IMAGE.replace("f32", "bool"))
    domains = ("", "", "share")
    yield Case("apply_keep", (*types, "f32[]"), _apply_keep, domains=domains)
    for attrs in ({}, {"scale": 2.0}):
        yield Case("apply_mask", types, lambda x, m, scale=1.0: x * scale * m, attrs)


def optimizer_cases() -> Iterator[Case]:
    """One step of every optimizer from any state."""
    p, lr, step = "f32[3,2]", "f32[]", "i64[]"
    for decay in ({}, {"weight_decay": 0.25}):
        domains = ("", "", "positive")
        yield Case("sgd", (p, p, lr), reference.sgd, decay, domains)
        for extra in ({}, {"nesterov": True}, {"momentum": 0.5}):
            attrs = {**extra, **decay}
            domains = ("", "", "", "positive")
            yield Case("momentum", (p, p, p, lr), reference.momentum, attrs, domains)
        for extra in ({}, {"decoupled": True}, {"beta1": 0.5, "epsilon": 1e-3}):
            attrs = {**extra, **decay}
            domains = ("", "", "", "positive", "positive", "below 9")
            types = (p, p, p, p, lr, step)
            yield Case("adam", types, reference.adam, attrs, domains)


CASES: list[Case] = [
    *conv_cases(),
    *pool_cases(),
    *elementwise_cases(),
    *linear_cases(),
    *reduction_cases(),
    *shape_cases(),
    *normalization_cases(),
    *loss_cases(),
    *random_cases(),
    *optimizer_cases(),
]
