"""A comparison has all rows and cells, its totals and who is absent."""

from dataclasses import replace

from convc.comparing import Cell, Comparison, Row, totals
from convc.contenders import Job
from convc.directions import FORWARD, INPUT, WEIGHT

JOB = Job("strided", None, batch=6, threads=1, exact=False, lockfile=None)


def test_a_comparison_has_a_row_for_each_direction_and_says_who_is_absent() -> None:
    comparison = Comparison(JOB, ["numpy", "torch", "triton"], rounds=2)
    rows = list(comparison.rows())
    assert [(r.layer, r.direction) for r in rows] == [
        ("conv1", FORWARD),
        ("conv1", WEIGHT),
        ("logits", FORWARD),
        ("logits", INPUT),
        ("logits", WEIGHT),
    ]
    for row in rows:
        assert set(row.cells) == {"numpy", "torch"}
        ours, other = row.cells["numpy"], row.cells["torch"]
        assert ours.seconds is not None
        assert other.seconds is not None
        assert row.ratios["torch"] > 0
        assert row.roof is not None
        assert row.roof > 0
        assert not ours.wrong
        assert ours.choice
    assert list(comparison.absent) == ["triton"]
    assert set(totals(rows, ["numpy", "torch", "triton"])) == {"numpy", "torch"}


def test_what_a_backend_cannot_do_is_a_fault_of_its_cell_alone() -> None:
    """A transposed convolution is not written for PyTorch."""
    job = replace(JOB, model=f"{__file__}:growing", input_type="f32[N,8,8,1]")
    rows = list(Comparison(job, ["numpy", "torch"], rounds=1).rows())
    first = rows[0].cells
    assert "conv2d_input_grad" in first["torch"].fault
    assert first["numpy"].units is not None
    assert not first["numpy"].fault
    assert rows[-1].cells["torch"].units is not None


def growing(image):
    """Grows before it looks."""
    from convc import conv2d_transpose, dense, flatten

    x = conv2d_transpose(image, 2, 3, strides=2, name="grow")
    return dense(flatten(x), 10, name="logits")


def test_totals_are_of_those_that_have_every_row() -> None:
    def row(**seconds):
        cells = {k: Cell(0.1, s) for k, s in seconds.items()}
        return Row("a", (), FORWARD, 1, 1, cells, {})

    rows = [row(numpy=1.0, torch=2.0), row(numpy=3.0, torch=None)]
    assert totals(rows, ["numpy", "torch", "triton"]) == {"numpy": 4.0}


def test_a_cell_is_wrong_beyond_its_bound_and_for_nan() -> None:
    assert not Cell(1.0).wrong
    assert Cell(1.01).wrong
    assert Cell(float("nan")).wrong
    assert not Cell(fault="it is not written").wrong
