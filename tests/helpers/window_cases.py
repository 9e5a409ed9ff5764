"""Convolution and pooling at every kind of geometry."""

from collections.abc import Iterator
from typing import Any

import torch_reference as reference
from op_bench import Case

from convc.ir.ops import OPS

# note: image [h, w], channels, kernel, filters, geometry, batch
CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "plain": ((5, 4), 2, (3, 2), 3, {}, 2),
    "one_by_one_kernel": ((3, 4), 3, (1, 1), 2, {}, 2),
    "one_by_one_image": ((1, 1), 3, (1, 1), 2, {}, 1),
    "kernel_as_large_as_image": ((4, 3), 2, (4, 3), 2, {}, 3),
    "batch_1": ((4, 4), 1, (3, 3), 1, {}, 1),
    "strides": ((7, 6), 2, (3, 2), 2, {"strides": (2, 3)}, 2),
    "stride_over_kernel": ((9, 8), 1, (2, 1), 2, {"strides": (4, 3)}, 2),
    "same_odd": ((5, 7), 2, (3, 3), 2, {"padding": "same"}, 2),
    "same_even_kernel": ((6, 5), 2, (2, 4), 2, {"padding": "same"}, 2),
    "same_odd_stride_2": (
        *((5, 7), 1, (3, 3), 2),
        *({"padding": "same", "strides": (2, 2)}, 2),
    ),
    "same_even_stride_2": (
        *((6, 8), 1, (3, 3), 2),
        *({"padding": "same", "strides": (2, 2)}, 2),
    ),
    "same_stride_over_kernel": (
        *((7, 8), 1, (2, 1), 2),
        *({"padding": "same", "strides": (3, 4)}, 2),
    ),
    "same_one_by_one_image": ((1, 1), 2, (5, 4), 2, {"padding": "same"}, 1),
    "same_dilated": (
        *((7, 6), 1, (3, 2), 2),
        *({"padding": "same", "dilations": (2, 3), "strides": (2, 1)}, 2),
    ),
    "asymmetric": ((4, 5), 2, (3, 3), 2, {"padding": ((0, 2), (3, 1))}, 2),
    "more_padding_than_kernel": (
        (2, 3),
        1,
        (2, 2),
        1,
        {"padding": ((3, 0), (0, 4))},
        2,
    ),
    "dilated": ((7, 8), 2, (3, 2), 2, {"dilations": (2, 3)}, 2),
    "dilated_strided_padded": (
        *((6, 7), 2, (2, 3), 2),
        *({"dilations": (3, 2), "strides": (2, 2), "padding": ((1, 2), (2, 0))}, 2),
    ),
    "groups": ((4, 4), 4, (3, 2), 6, {"groups": 2}, 2),
    "depthwise": ((4, 5), 3, (3, 3), 3, {"groups": 3, "padding": "same"}, 2),
    "depthwise_multiplier": ((5, 4), 2, (2, 2), 6, {"groups": 2, "strides": (2, 1)}, 2),
}
# note: image [h, w], geometry, batch
POOLS: dict[str, tuple[Any, ...]] = {
    "halving": ((4, 6), {"window": (2, 2), "strides": (2, 2)}, 2),
    "overlapping": ((5, 6), {"window": (3, 2), "strides": (1, 1)}, 2),
    "stride_over_window": ((7, 8), {"window": (2, 1), "strides": (3, 4)}, 1),
    "global": ((3, 4), {"window": (3, 4), "strides": (1, 1)}, 3),
    "one_by_one": ((1, 1), {"window": (1, 1), "strides": (1, 1)}, 1),
    "same_odd": ((5, 7), {"window": (2, 3), "strides": (2, 2), "padding": "same"}, 2),
    "same_even": ((6, 4), {"window": (3, 2), "strides": (2, 3), "padding": "same"}, 2),
    "same_wide": ((2, 1), {"window": (4, 5), "strides": (1, 1), "padding": "same"}, 2),
    "same_stride_over_window": (
        (7, 5),
        {"window": (1, 2), "strides": (3, 3), "padding": "same"},
        2,
    ),
    "asymmetric": (
        (4, 5),
        {"window": (3, 3), "strides": (2, 1), "padding": ((2, 0), (1, 2))},
        2,
    ),
}


def _type(*shape: int | str) -> str:
    return f"f32[{','.join(map(str, shape))}]"


def _output(op: str, types: tuple[str, ...], attrs: dict[str, Any]) -> str:
    case = Case(op, types, print, attrs)
    rule = OPS[op]
    return str(rule.infer(case.tensors, rule.check(case.tensors, attrs))[0])


def conv_cases() -> Iterator[Case]:
    """conv2d and its two gradients at each geometry."""
    for note, (image, c, kernel, k, geometry, batch) in CONVOLUTIONS.items():
        x = _type("N", *image, c)
        w = _type(*kernel, c // geometry.get("groups", 1), k)
        y = _output("conv2d", (x, w), geometry)
        for op, types, extra in (
            ("conv2d", (x, w), {}),
            ("conv2d_input_grad", (y, w), {"size": image}),
            ("conv2d_filter_grad", (x, y), {"kernel": kernel}),
        ):
            meaning = getattr(reference, op)
            yield Case(op, types, meaning, {**geometry, **extra}, (), batch, note)


def pool_cases() -> Iterator[Case]:
    """The pooling ops and their gradients at each geometry."""
    for note, (image, geometry, batch) in POOLS.items():
        x = _type("N", *image, 2)
        y = _output("avg_pool2d", (x,), geometry)
        index = y.replace("f32", "u8")
        taps = geometry["window"][0] * geometry["window"][1]
        sized = {**geometry, "size": image}
        for op, types, attrs, domains in (
            ("max_pool2d", (x,), geometry, ()),
            ("max_pool2d_argmax", (x,), geometry, ()),
            ("max_pool2d_grad", (index, y), sized, (f"below {taps}", "")),
            ("avg_pool2d", (x,), geometry, ()),
            ("avg_pool2d_grad", (y,), sized, ()),
        ):
            meaning = getattr(reference, op)
            yield Case(op, types, meaning, attrs, domains, batch, note)
