"""A backend on a block is within its bounds, or is found out."""

from dataclasses import replace

import numpy as np
import pytest

from convc.contenders import Compiled, InTorch, Job, worst
from convc.directions import FORWARD
from convc.ir.errors import CompileError
from convc.ir.rounding import Bounds

JOB = Job("strided", None, batch=6, threads=1, exact=False, lockfile=None)


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


def test_channels_last_is_within_its_bounds() -> None:
    contender = InTorch(JOB, "torch:channels_last")
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
