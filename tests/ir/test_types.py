"""Tensor types: bounds, layouts, sizes."""

import numpy as np
import pytest

from convc.ir.errors import TypeRuleError
from convc.ir.types import MAX_DIM, DType, TensorType, batch_last

IMAGES = TensorType(DType.F32, ("N", 28, 14, 3))


@pytest.mark.parametrize("dtype", DType)
def test_a_dtype_has_the_size_of_its_numpy_twin(dtype: DType) -> None:
    assert dtype.itemsize == dtype.numpy.itemsize
    half = dtype.numpy in (np.dtype("float16"), np.dtype("bfloat16"))
    assert dtype.is_half == half
    assert dtype.is_float == (half or np.issubdtype(dtype.numpy, np.floating))
    assert dtype.computed is (DType.F32 if half else dtype)


def test_a_type_prints_as_dtype_shape_and_layout() -> None:
    assert str(IMAGES) == "f32[N,28,14,3]"
    assert str(batch_last(IMAGES)) == "f32[N,28,14,3]{1,2,3,0}"
    assert str(TensorType(DType.I64, ())) == "i64[]"


def test_sizes_take_the_batch_in_place_of_n() -> None:
    assert IMAGES.bind(5) == (5, 28, 14, 3)
    assert IMAGES.elements(5) == 5 * 28 * 14 * 3
    assert IMAGES.nbytes(5) == 4 * 5 * 28 * 14 * 3
    assert IMAGES.inner == (28, 14, 3)
    assert IMAGES.batched
    assert not TensorType(DType.F32, ()).batched


def test_the_batch_last_layout_stores_the_batch_innermost() -> None:
    assert batch_last(IMAGES).storage(5) == (28, 14, 3, 5)
    assert batch_last(IMAGES).plain == IMAGES
    vector = TensorType(DType.F32, ("N",))
    assert batch_last(vector) == vector
    static = TensorType(DType.F32, (2, 3), (1, 0))
    assert batch_last(static) == static.plain


def test_the_identity_layout_has_one_spelling() -> None:
    assert TensorType(DType.F32, (2, 3), (0, 1)) == TensorType(DType.F32, (2, 3))
    assert TensorType(DType.F32, (), ()) == TensorType(DType.F32, ())
    assert IMAGES.with_layout((0, 1, 2, 3)) == IMAGES


def test_another_shape_is_plain_and_another_dtype_keeps_the_layout() -> None:
    stored = batch_last(IMAGES)
    assert stored.with_shape(("N", 3)) == TensorType(DType.F32, ("N", 3))
    assert stored.with_dtype(DType.U8).layout == stored.layout


@pytest.mark.parametrize(
    ("shape", "layout", "message"),
    [
        ((2, "N"), None, "the batch N must be axis 0, not axis 1"),
        (("M",), None, "a dimension is N or between 1 and 2147483647, axis 0 is M"),
        ((0,), None, "a dimension is N or between 1 and 2147483647, axis 0 is 0"),
        ((3, -1), None, "a dimension is N or between 1 and 2147483647, axis 1 is -1"),
        ((MAX_DIM + 1,), None, "axis 0 is 2147483648"),
        ((1,) * 9, None, "a tensor has at most 8 axes, this one has 9"),
        ((2**20, 2**21), None, "a tensor has at most 1099511627776 elements"),
        ((2, 3), (0, 0), r"a layout is a permutation of the 2 axes, got \(0, 0\)"),
        ((2, 3), (0,), "a layout is a permutation of the 2 axes"),
    ],
)
def test_a_type_out_of_bounds_is_refused(
    shape: tuple[int | str, ...], layout: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(TypeRuleError, match=message):
        TensorType(DType.F32, shape, layout)


def test_the_largest_types_are_accepted() -> None:
    assert TensorType(DType.U8, (MAX_DIM,)).rank == 1
    assert TensorType(DType.U8, (2**20, 2**20)).elements(1) == 2**40
    assert TensorType(DType.U8, ("N", *[1] * 7)).rank == 8
