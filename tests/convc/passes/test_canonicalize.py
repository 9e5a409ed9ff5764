"""Canonicalization: each of its cases, before and after."""

import pytest
from pass_bench import graph_of, same, stage_after

from convc.passes.canonicalize import CANONICALIZE

CASES = {
    "1: a reshape to its own shape": (
        """
        graph g(%x: f32[N,4]) -> (y=%2) {
          %1 = reshape(%x) {shape=[N,4]} : f32[N,4]
          %2 = relu(%1) : f32[N,4]
        }
        """,
        """
        graph g(%x: f32[N,4]) -> (y=%2) {
          %2 = relu(%x) : f32[N,4]
        }
        """,
    ),
    "1: an output that is a reshape to its own shape": (
        """
        graph g(%x: f32[N,4]) -> (y=%1) {
          %1 = reshape(%x) {shape=[N,4]} : f32[N,4]
        }
        """,
        """
        graph g(%x: f32[N,4]) -> (y=%x) {
        }
        """,
    ),
    "1: moves that move nothing": (
        """
        graph g(%x: f32[N,2,2]) -> (y=%6) {
          %1 = transpose(%x) {perm=[0,1,2]} : f32[N,2,2]
          %2 = cast(%1) {dtype=f32} : f32[N,2,2]
          %3 = pad(%2) {pads=[0,0,0,0,0,0]} : f32[N,2,2]
          %4 = slice(%3) {axis=1, start=0, size=2} : f32[N,2,2]
          %5 = concat(%4) {axis=2} : f32[N,2,2]
          %6 = exp(%5) : f32[N,2,2]
        }
        """,
        """
        graph g(%x: f32[N,2,2]) -> (y=%6) {
          %6 = exp(%x) : f32[N,2,2]
        }
        """,
    ),
    "1: moves that move something, if only to a tensor of the same shape": (
        """
        graph g(%x: f32[N,2,2], %i: i32[N]) -> (y=%1, z=%2, u=%3) {
          %1 = transpose(%x) {perm=[0,2,1]} : f32[N,2,2]
          %2 = concat(%x, %x) {axis=2} : f32[N,2,4]
          %3 = cast(%i) {dtype=f32} : f32[N]
        }
        """,
        None,
    ),
    "2: a reshape of a reshape": (
        """
        graph g(%x: f32[N,2,6]) -> (y=%2, z=%3) {
          %1 = reshape(%x) {shape=[N,12]} : f32[N,12]   @ net.py:1 a
          %2 = reshape(%1) {shape=[N,3,4]} : f32[N,3,4]   @ net.py:2 b
          %3 = reshape(%2) {shape=[N,2,6]} : f32[N,2,6]   @ net.py:3 c
        }
        """,
        """
        graph g(%x: f32[N,2,6]) -> (y=%2, z=%x) {
          %2 = reshape(%x) {shape=[N,3,4]} : f32[N,3,4]   @ net.py:2 b
        }
        """,
    ),
    "2: two transposes are one": (
        """
        graph g(%x: f32[N,2,3,4]) -> (y=%2, z=%3) {
          %1 = transpose(%x) {perm=[0,2,3,1]} : f32[N,3,4,2]   @ net.py:1 a
          %2 = transpose(%1) {perm=[0,2,3,1]} : f32[N,4,2,3]   @ net.py:2 b
          %3 = transpose(%2) {perm=[0,2,3,1]} : f32[N,2,3,4]   @ net.py:3 c
        }
        """,
        """
        graph g(%x: f32[N,2,3,4]) -> (y=%2, z=%x) {
          %2 = transpose(%x) {perm=[0,3,1,2]} : f32[N,4,2,3]   @ net.py:2 b
        }
        """,
    ),
    "2: two pads are one, and two slices of one axis": (
        """
        graph g(%x: f32[N,5,5]) -> (y=%2, z=%4, u=%6) {
          %1 = pad(%x) {pads=[0,0,1,0,0,2]} : f32[N,6,7]
          %2 = pad(%1) {pads=[0,0,0,3,1,0]} : f32[N,9,8]
          %3 = slice(%x) {axis=1, start=1, size=3} : f32[N,3,5]
          %4 = slice(%3) {axis=1, start=2, size=1} : f32[N,1,5]
          %5 = slice(%x) {axis=2, start=1, size=3} : f32[N,5,3]
          %6 = slice(%5) {axis=1, start=2, size=1} : f32[N,1,3]
        }
        """,
        """
        graph g(%x: f32[N,5,5]) -> (y=%2, z=%4, u=%6) {
          %2 = pad(%x) {pads=[0,0,1,3,1,2]} : f32[N,9,8]
          %4 = slice(%x) {axis=1, start=3, size=1} : f32[N,1,5]
          %5 = slice(%x) {axis=2, start=1, size=3} : f32[N,5,3]
          %6 = slice(%5) {axis=1, start=2, size=1} : f32[N,1,3]
        }
        """,
    ),
    "3: neutral elements": (
        """
        graph g(%x: f32[N,4]) -> (y=%e) {
          %0 = constant() {value=0.0} : f32[]
          %1 = constant() {value=1.0} : f32[]
          %a = add(%x, %0) : f32[N,4]
          %b = multiply(%a, %1) : f32[N,4]
          %c = subtract(%b, %0) : f32[N,4]
          %d = divide(%c, %1) : f32[N,4]
          %e = negate(%d) : f32[N,4]
        }
        """,
        """
        graph g(%x: f32[N,4]) -> (y=%e) {
          %e = negate(%x) : f32[N,4]
        }
        """,
    ),
    "3: the constant may come first": (
        """
        graph g(%x: f32[N,4]) -> (y=%c, z=%d) {
          %0 = constant() {value=0.0} : f32[]
          %1 = constant() {value=1.0} : f32[]
          %a = multiply(%1, %x) : f32[N,4]
          %b = add(%0, %a) : f32[N,4]
          %c = subtract(%0, %b) : f32[N,4]
          %d = divide(%1, %b) : f32[N,4]
        }
        """,
        """
        graph g(%x: f32[N,4]) -> (y=%c, z=%d) {
          %0 = constant() {value=0.0} : f32[]
          %1 = constant() {value=1.0} : f32[]
          %c = subtract(%0, %x) : f32[N,4]
          %d = divide(%1, %x) : f32[N,4]
        }
        """,
    ),
    "3: the other constant is no neutral element": (
        """
        graph g(%x: f32[N,4]) -> (y=%d) {
          %0 = constant() {value=0.0} : f32[]
          %1 = constant() {value=1.0} : f32[]
          %a = add(%x, %1) : f32[N,4]
          %b = multiply(%a, %0) : f32[N,4]
          %c = subtract(%1, %b) : f32[N,4]
          %d = divide(%1, %c) : f32[N,4]
        }
        """,
        None,
    ),
    "4: a dropout that keeps everything": (
        """
        graph g(%x: f32[N,4]) -> (y=%1) {
          state %seed : i64[] = seed()
          state %step : i64[] = zeros()
          %m = dropout_mask(%seed, %step) {shape=[N,4], keep=1.0, stream=3} : bool[N,4]
          %1 = apply_mask(%x, %m) : f32[N,4]
        }
        """,
        """
        graph g(%x: f32[N,4]) -> (y=%x) {
        }
        """,
    ),
    "4: a dropout that keeps less stays": (
        """
        graph g(%x: f32[N,4]) -> (y=%1) {
          state %seed : i64[] = seed()
          state %step : i64[] = zeros()
          %m = dropout_mask(%seed, %step) {shape=[N,4], keep=0.5, stream=3} : bool[N,4]
          %1 = apply_mask(%x, %m) {scale=2.0} : f32[N,4]
        }
        """,
        None,
    ),
    "4: a dropout that keeps everything and scales it stays": (
        """
        graph g(%x: f32[N,4]) -> (y=%1) {
          state %seed : i64[] = seed()
          state %step : i64[] = zeros()
          %m = dropout_mask(%seed, %step) {shape=[N,4], keep=1.0, stream=3} : bool[N,4]
          %1 = apply_mask(%x, %m) {scale=2.0} : f32[N,4]
        }
        """,
        None,
    ),
    "5: common subexpressions, one after the other": (
        """
        graph g(%x: f32[N,4]) -> (y=%5, z=%4) {
          %1 = relu(%x) : f32[N,4]
          %2 = relu(%x) : f32[N,4]
          %3 = exp(%1) : f32[N,4]
          %4 = exp(%2) : f32[N,4]
          %5 = add(%3, %4) : f32[N,4]
        }
        """,
        """
        graph g(%x: f32[N,4]) -> (y=%5, z=%3) {
          %1 = relu(%x) : f32[N,4]
          %3 = exp(%1) : f32[N,4]
          %5 = add(%3, %3) : f32[N,4]
        }
        """,
    ),
    "5: other attributes make another node": (
        """
        graph g(%x: f32[N,4]) -> (y=%1, z=%2, u=%3, v=%4) {
          %0 = constant() {value=0.0} : f32[]
          %minus = constant() {value=-0.0} : f32[]
          %1 = reduce_sum(%x) {axes=[1]} : f32[N]
          %2 = reduce_sum(%x) {axes=[0]} : f32[4]
          %3 = divide(%x, %0) : f32[N,4]
          %4 = divide(%x, %minus) : f32[N,4]
        }
        """,
        None,
    ),
    "5: a sum and a product have no order, a difference has": (
        """
        graph g(%x: f32[N,4], %y: f32[N,4]) -> (p=%7) {
          %1 = add(%x, %y) : f32[N,4]
          %2 = add(%y, %x) : f32[N,4]
          %3 = multiply(%1, %2) : f32[N,4]
          %4 = subtract(%x, %y) : f32[N,4]
          %5 = subtract(%y, %x) : f32[N,4]
          %6 = multiply(%4, %5) : f32[N,4]
          %7 = multiply(%3, %6) : f32[N,4]
        }
        """,
        """
        graph g(%x: f32[N,4], %y: f32[N,4]) -> (p=%7) {
          %1 = add(%x, %y) : f32[N,4]
          %3 = multiply(%1, %1) : f32[N,4]
          %4 = subtract(%x, %y) : f32[N,4]
          %5 = subtract(%y, %x) : f32[N,4]
          %6 = multiply(%4, %5) : f32[N,4]
          %7 = multiply(%3, %6) : f32[N,4]
        }
        """,
    ),
    "5: which of two equals is the maximum decides who gets the gradient": (
        """
        graph g(%x: f32[N,4], %y: f32[N,4]) -> (u=%1, v=%2) {
          %1 = maximum(%x, %y) : f32[N,4]
          %2 = maximum(%y, %x) : f32[N,4]
        }
        """,
        None,
    ),
    "6: nodes and states that nobody reads": (
        """
        graph g(%x: f32[N,4], %unused: i32[N]) -> (y=%1) {
          param %w : f32[4] = zeros()
          state %old : f32[4] = zeros()
          state %count : i64[] = zeros()
          state %blind : i64[] = zeros()
          %1 = relu(%x) : f32[N,4]
          %2 = exp(%x) : f32[N,4]
          %3 = add(%2, %old) : f32[N,4]
          %one = constant() {value=1.0, dtype=i64} : i64[]
          %4 = add(%count, %one) : i64[]
          update %count = %4
          update %blind = %one
        }
        """,
        """
        graph g(%x: f32[N,4], %unused: i32[N]) -> (y=%1) {
          param %w : f32[4] = zeros()
          state %count : i64[] = zeros()
          state %blind : i64[] = zeros()
          %1 = relu(%x) : f32[N,4]
          %one = constant() {value=1.0, dtype=i64} : i64[]
          %4 = add(%count, %one) : i64[]
          update %count = %4
          update %blind = %one
        }
        """,
    ),
    "7: twice negated, and twice cut off at zero": (
        """
        graph g(%x: f32[N,4]) -> (y=%4) {
          %1 = negate(%x) : f32[N,4]
          %2 = negate(%1) : f32[N,4]
          %3 = relu(%2) : f32[N,4]
          %4 = relu(%3) : f32[N,4]
        }
        """,
        """
        graph g(%x: f32[N,4]) -> (y=%3) {
          %3 = relu(%x) : f32[N,4]
        }
        """,
    ),
    "7: other functions are not their own inverse": (
        """
        graph g(%x: f32[N,4]) -> (y=%2, z=%4) {
          %1 = tanh(%x) : f32[N,4]
          %2 = tanh(%1) : f32[N,4]
          %3 = relu(%x) : f32[N,4]
          %4 = negate(%3) : f32[N,4]
        }
        """,
        None,
    ),
    "8: a transpose that moves axes of length 1 only": (
        """
        graph g(%x: f32[N,3,1,5]) -> (y=%2) {
          %1 = transpose(%x) {perm=[0,2,1,3]} : f32[N,1,3,5]   @ net.py:1 a
          %2 = reshape(%1) {shape=[N,15]} : f32[N,15]   @ net.py:2 b
        }
        """,
        """
        graph g(%x: f32[N,3,1,5]) -> (y=%2) {
          %2 = reshape(%x) {shape=[N,15]} : f32[N,15]   @ net.py:2 b
        }
        """,
    ),
    "8: a transpose that exchanges longer ones": (
        """
        graph g(%x: f32[N,3,1,5]) -> (y=%1) {
          %1 = transpose(%x) {perm=[0,3,2,1]} : f32[N,5,1,3]
        }
        """,
        None,
    ),
    "9: constants are worked out": (
        """
        graph g(%x: f32[N,4]) -> (y=%5, z=%7, t=%8) {
          %1 = constant() {value=3.0} : f32[]
          %2 = constant() {value=0.5} : f32[]
          %3 = multiply(%1, %2) : f32[]   @ net.py:1 a
          %4 = sqrt(%3) : f32[]   @ net.py:2 b
          %5 = multiply(%x, %4) : f32[N,4]
          %6 = constant() {value=7.0, dtype=i64} : i64[]
          %7 = cast(%6) {dtype=f32} : f32[]
          %8 = equal(%1, %2) : bool[]
        }
        """,
        """
        graph g(%x: f32[N,4]) -> (y=%5, z=%7, t=%8) {
          %4 = constant() {value=1.224744871391589} : f32[]   @ net.py:2 b
          %5 = multiply(%x, %4) : f32[N,4]
          %7 = constant() {value=7.0} : f32[]
          %8 = constant() {value=0.0, dtype=bool} : bool[]
        }
        """,
    ),
    "9: nothing that has no end, no place, or two roundings": (
        """
        graph g(%x: f32[N,4]) -> (u=%1, v=%2, w=%3, t=%4) {
          %a = constant() {value=0.0} : f32[]
          %b = constant() {value=0.1} : f32[]
          %c = constant() {value=0.3} : f32[]
          %1 = log(%a) : f32[]
          %2 = reduce_mean_grad(%b) {shape=[3], axes=[0]} : f32[3]
          %3 = multiply(%b, %c) : f32[]
          %4 = add(%x, %b) : f32[N,4]
        }
        """,
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_case_of_canonicalization(case: str) -> None:
    """With check mode on; None means that nothing may change."""
    before, after = CASES[case]
    stage = stage_after(CANONICALIZE, of=before)
    assert same(stage.graph, after or before)


@pytest.mark.parametrize("case", CASES)
def test_a_second_time_changes_nothing(case: str) -> None:
    once = stage_after(CANONICALIZE, of=CASES[case][0]).graph
    assert stage_after(CANONICALIZE, of=once).graph == once


def test_a_node_that_stands_for_two_carries_the_origins_of_both() -> None:
    text = """
    graph g(%x: f32[N,4]) -> (y=%3) {
      %1 = relu(%x) : f32[N,4]   @ net.py:1 a
      %2 = relu(%x) : f32[N,4]   @ net.py:2 b
      %3 = add(%1, %2) : f32[N,4]
    }
    """
    graph = stage_after(CANONICALIZE, of=text).graph
    assert [str(loc) for loc in graph.nodes[0].locs] == ["net.py:1 a", "net.py:2 b"]


def test_an_update_of_a_state_outlives_its_readers() -> None:
    """A counter that only counts is needed: it is what the program leaves behind."""
    graph = graph_of(CASES["6: nodes and states that nobody reads"][0])
    kept = stage_after(CANONICALIZE, of=graph).graph
    assert [p.name for p, _ in kept.updates] == ["count", "blind"]


def test_the_sum_with_a_row_of_the_last_axis_adds_a_bias() -> None:
    """In either order; not where the row stands for anything else (case 10)."""
    text = """
    graph g(%x: f32[N,4], %n: f32[N]) -> (a=%1, b=%2, c=%3, d=%4) {
      param %w : f32[4,4] = ones()
      param %b : f32[4] = zeros()
      param %one : f32[1] = zeros()
      %1 = add(%x, %b) : f32[N,4]
      %2 = add(%b, %w) : f32[4,4]
      %3 = add(%x, %one) : f32[N,4]
      %4 = add(%b, %b) : f32[4]
    }
    """
    graph = stage_after(CANONICALIZE, of=text).graph
    assert [n.op for n in graph.nodes] == ["bias_add", "bias_add", "add", "add"]
    assert [v.name for v in graph.nodes[1].operands] == ["w", "b"]
