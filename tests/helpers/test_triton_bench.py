"""The bench finds what is planted: stray accesses, races, gaps in outputs, rounding."""

from textwrap import dedent

import numpy as np
import pytest
import torch
from triton_bench import Interpreted, checked_run, interpreted
from triton_memory import Fault
from triton_numbers import from_bf16, to_bf16, to_tf32

from convc.backends.gpu.prelude import runner

SHELL = '''"""A program of one kernel."""
import torch
import triton
import triton.language as tl

BATCH = 4
ARENA_BYTES = 4096
{kernels}
LAUNCHES = {launches}
LAUNCHES_OF = {launches_of}
PLACES = {{"!images": ("int32", 4032, 1), "!counter": ("int32", 4036, 1), {places}}}
ARRAYS = {arrays}
'''
VECTORS = {
    "x": ("float32", 0, 64),
    "y": ("float32", 256, 64),
    "z": ("float32", 512, 64),
}


def program_of(
    *kernels: str,
    places: dict[str, tuple[str, int, int]] = VECTORS,
    outputs: tuple[str, ...] = ("y",),
    programs: int = 2,
    launches_of: list[int] | None = None,
) -> Interpreted:
    """A program that launches each kernel once; places are 64 elements, 16 an image."""
    text, launches = "", []
    for number, body in enumerate(kernels):
        head, _, rest = dedent(body).strip().partition("\n")
        names = [name.strip() for name in head.strip("():").split(",")]
        lines = "\n".join(f"    {line}" for line in rest.splitlines())
        text += f"\n@triton.jit\ndef k{number}({', '.join(names)}):\n{lines}\n"
        pointers = tuple({"n": "!images", "c": "!counter"}.get(p, p) for p in names)
        launches.append(f"(k{number}, {programs}, {pointers}, 4, 1)")
    source = SHELL.format(
        kernels=text,
        launches=f"[{', '.join(launches)}]",
        launches_of=launches_of or [1] * len(kernels),
        places=str(places).strip("{}"),
        arrays={
            ("-> " if name in outputs else "") + name: (name, (None, count // 4))
            for name, (_, _, count) in places.items()
        },
    ) + runner(text)
    return interpreted(source)


COPY = """
(n, x, y):
i = tl.program_id(0) * 32 + tl.arange(0, 32)
valid = i < tl.load(n) * 16
tl.store(y + i, tl.load(x + i, mask=valid, other=0.0) + 1.0, mask=valid)
"""


def test_a_clean_launch_passes_and_its_bytes_are_counted() -> None:
    program = program_of(COPY)
    program.array("x")[...] = np.arange(64).reshape(4, 16)
    (traffic,) = checked_run(program, 3)
    assert (traffic.kernel, traffic.programs) == ("k0", 2)
    assert (traffic.loaded, traffic.stored) == (2 * 4 + 48 * 4, 48 * 4)
    assert np.array_equal(program.array("-> y", 3), program.array("x", 3) + 1)
    assert np.isnan(program.array("-> y")[3]).all()


PLANTED = {
    "a load outside": (
        COPY.replace("load(x + i,", "load(x + i + 1,").replace("* 16", "* 16 + 0"),
        r"k0, program 1: loads 1 of 32 elements \(one at byte 256\) outside the 256 b",
    ),
    "a store outside": (
        COPY.replace("store(y + i", "store(y + i - 1"),
        r"k0, program 0: stores to 1 of 32 elements \(one at byte -4\) outside",
    ),
    "an unmasked tail": (
        COPY.replace("* 32 +", "* 48 +").replace(
            "x + i, mask=valid, other=0.0", "x + i"
        ),
        r"k0, program 1: loads 16 of 32 elements \(one at byte 256\) outside",
    ),
    "a read of a neighbour": (
        (
            "(n, x, y, z):\n"
            "i = tl.program_id(0) * 32 + tl.arange(0, 32)\n"
            "tl.store(y + i, tl.load(x + 64 + i) + tl.load(z + i) + tl.load(n))"
        ),
        r"k0, program 0: loads 32 of 32 elements .* of x \(place 'x'\)",
    ),
    "one element twice in a store": (
        (
            "(n, x, y):\n"
            "i = tl.program_id(0) * 32 + tl.arange(0, 32)\n"
            "tl.store(y + i // 2, tl.load(x + i) + tl.load(n))"
        ),
        r"k0, program 0: stores twice in one go to an element of y \(place 'y'\)",
    ),
    "one element from two programs": (
        COPY.replace("store(y + i", "store(y + i % 32"),
        r"k0, program 1: stores to what program 0 has stored, in y",
    ),
    "a load of what another stores": (
        (
            "(n, x, y):\n"
            "i = tl.program_id(0) * 32 + tl.arange(0, 32)\n"
            "tl.store(y + i, tl.load(x + i) + tl.load(n))\n"
            "tl.store(x + i, tl.load(y + 31 - tl.arange(0, 32)))"
        ),
        r"k0, program 1: loads what program 0 has stored, in y",
    ),
    "a store to what another has loaded": (
        (
            "(n, x, y):\n"
            "i = tl.program_id(0) * 32 + tl.arange(0, 32)\n"
            "tl.store(y + i, tl.load(x + 63 - i) + tl.load(n))\n"
            "if tl.program_id(0) == 1:\n"
            "    tl.store(x + i, 0.0)"
        ),
        r"k0, program 1: stores to what program 0 has loaded, in x",
    ),
    "a store to what all have loaded": (
        (
            "(n, x, y):\n"
            "i = tl.program_id(0) * 32 + tl.arange(0, 32)\n"
            "tl.store(y + i, tl.load(x + tl.arange(0, 32)) + tl.load(n))\n"
            "if tl.program_id(0) == 1:\n"
            "    tl.store(x, 0.0)"
        ),
        r"k0, program 1: stores to what another has loaded, in x",
    ),
    "an atomic sum of floats": (
        "(n, x, y):\ntl.atomic_add(y, tl.load(x) + tl.load(n))",
        r"k0, program 0: is atomic on other than i32 in y",
    ),
    "an argument for nothing": (
        COPY.replace("(n, x, y)", "(n, x, y, z)"),
        r"k0 never touches z \(place 'z'\)",
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_the_watch_finds(what: str) -> None:
    kernel, message = PLANTED[what]
    with pytest.raises(Fault, match=message):
        checked_run(program_of(kernel))


def test_a_race_is_one_of_bytes_whatever_the_places_are_called() -> None:
    """A result on an operand's bytes may replace the program's own elements only."""
    places = {"x": ("float32", 0, 64), "y": ("float32", 0, 64)}
    program = program_of(COPY, places=places)
    program.array("x")[...] = 1
    checked_run(program)
    assert (program.array("-> y") == 2).all()
    crossed = COPY.replace("load(x + i,", "load(x + 63 - i,")
    with pytest.raises(Fault, match="program 1: loads what program 0 has stored, in x"):
        checked_run(program_of(crossed, places=places))


ARRIVE = """
(n, c, x, y):
i = tl.program_id(0) * 16 + tl.arange(0, 16)
tl.store(y + i, tl.load(x + i % 16) + tl.load(n))
last = tl.atomic_add(c, 1) == LAST
if last:
    tl.store(x + tl.arange(0, 16), 0.0)
"""


def test_the_last_program_to_arrive_may_replace_what_all_have_read() -> None:
    program = program_of(ARRIVE.replace("LAST", "3"), programs=4)
    program.array("x")[...] = 1
    checked_run(program)
    assert program.program.at("!counter").item() == 4
    assert (program.array("x")[0] == 0).all()
    assert (program.array("-> y") == 5).all()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (
            ARRIVE.replace("LAST", "2"),
            "program 3: loads what program 2 has stored, in x",
        ),
        (
            ARRIVE.replace("LAST", "3") + "else:\n    tl.store(y, tl.load(x))\n",
            "program 1: stores to what program 0 has stored, in y",
        ),
        (
            ARRIVE.replace("LAST", "3") + "else:\n    tl.store(y + i, tl.load(x))\n",
            "program 3: stores to what another has loaded, in x",
        ),
    ],
)
def test_who_is_not_the_last_to_arrive_may_not(kernel: str, message: str) -> None:
    with pytest.raises(Fault, match=message):
        checked_run(program_of(kernel, programs=4))


def test_what_a_launch_forgets_to_write_is_nan() -> None:
    """Also where another value lay in these bytes before."""
    short = COPY.replace("y", "z").replace("* 16\n", "* 16 - 1\n")
    places = {"x": ("float32", 0, 64), "y": ("float32", 256, 64)}
    places["z"] = places["y"]
    program = program_of(COPY, short, places=places, outputs=("y", "z"))
    checked_run(program)
    found = program.array("-> z").ravel()
    assert np.isnan(found[63])
    assert not np.isnan(found[:63]).any()


def test_a_program_that_reads_what_nobody_wrote_reads_nan() -> None:
    program = program_of(COPY, outputs=("x", "y", "z"))
    program.array("-> x")[...] = 1
    checked_run(program)
    assert np.isnan(program.array("-> y")).all()


def test_the_launches_of_one_kernel_may_write_a_part_each() -> None:
    """As those for the phases of a strided gradient do; two kernels may not."""
    half = """
    (n, x, y):
    i = tl.program_id(0) * 16 + tl.arange(0, 16) + HALF
    tl.store(y + i, tl.load(x + i) + tl.load(n))
    """
    parts = half.replace("HALF", "0"), half.replace("HALF", "32")
    whole = program_of(*parts, launches_of=[2])
    checked_run(whole)
    assert not np.isnan(whole.array("-> y")).any()
    two = program_of(*parts)
    checked_run(two)
    assert np.isnan(two.array("-> y")[:2]).all()


def test_an_error_in_a_kernel_is_shown_as_it_is() -> None:
    program = program_of(COPY.replace("arange(0, 32)", "arange(0, 33)"))
    with pytest.raises(ValueError, match="power of 2"):
        checked_run(program)
    checked_run(program_of(COPY))  # and the interpreter is as it was


# -- numbers


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    """Halfway cases go to the even neighbour, as torch has it."""
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2**32, 4096, dtype=np.uint32).view(np.float32)
    halves = (np.arange(0x3F80, 0x3FC0, dtype=np.uint32) << 16 | 0x8000).view(
        np.float32
    )
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-40], np.float32)
    values = np.concatenate([values, halves, special])
    theirs = torch.from_numpy(values).bfloat16().float().numpy()
    assert np.array_equal(from_bf16(to_bf16(values)), theirs, equal_nan=True)


def test_tf32_keeps_ten_bits_and_never_rounds_up() -> None:
    values = np.array([1 + 2**-10, 1 + 2**-10 + 2**-11, 1 + 2**-11, -1.75], np.float32)
    assert to_tf32(values).tolist() == [1 + 2**-10, 1 + 2**-10, 1, -1.75]


DOT = """
(n, x, w, y):
i = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
total = tl.dot(tl.load(x + i), tl.load(w + i), PRECISION)
tl.store(y + i, total + 0 * tl.load(n))
"""


def dot(dtype: str, precision: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both operands as float64, and the product that the kernel has stored."""
    size = 2 if dtype == "bfloat16" else 4
    places = {
        "x": (dtype, 0, 256),
        "w": (dtype, 256 * size, 256),
        "y": ("float32", 2048, 256),
    }
    program = program_of(DOT.replace("PRECISION", precision), places=places, programs=1)
    generator = torch.Generator().manual_seed(1)
    for name in ("x", "w"):
        drawn = torch.randn(256, generator=generator)
        program.program.at(name).copy_(drawn.to(getattr(torch, dtype)))
    checked_run(program)
    x, w = (program.program.at(k).double().numpy().reshape(16, 16) for k in "xw")
    return x, w, program.array("-> y").reshape(16, 16)


def test_a_product_of_bfloat16_multiplies_what_the_bits_mean() -> None:
    """The operands are exact, and so are their products in float32: sums round."""
    x, w, found = dot("bfloat16", "")
    bound = 16 * 2.0**-24 * (np.abs(x) @ np.abs(w))
    assert (np.abs(found - x @ w) <= bound).all()


def test_tf32_is_less_exact_than_ieee_and_within_its_bound() -> None:
    """Each operand loses less than 2**-10 of itself, one way only."""
    for precision, unit in (("'ieee'", 0.0), ("'tf32'", 2.0**-10)):
        x, w, found = dot("float32", f"input_precision={precision}")
        size = np.abs(x) @ np.abs(w)
        error = np.abs(found - x @ w)
        assert (error <= (2 * unit + unit**2 + 17 * 2.0**-24) * size).all()
    assert (error > 17 * 2.0**-24 * size).any()


@pytest.mark.parametrize("to", ["bfloat16", "float16"])
def test_a_store_of_half_precision_rounds_to_nearest(to: str) -> None:
    places = {"x": ("float32", 0, 64), "y": (to, 256, 64)}
    program = program_of(COPY.replace(" + 1.0", ""), places=places)
    program.array("x")[...] = np.linspace(-3, 3, 64, dtype=np.float32).reshape(4, 16)
    checked_run(program)
    expected = program.program.at("x").to(getattr(torch, to))
    assert torch.equal(program.program.at("y"), expected)


def test_arithmetic_on_bfloat16_is_refused() -> None:
    """The interpreter would work on the bits."""
    places = {"x": ("bfloat16", 0, 64), "y": ("bfloat16", 256, 64)}
    double = """
    (n, x, y):
    i = tl.program_id(0) * 32 + tl.arange(0, 32)
    v = tl.load(x + i)
    tl.store(y + i, tl.where(tl.load(n) > 0, v + v, v))
    """
    with pytest.raises(TypeError, match="arithmetic on bfloat16: convert to float32"):
        checked_run(program_of(double, places=places))
    wide = double.replace("load(x + i)", "load(x + i).to(tl.float32)")
    checked_run(program_of(wide, places=places))
