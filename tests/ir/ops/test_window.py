"""The arithmetic of windows against counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch_reference import same_pads

from convc.ir.errors import TypeRuleError
from convc.ir.ops.window import crop, pad_input, resolve_axis, taps

SIZES, KERNELS, STEPS = st.integers(1, 12), st.integers(1, 6), st.integers(1, 4)


@given(SIZES, KERNELS, STEPS, STEPS, st.integers(0, 4), st.integers(0, 4))
def test_as_many_windows_as_fit_are_counted(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> None:
    padded = size + before + after
    reach = dilation * (kernel - 1) + 1
    starts = range(0, padded - reach + 1, stride)
    if not starts:
        with pytest.raises(TypeRuleError, match=f"a window of {kernel}"):
            resolve_axis("op", size, kernel, stride, dilation, (before, after))
        return
    axis = resolve_axis("op", size, kernel, stride, dilation, (before, after))
    assert (axis.out, axis.reach) == (len(starts), reach)
    read = {start - before + at for start in starts for at in range(reach)}
    assert axis.padded == (not read <= {*range(size)})


@given(SIZES, KERNELS, STEPS, STEPS)
def test_same_keeps_one_window_for_each_stride_and_pads_as_tensorflow(
    size: int, kernel: int, stride: int, dilation: int
) -> None:
    axis = resolve_axis("op", size, kernel, stride, dilation, "same")
    assert axis.out == -(-size // stride)
    assert (axis.before, axis.after) == same_pads(size, kernel, stride, dilation)
    assert axis.after - axis.before in (0, 1)


@given(SIZES, KERNELS, STEPS, STEPS)
def test_taps_read_every_window_of_the_padded_input(
    size: int, kernel: int, stride: int, dilation: int
) -> None:
    axis = resolve_axis("op", size, kernel, stride, dilation, "same")
    x = np.arange(1.0, size + 1).reshape(1, size, 1)
    padded = pad_input(x, [axis], -1.0)
    assert np.array_equal(crop(padded, [axis]), x)
    columns = [padded[where][0, :, 0] for _, where in taps([axis])]
    for place in range(axis.out):
        expected = [padded[0, place * stride + k * dilation, 0] for k in range(kernel)]
        assert [column[place] for column in columns] == expected


def test_a_padding_that_is_no_pair_is_refused() -> None:
    with pytest.raises(TypeRuleError, match=r"is \[before, after\], got 3"):
        resolve_axis("op", 5, 3, 1, 1, 3)
