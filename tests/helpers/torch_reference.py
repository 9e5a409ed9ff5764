"""What the window ops and optimizers mean, in PyTorch; tensors in the IR's layouts."""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Pads = list[tuple[int, int]]


def same_pads(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's SAME for one axis, as its documentation states it."""
    effective = (kernel - 1) * dilation + 1
    rest = size % stride
    total = max(effective - (rest or stride), 0)
    return total // 2, total - total // 2


def find_pads(
    padding: Any, sizes: Any, kernel: Any, strides: Any, dilations: Any = (1, 1)
) -> Pads:
    """Zeros before and after each spatial axis."""
    if padding == "valid":
        return [(0, 0), (0, 0)]
    if padding == "same":
        axes = zip(sizes, kernel, strides, dilations, strict=True)
        return [same_pads(*axis) for axis in axes]
    return [tuple(p) for p in padding]


def padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """``x`` [n,h,w,c] padded and as [n,c,h,w]."""
    (top, bottom), (left, right) = pads
    return F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom), value=value)


def conv2d(
    x: Tensor,
    w: Tensor,
    strides: Any = (1, 1),
    padding: Any = "valid",
    dilations: Any = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Convolution of [n,h,w,c] with filters [kh,kw,c/groups,k]."""
    pads = find_pads(padding, x.shape[1:3], w.shape[:2], strides, dilations)
    filters = w.permute(3, 2, 0, 1)
    y = F.conv2d(padded(x, pads), filters, None, strides, 0, dilations, groups)
    return y.permute(0, 2, 3, 1)


def conv2d_input_grad(dy: Tensor, w: Tensor, size: Any, **geometry: Any) -> Tensor:
    """What autograd gives for conv2d's input."""
    channels = w.shape[2] * geometry.get("groups", 1)
    x = torch.zeros(dy.shape[0], *size, channels, dtype=dy.dtype, requires_grad=True)
    return torch.autograd.grad(conv2d(x, w, **geometry), x, dy, create_graph=True)[0]


def conv2d_filter_grad(x: Tensor, dy: Tensor, kernel: Any, **geometry: Any) -> Tensor:
    """What autograd gives for conv2d's filter."""
    shape = (*kernel, x.shape[-1] // geometry.get("groups", 1), dy.shape[-1])
    w = torch.zeros(shape, dtype=dy.dtype, requires_grad=True)
    return torch.autograd.grad(conv2d(x, w, **geometry), w, dy, create_graph=True)[0]


def max_pool2d(x: Tensor, window: Any, strides: Any, padding: Any = "valid") -> Tensor:
    """The maximum over each window; padding is minus infinity."""
    pads = find_pads(padding, x.shape[1:3], window, strides)
    y = F.max_pool2d(padded(x, pads, -torch.inf), window, strides)
    return y.permute(0, 2, 3, 1)


def avg_pool2d(x: Tensor, window: Any, strides: Any, padding: Any = "valid") -> Tensor:
    """The sum over each window divided by its number of real elements."""
    pads = find_pads(padding, x.shape[1:3], window, strides)
    inside = torch.ones_like(x)
    sums, counts = (
        F.avg_pool2d(padded(t, pads), window, strides, divisor_override=1)
        for t in (x, inside)
    )
    return (sums / counts).permute(0, 2, 3, 1)


def avg_pool2d_grad(dy: Tensor, size: Any, **geometry: Any) -> Tensor:
    """What autograd gives for avg_pool2d."""
    shape = (dy.shape[0], *size, dy.shape[-1])
    x = torch.zeros(shape, dtype=dy.dtype, requires_grad=True)
    return torch.autograd.grad(avg_pool2d(x, **geometry), x, dy, create_graph=True)[0]


def max_pool2d_argmax(
    x: Tensor, window: Any, strides: Any, padding: Any = "valid"
) -> Tensor:
    """Which tap wins, element by element: the first that no other exceeds."""
    pads = find_pads(padding, x.shape[1:3], window, strides)
    wide = padded(x.detach(), pads, -torch.inf)
    n, c, h, w = wide.shape
    rows, columns = (h - window[0]) // strides[0] + 1, (w - window[1]) // strides[1] + 1
    index = torch.zeros((n, rows, columns, c), dtype=torch.uint8)
    for i, p, q, k in product(range(n), range(rows), range(columns), range(c)):
        top, left = p * strides[0], q * strides[1]
        taps = wide[i, k, top : top + window[0], left : left + window[1]]
        values = taps.flatten().tolist()
        index[i, p, q, k] = values.index(max(values))
    return index


def max_pool2d_grad(
    index: Tensor,
    dy: Tensor,
    size: Any,
    window: Any,
    strides: Any,
    padding: Any = "valid",
) -> Tensor:
    """Each dy added at the element its index names, one by one."""
    pads = find_pads(padding, size, window, strides)
    (top, bottom), (left, right) = pads
    n, rows, columns, c = dy.shape
    height, width = size[0] + top + bottom, size[1] + left + right
    wide = torch.zeros((n, height, width, c), dtype=dy.dtype)
    for i, p, q, k in product(range(n), range(rows), range(columns), range(c)):
        a, b = divmod(int(index[i, p, q, k]), window[1])
        wide[i, p * strides[0] + a, q * strides[1] + b, k] += dy[i, p, q, k]
    return wide[:, top : top + size[0], left : left + size[1]]


def sgd(p: Tensor, g: Tensor, lr: Tensor, weight_decay: float = 0.0) -> Tensor:
    """One step of torch.optim.SGD."""
    (new,) = _step(torch.optim.SGD, p, g, lr, {}, weight_decay=weight_decay)
    return new


def momentum(p: Tensor, g: Tensor, v: Tensor, lr: Tensor, **attrs: Any) -> Any:
    """One step of torch.optim.SGD with momentum, from the buffer ``v``."""
    attrs = {"momentum": 0.9, **attrs}
    state = {"momentum_buffer": v}
    return _step(torch.optim.SGD, p, g, lr, state, **attrs)


def adam(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    lr: Tensor,
    step: Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> Any:
    """One step of torch.optim.Adam or AdamW, from the moments ``m`` and ``v``."""
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    state = {"step": step.to(torch.float32), "exp_avg": m, "exp_avg_sq": v}
    options = {"betas": (beta1, beta2), "eps": epsilon, "weight_decay": weight_decay}
    return _step(kind, p, g, lr, state, **options)


def _step(
    kind: Any, p: Tensor, g: Tensor, lr: Tensor, state: dict[str, Tensor], **attrs: Any
) -> tuple[Tensor, ...]:
    parameter = torch.nn.Parameter(p.detach().clone())
    parameter.grad = g.detach().clone()
    optimizer = kind([parameter], lr=float(lr.detach()), **attrs)
    if state:
        optimizer.state[parameter] = {k: v.detach().clone() for k, v in state.items()}
    optimizer.step()
    kept = [k for k in state if k != "step"]
    return parameter, *(optimizer.state[parameter][k] for k in kept)
