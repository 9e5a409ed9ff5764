"""What an emitted file launches is read from its text."""

import pytest

from convc.backends.gpu.launches import read_launches
from convc.ir.errors import CompileError

SOURCE = """
import triton

@triton.jit
def f(images, v_x, v_y):
    pass

LAUNCHES = [(f, 8, ("!images", "x", "y"), 4, 3)]
PLACES = {
    "!images": ("int32", 64, 1),
    "x": ("float32", 0, 8),
    "y": ("bfloat16", 40, 8),
}
"""


def test_a_launch_has_types_and_alignment_from_its_places() -> None:
    (launch,) = read_launches(SOURCE)
    assert launch.kernel == "f"
    assert (launch.programs, launch.pointers) == (8, ("!images", "x", "y"))
    machine = launch.machine
    assert dict(machine.signature) == {"images": "*i32", "v_x": "*fp32", "v_y": "*bf16"}
    assert machine.aligned == (0, 1)
    assert (machine.warps, machine.stages) == (4, 3)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("LAUNCHES", "OTHER", "it must have LAUNCHES and PLACES"),
        ("import", "import import", "invalid syntax"),
        ('"!images", "x", "y")', '"x", "y")', "takes 3 pointers, its launch has 2"),
        ("(f, 8", '("f", 8', r"a launch must be \(kernel, programs, …\)"),
    ],
)
def test_a_file_that_is_not_as_emitted_is_an_error(
    old: str, new: str, said: str
) -> None:
    with pytest.raises(CompileError, match=said):
        read_launches(SOURCE.replace(old, new, 1))
