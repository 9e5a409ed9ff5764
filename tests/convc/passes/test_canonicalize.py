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
    "3: a result wider than x is no identity": (
        """
        graph g(%x: f32[4], %one: f32[N,4]) -> (y=%b) {
          %1 = constant() {value=1.0} : f32[]
          %a = multiply(%1, %x) : f32[4]
          %b = add(%a, %one) : f32[N,4]
        }
        """,
        None,
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
