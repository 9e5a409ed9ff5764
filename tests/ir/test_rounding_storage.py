"""16 bits and tf32 lose what their formats say: no less is allowed, and no more."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from convc.ir.graph import Graph
from convc.ir.interpreter import Result, interpret
from convc.ir.parser import parse
from convc.ir.rounding import Bounds, bounded
from convc.ir.rounding_base import DOUBLE
from convc.ir.types import DType

F32 = NDArray[np.float32]
BITS = {"bf16": 8, "f16": 11}
CHOOSING = ("relu", "negate", "copy") * 7
FLOATS = st.floats(-60000, 60000, width=32)


def graph(body: str, x: str = "f32[4]", w: str = "f32[4]") -> Graph:
    return parse(f"graph g(%x: {x}, %w: {w}) -> (y=%y) {{\n{body}\n}}")


def product(dtype: str, attrs: str = "", result: str = "") -> Graph:
    types = f"{dtype}[3,64]", f"{dtype}[64,5]"
    body = f"  %y = matmul(%x, %w) {{{attrs}}} : {result or dtype}[3,5]"
    return graph(body.replace(" {}", ""), *types)


def chopped(a: F32, bits: int) -> F32:
    """``a`` with only its first ``bits`` significant bits, the rest cut off."""
    mantissa, exponent = np.frexp(a.astype(np.float64))
    cut = np.ldexp(np.trunc(np.ldexp(mantissa, bits)), exponent - bits)
    return np.asarray(cut, np.float32)


def faults(bounds: Bounds, y: NDArray[np.generic]) -> list[str]:
    return bounds.faults(Result({"y": y}, {}))


def drawn(*shape: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(
    x=st.lists(FLOATS, min_size=4, max_size=4), half=st.sampled_from(["bf16", "f16"])
)
def test_a_cast_of_a_known_number_loses_what_it_loses(
    x: list[float], half: str
) -> None:
    """The bound is the distance to the nearest, so cutting off is caught."""
    feeds = {"x": np.array(x, np.float32), "w": np.zeros(4, np.float32)}
    cast = graph(f"  %y = cast(%x) {{dtype={half}}} : {half}[4]")
    bounds, nearest = bounded(cast, feeds, {}), interpret(cast, feeds, {}).outputs["y"]
    lost = np.abs(feeds["x"].astype(np.float64) - nearest.astype(np.float64))
    np.testing.assert_array_equal(bounds.output_bounds["y"], lost)
    assert not faults(bounds, nearest)
    cut = chopped(feeds["x"], BITS[half])
    farther = np.abs(cut.astype(np.float64) - feeds["x"]) > lost
    assert bool(faults(bounds, cut)) == farther.any()


@pytest.mark.parametrize("half", BITS)
def test_what_is_stored_already_is_not_rounded_again(half: str) -> None:
    """Ops that choose among elements add nothing to the one rounding before them."""
    first = f"  %0 = add(%x, %w) : {half}[4]"
    chain = [f"  %{i + 1} = {op}(%{i}) : {half}[4]" for i, op in enumerate(CHOOSING)]
    feeds = {k: drawn(4, seed=i).astype(DType(half).numpy) for i, k in enumerate("xw")}
    alone, followed = (
        parse(f"graph g(%x: {half}[4], %w: {half}[4]) -> (y=%{last}) {{\n{body}\n}}")
        for last, body in ((0, first), (len(chain), "\n".join((first, *chain))))
    )
    once, then = (bounded(g, feeds, {}).output_bounds["y"] for g in (alone, followed))
    assert once.any()
    assert (then <= once).all()


def test_numbers_beyond_f16_are_unknown() -> None:
    feeds = {
        "x": np.array([65519, 65520, -1e6, np.inf], np.float32),
        "w": np.zeros(4, np.float32),
    }
    cast = graph("  %y = cast(%x) {dtype=f16} : f16[4]")
    bounds = bounded(cast, feeds, {})
    assert np.isinf(bounds.output_bounds["y"]).tolist() == [False, True, True, False]
    assert not faults(bounds, interpret(cast, feeds, {}).outputs["y"])


def test_f16_keeps_subnormal_numbers_and_loses_those_below() -> None:
    feeds = {
        "x": np.array([2.0**-24, 2.0**-26, 1.5 * 2.0**-24, 0], np.float32),
        "w": np.zeros(4, np.float32),
    }
    bounds = bounded(graph("  %y = cast(%x) {dtype=f16} : f16[4]"), feeds, {})
    assert bounds.output_bounds["y"].tolist() == [0, 2.0**-26, 2.0**-25, 0]


@pytest.mark.parametrize("half", BITS)
def test_a_product_accumulates_in_float32_and_rounds_once(half: str) -> None:
    """A sum that is rounded to 16 bits term by term is out of bounds."""
    kind = DType(half).numpy
    feeds = {
        "x": np.abs(drawn(3, 64)).astype(kind),
        "w": np.abs(drawn(64, 5, seed=1)).astype(kind),
    }
    bounds = bounded(product(half), feeds, {})
    assert not faults(bounds, interpret(product(half), feeds, {}).outputs["y"])
    total = np.zeros((3, 5), kind)
    for k in range(64):
        total = total + feeds["x"][:, k : k + 1] * feeds["w"][k : k + 1]
    assert faults(bounds, total)


@pytest.mark.parametrize("half", BITS)
def test_a_sum_that_stays_f32_is_not_rounded(half: str) -> None:
    kind = DType(half).numpy
    feeds = {"x": drawn(3, 64).astype(kind), "w": drawn(64, 5, seed=1).astype(kind)}
    kept, stored = product(half, "out=f32", "f32"), product(half)
    bounds = bounded(kept, feeds, {})
    y = interpret(kept, feeds, {}).outputs["y"]
    assert y.dtype == np.float32
    assert not faults(bounds, y)
    assert faults(bounds, interpret(stored, feeds, {}).outputs["y"])


@pytest.mark.parametrize("seed", range(10))
def test_tf32_may_cut_off_the_last_13_bits(seed: int) -> None:
    """And no more; without being asked for by name nothing may be cut off."""
    feeds = {"x": np.abs(drawn(3, 64, seed=seed)), "w": np.abs(drawn(64, 5, seed=99))}
    exact, loose = (
        bounded(product("f32", attrs), feeds, {}) for attrs in ("", "precision=tf32")
    )
    by_bits = {
        bits: chopped(feeds["x"], bits) @ chopped(feeds["w"], bits)
        for bits in (24, 11, 9)
    }
    assert not faults(loose, by_bits[24])
    assert not faults(loose, by_bits[11])
    assert faults(exact, by_bits[11])
    assert faults(loose, by_bits[9])


def test_numbers_of_11_bits_are_exact_in_tf32() -> None:
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.integers(-1023, 1024, (3, 64)).astype(np.float32),
        "w": rng.integers(-7, 8, (64, 5)).astype(np.float32),
    }
    bounds = bounded(product("f32", "precision=tf32"), feeds, {})
    assert not bounds.output_bounds["y"].any()


@pytest.mark.parametrize("half", BITS)
def test_float64_runs_are_bounded_as_if_nothing_were_stored(half: str) -> None:
    """The way to compare two graphs: casts are the identity there."""
    feeds = {"x": drawn(3, 64), "w": drawn(64, 5, seed=1)}
    low, high = (
        interpret(product(dtype), feeds, {}, float64=True).outputs["y"]
        for dtype in (half, "f32")
    )
    np.testing.assert_array_equal(low, high)
    of_low, of_high = (
        bounded(product(dtype), feeds, {}, unit=DOUBLE).output_bounds["y"]
        for dtype in (half, "f32")
    )
    np.testing.assert_array_equal(of_low, of_high)
