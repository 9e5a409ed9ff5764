"""Types as users write them."""

from typing import Any

import pytest

from convc.ir.errors import TypeRuleError
from convc.spelling import tensor_type


@pytest.mark.parametrize("text", ["f32[N,28,28,1]", "i32[N]", "f32[]", "u8[3]"])
def test_a_type_reads_as_it_prints(text: str) -> None:
    assert str(tensor_type(text)) == text
    assert tensor_type(tensor_type(text)) == tensor_type(text)


def test_spaces_do_not_matter() -> None:
    assert str(tensor_type(" f32 [N, 28,1 ] ")) == "f32[N,28,1]"


@pytest.mark.parametrize("given", ["", "f32", "f17[N]", "f32[N", "[N]", 3, None])
def test_what_is_no_type_is_refused_with_the_dtypes(given: Any) -> None:
    with pytest.raises(TypeRuleError, match=r"like f32\[N,28,28,1\], got .* f64, f32"):
        tensor_type(given)


@pytest.mark.parametrize("dim", ["-1", "None", "n", "2.0", "", "²", "9" * 11])
def test_a_dimension_is_the_batch_or_a_whole_number(dim: str) -> None:
    with pytest.raises(TypeRuleError, match="a dimension is N .* or a whole number"):
        tensor_type(f"f32[N,{dim}]")


def test_a_dimension_of_zero_is_refused() -> None:
    with pytest.raises(TypeRuleError, match="a dimension is N or between 1 and"):
        tensor_type("f32[0]")
