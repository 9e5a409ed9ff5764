"""Every op of the table means what PyTorch says it means."""

import numpy as np
import pytest
from op_bench import ROUNDOFF, Case, run_op
from op_cases import CASES

from convc.ir.ops import OPS

EXACT = [case for case in CASES if OPS[case.op].exact]


def test_every_op_of_the_table_has_a_case() -> None:
    assert {case.op for case in CASES} == set(OPS)


def test_no_two_cases_are_the_same() -> None:
    names = [case.id for case in CASES]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_in_float64_an_op_agrees_with_torch(case: Case) -> None:
    """Both sides sum at most ``terms`` products, each rounded a few times.

    The bound is 64 roundings a term, relative to the largest result: the functions
    (exp, tanh, …) and the cancellations in x - mean take fewer.
    """
    arrays = case.arrays()
    found = run_op(case.op, case.types, arrays, batch=case.batch, **case.attrs)
    expected = case.expected(arrays)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype.kind == theirs.dtype.kind
        bound = 64 * (1 + case.terms) * ROUNDOFF * max(1.0, float(np.abs(theirs).max()))
        assert np.abs(ours.astype(float) - theirs.astype(float)).max() <= bound


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.id)
def test_on_small_integers_an_exact_op_has_no_rounding_in_float32(case: Case) -> None:
    arrays = case.arrays(integers=True)
    found = run_op(case.op, case.types, arrays, False, case.batch, **case.attrs)
    for ours, theirs in zip(found, case.expected(arrays), strict=True):
        assert ours.dtype.itemsize <= 4 or ours.dtype.kind == "i" or "f64" in case.id
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_costs_are_counted_without_running(case: Case) -> None:
    """FLOPs are zero or positive and do not shrink with the batch; bytes are moved."""
    op = OPS[case.op]
    full = op.check(case.tensors, case.attrs)
    results = op.infer(case.tensors, full)
    for batch in (1, 10):
        moved = sum(t.elements(batch) * t.dtype.itemsize for t in case.tensors)
        made = sum(t.elements(batch) * t.dtype.itemsize for t in results)
        assert op.nbytes(case.tensors, full, batch) == moved + made > 0
    one, ten = (op.flops(case.tensors, full, batch) for batch in (1, 10))
    assert 0 <= one <= ten
    one, ten = (op.reduction(case.tensors, full, batch) for batch in (1, 10))
    assert 1 <= one <= ten
