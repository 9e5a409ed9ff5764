"""A finding reads as a few lines, and its repro is short."""

from pass_bench import graph_of

from convc.trust.finding import LONGEST, Finding, line_of, script

TEXT = """
graph g(%x: f32[N,4]) -> (y=%1) {
  %1 = relu(%x) : f32[N,4]   @ net.py:1 a
}
"""


def test_it_says_what_and_where_and_why() -> None:
    full = Finding("pass", "fuse-conv", "relu", "net.py:1 a", "it is gone", "")
    assert str(full) == (
        "pass fuse-conv\n  op      relu\n  line    net.py:1 a\n  reason  it is gone"
    )
    bare = Finding("backend", "numpy", "", "", "it emits nothing", "")
    assert str(bare) == "backend numpy\n  reason  it emits nothing"


def test_a_line_is_the_users_first() -> None:
    graph = graph_of(TEXT)
    assert line_of(graph.nodes[0]) == "net.py:1 a"
    assert line_of(None) == ""


def test_a_script_has_the_graph_if_it_is_short_enough() -> None:
    graph = graph_of(TEXT)
    short = script(graph, "print(parse(PROGRAM))\n", "otherwise")
    scope: dict[str, object] = {}
    exec(short.replace("print(", "graph = ("), scope)
    assert scope["graph"] == graph
    long = "print()\n" * LONGEST
    assert script(graph, long, "otherwise") == "otherwise"
    assert script(None, "", "otherwise") == "otherwise"
