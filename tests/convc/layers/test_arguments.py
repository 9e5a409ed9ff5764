"""Layer arguments: what is accepted, what is refused, and the boundary between."""

from typing import Any

import numpy as np
import pytest

from convc.ir.errors import TypeRuleError
from convc.layers import arguments as args
from convc.tracing import Tensor, trace


@pytest.mark.parametrize("given", [1, np.int64(1), np.uint8(1)])
def test_a_whole_number_may_be_numpys(given: Any) -> None:
    assert args.whole("l", "n", given) == 1


@pytest.mark.parametrize("given", [0, -1, 1.0, True, np.True_, "1", None, [1]])
def test_a_count_is_a_whole_number_from_one(given: Any) -> None:
    with pytest.raises(
        TypeRuleError, match="l: n must be a whole number of at least 1, got"
    ):
        args.whole("l", "n", given)


@pytest.mark.parametrize("given", [2, [2, 2], (2, 2), [1, 2, 2, 1]])
def test_a_pair_is_one_number_two_or_four(given: Any) -> None:
    assert args.sizes("l", "strides", given) == (2, 2)


def test_a_pair_is_height_before_width() -> None:
    assert args.sizes("l", "strides", [1, 2, 3, 1]) == (2, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([2, 2, 2, 1], r"must be 1 for the batch .* write \[1, 2, 2, 1\]"),
        ([1, 2, 2, 2], r"must be 1 for the batch .* write \[1, 2, 2, 1\]"),
        ([1, 2, 3], "has one number or two .height, width., got 3"),
        ([], "has one number or two .height, width., got 0"),
        ([0, 1], "must be a whole number of at least 1, got 0"),
        ([True, 1], "must be a whole number of at least 1, got True"),
        ("22", "must be a whole number of at least 1, got '22'"),
    ],
)
def test_other_pairs_are_refused(given: Any, said: str) -> None:
    with pytest.raises(TypeRuleError, match=f"l: strides {said}"):
        args.sizes("l", "strides", given)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("same", "same"),
        ("SAME", "same"),
        ("Valid", "valid"),
        (0, ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        ([[1, 2], [3, 4]], ((1, 2), (3, 4))),
        ([[0, 0], [1, 2], [3, 4], [0, 0]], ((1, 2), (3, 4))),
    ],
)
def test_padding_is_a_word_a_number_or_pairs(given: Any, rule: Any) -> None:
    assert args.padding("l", given) == rule


@pytest.mark.parametrize(
    "given",
    ["full", "", None, 1.5, [1, 2], [[1, 2]], [[1, 2, 3], [1, 2]], ["ab", "cd"]],
)
def test_other_padding_is_refused(given: Any) -> None:
    with pytest.raises(TypeRuleError, match="l: padding"):
        args.padding("l", given)


@pytest.mark.parametrize("given", [-1, [[-1, 0], [0, 0]], [[True, 0], [0, 0]]])
def test_padding_counts_zeros_from_zero(given: Any) -> None:
    with pytest.raises(
        TypeRuleError, match="padding must be a whole number of at least"
    ):
        args.padding("l", given)


def test_padding_of_the_batch_is_refused() -> None:
    with pytest.raises(TypeRuleError, match="l: padding is same, valid"):
        args.padding("l", [[1, 1], [0, 0], [0, 0], [0, 0]])


@pytest.mark.parametrize("given", [0, 0.0, 0.999, np.float32(0.5)])
def test_a_fraction_is_at_least_zero_and_below_one(given: Any) -> None:
    assert args.fraction("l", "rate", given) == given


@pytest.mark.parametrize("given", [1, 1.0, -0.001])
def test_a_fraction_outside_is_refused(given: Any) -> None:
    with pytest.raises(TypeRuleError, match="l: rate must be at least 0 and below 1"):
        args.fraction("l", "rate", given)


@pytest.mark.parametrize("given", [float("nan"), float("inf"), "1", True, None, [1]])
def test_a_number_is_finite(given: Any) -> None:
    with pytest.raises(TypeRuleError, match="l: rate must be a finite number, got"):
        args.real("l", "rate", given)


def test_an_axis_is_static_and_may_count_from_the_end() -> None:
    def net(x: Tensor) -> Tensor:
        assert [args.axis("l", a, x) for a in (1, 2, -1, -2)] == [1, 2, 2, 1]
        for wrong in (0, 3, -3):
            with pytest.raises(
                TypeRuleError, match=r"axis must be one of f32\[N,4,5\] other than the"
            ):
                args.axis("l", wrong, x)
        with pytest.raises(TypeRuleError, match="axis must be a whole number"):
            args.axis("l", -4, x)
        return x

    trace(net, {"x": "f32[N,4,5]"})


def test_data_in_place_of_a_tensor_is_refused() -> None:
    with pytest.raises(TypeRuleError, match="got a ndarray; pass data as an input"):
        args.tensor("l", "inputs", np.ones(3))
