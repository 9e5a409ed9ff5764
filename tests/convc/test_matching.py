"""An op is known again in a kernel, under another name, and after small changes."""

from pass_bench import graph_of

from convc.matching import Match, match, ops_of

BASE = """
graph g(%x: f32[N,4], %t: f32[N,4]) -> (y=%4) {
  %1 = exp(%x) : f32[N,4]   @ net.py:1 a
  %2 = relu(%1) : f32[N,4]   @ net.py:2 b
  %3 = relu(%t) : f32[N,4]   @ net.py:3 c
  %4 = add(%2, %3) : f32[N,4]   @ net.py:4 d
}
"""


def found(before: str, after: str) -> tuple[dict[str, str], dict[str, str], Match]:
    """Pairs and copies by title, new to old."""
    m = match(graph_of(before), graph_of(after))
    old, new = m.old.items, m.new.items
    pairs = {new[a].title: old[b].title for a, b in m.pairs.items()}
    return pairs, {new[a].title: old[b].title for a, b in m.copies.items()}, m


def test_ops_are_seen_through_kernels() -> None:
    kernel = """
    graph g(%x: f32[N,4]) -> (y=%b) stage kernel {
      %b = kernel k(%x) : f32[N,4] {
        %a = exp(%0) : f32[N,4]
        %b = relu(%a) : f32[N,4]
        yield %b
      }
    }
    """
    ops = ops_of(graph_of(kernel))
    assert [item.title for item in ops.items] == ["exp %a of k", "relu %b"]
    assert [item.operands for item in ops.items] == [("x",), ((0, 0),)]
    assert ops.refs == {"x": "x", "b": (1, 0)}
    assert [ops.say(ref) for ref in ("x", (0, 0), (1, 0), None)] == [
        *("%x", "exp %a of k", "relu %b", ""),
    ]


def test_the_same_computation_is_the_same_op_whatever_its_name_and_line() -> None:
    after = (
        BASE.replace("%1 ", "%9 ").replace("(%1)", "(%9)").replace("net.py:1", "a:5")
    )
    pairs, copies, _ = found(BASE, after)
    assert pairs["exp %9"] == "exp %1"
    assert len(pairs) == 4
    assert not copies


def test_of_two_that_compute_the_same_the_one_of_that_name_is_meant() -> None:
    twice = BASE.replace("relu(%t)", "relu(%1)")
    pairs, _, _ = found(twice, twice)
    assert all(new == old for new, old in pairs.items())


def test_what_reads_something_else_is_known_by_name_and_line() -> None:
    """And those behind it are the same as before: they read the same op."""
    pairs, _, m = found(BASE, BASE.replace("relu(%1)", "relu(%x)"))
    assert pairs["relu %2"] == "relu %2"
    assert pairs["add %4"] == "add %4"
    assert list(m.gone()) == []
    assert m.same((3, 0), (3, 0))
    assert m.same("x", "x")
    assert not m.same("x", "t")


def test_a_name_alone_does_not_make_an_op_the_same() -> None:
    """With other numbers %2 may be another relu: the line decides."""
    after = """
    graph g(%x: f32[N,4], %t: f32[N,4]) -> (y=%4) {
      %3 = relu(%x) : f32[N,4]   @ net.py:2 b
      %2 = relu(%x) : f32[N,4]   @ net.py:3 c
      %4 = add(%3, %2) : f32[N,4]   @ net.py:4 d
    }
    """
    pairs, _, _ = found(BASE, after)
    assert pairs["relu %3"] == "relu %2"
    assert pairs["relu %2"] == "relu %3"


def test_an_op_computed_once_more_is_a_copy() -> None:
    after = BASE.replace("add(%2, %3)", "add(%2, %5)").replace(
        "  %4 =", "  %5 = relu(%t) : f32[N,4]   @ net.py:3 c\n  %4 ="
    )
    pairs, copies, _ = found(BASE, after)
    assert pairs["relu %3"] == "relu %3"
    assert copies == {"relu %5": "relu %3"}


def test_minus_zero_is_another_constant_than_zero() -> None:
    """They are equal as numbers and do not compute the same."""
    text = """
    graph g() -> (y=%1) {
      %1 = constant() {value=0.0} : f32[]   @ net.py:1
    }
    """
    _, copies, m = found(text, text.replace("0.0", "-0.0").replace("net.py", "b.py"))
    assert (m.pairs, copies) == ({}, {})
