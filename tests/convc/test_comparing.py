"""Blocks are the layers of a step, their programs are right, and errors are found."""

from dataclasses import replace

import numpy as np
import pytest

from convc.comparing import (
    DIRECTIONS,
    FORWARD,
    INPUT,
    WEIGHT,
    Block,
    Cell,
    Comparison,
    Compiled,
    InTorch,
    Job,
    Row,
    blocks_of,
    totals,
    work_of,
    worst,
)
from convc.ir.errors import CompileError
from convc.ir.rounding import Bounds
from convc.ir.verifier import verify
from convc.model import Model
from convc.networks import built_in, load_network, two_conv
from convc.passes.samples import Samples

JOB = Job("strided", None, batch=6, threads=1, exact=False, lockfile=None)


def blocks(name: str) -> list[Block]:
    network, label = load_network(name)
    return list(blocks_of(Model(network, name=label)))


def test_blocks_are_the_layers_with_parameters_and_what_follows() -> None:
    found = [(b.layer, b.others, b.directions) for b in blocks("two_conv")]
    assert found == [
        ("conv1", ("pool1",), (FORWARD, WEIGHT)),
        ("conv2", ("pool2", "flatten"), DIRECTIONS),
        ("fc", ("dropout",), DIRECTIONS),
        ("logits", ("loss", "correct"), DIRECTIONS),
    ]


@pytest.mark.parametrize("name", built_in())
def test_every_direction_of_every_network_is_a_graph(name: str) -> None:
    """It verifies, has what it should, and reads no cotangent going forward."""
    for block in blocks(name):
        for direction in block.directions:
            graph = verify(block.graph(direction))
            given = {v.name for v in graph.inputs}
            if direction == FORWARD:
                assert not given & set(block.cotangents.values())
            else:
                assert set(dict(graph.outputs)) == set(block.gradients[direction])
                assert given & set(block.cotangents.values())
            assert work_of(block, direction, 4)[1] > 0


def test_directions_do_not_compute_what_the_forward_one_has_made() -> None:
    """The gradients of a convolution contain no convolution of the forward pass."""
    conv = blocks("two_conv")[1]
    ops = {d: [n.op for n in conv.graph(d).nodes] for d in DIRECTIONS}
    assert ops[FORWARD].count("conv2d") == 1
    assert "max_pool2d_argmax" in ops[FORWARD]
    assert "conv2d_input_grad" in ops[INPUT]
    assert "conv2d_filter_grad" in ops[WEIGHT]
    for direction in (INPUT, WEIGHT):
        assert "conv2d" not in ops[direction]
        assert "max_pool2d_argmax" not in ops[direction]


@pytest.mark.parametrize("kind", [Compiled, InTorch])
@pytest.mark.parametrize("name", ["strided", "fast", "ltfn5_average"])
def test_backends_are_within_their_bounds(kind: type, name: str) -> None:
    backend = "numpy" if kind is Compiled else "torch"
    contender = kind(replace(JOB, model=name), backend)
    for number, block in enumerate(contender.blocks):
        found = contender.ready(number)
        assert tuple(found) == block.directions
        assert all(0 <= units <= 1 for units, _ in found.values()), (block.layer, found)
        for direction in block.directions:
            assert contender.turn(direction) > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("mode", ["torch:channels_last", "torch:compile"])
def test_every_mode_of_torch_is_within_its_bounds(mode: str) -> None:
    contender = InTorch(JOB, mode)
    for number in range(len(contender.blocks)):
        assert all(units <= 1 for units, _ in contender.ready(number).values())


def test_interpreted_triton_is_compared_but_never_timed() -> None:
    job = replace(JOB, input_type="f32[N,8,8,1]", batch=2)
    contender = Compiled(job, "triton:interpret")
    found = contender.ready(0)
    assert all(units <= 1 for units, _ in found.values())
    assert contender.turn(FORWARD) is None


def test_a_wrong_kernel_is_beyond_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    contender = Compiled(JOB, "numpy")
    whole = contender._compiled
    block = contender.blocks[0]

    class Wrong:
        """Adds a little to what a program gives."""

        def __init__(self, program):
            self.program = program

        def __getattr__(self, name):
            return getattr(self.program, name)

        def __call__(self, **inputs):
            made = self.program(**inputs)
            return {k: a + np.float32(1) for k, a in made.items()}

    monkeypatch.setattr(contender, "_compiled", lambda graph: Wrong(whole(graph)))
    assert all(units > 1 for units, _ in contender.prepare(block).values())


def test_errors_are_in_units_of_their_bounds() -> None:
    def units(actual, reference, bound):
        arrays = (np.array(x, float) for x in (reference, bound))
        reference, bound = ({"y": a} for a in arrays)
        return worst({"y": np.array(actual)}, Bounds(reference, {}, bound, {}))

    assert units([1.0, 2.5], [1.0, 2.0], [0.0, 2.0]) == 0.25
    assert units([1.0, 2.5], [1.0, 2.0], [0.0, 0.0]) == np.inf
    assert units([np.nan], [1.0], [1.0]) == np.inf
    assert units([np.nan], [np.nan], [0.0]) == 0
    assert units([7.0], [1.0], [np.inf]) == 0


def test_the_work_of_a_direction_is_that_of_its_ops() -> None:
    conv = blocks("two_conv")[1]
    products = 2 * 14 * 14 * 25 * 32 * 64
    for direction in DIRECTIONS:
        flops, nbytes = work_of(conv, direction, 3)
        assert 3 * products <= flops <= 1.02 * 3 * products
        assert nbytes >= 4 * (25 * 32 * 64 + 3 * 14 * 14 * 32)


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


def test_exact_bars_transforms() -> None:
    job = replace(JOB, model="two_conv", batch=128)
    direct = Compiled(replace(job, exact=True), "numpy")
    transformed = Compiled(job, "numpy")
    conv = direct.blocks[1].graph(FORWARD)
    assert "dft" in transformed._choice(transformed._compiled(conv))
    assert "dft" not in direct._choice(direct._compiled(conv))


def test_an_absent_backend_says_why() -> None:
    with pytest.raises(CompileError, match="torch runs as"):
        InTorch(JOB, "torch:fast")


def test_samples_are_the_same_in_every_process() -> None:
    block = next(iter(blocks_of(Model(two_conv))))
    one, other = (Samples(whole=False, batch=2).of(block.joint)[0] for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)
