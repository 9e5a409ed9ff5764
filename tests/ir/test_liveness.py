"""What lies where and for how long, on graphs small enough to count by hand."""

import pytest
from ir_samples import KERNEL, PLANNED, TENSOR

from convc.ir.graph import Graph
from convc.ir.liveness import alive, homes, in_place, lives, takeovers
from convc.ir.parser import parse

TEXT = """\
graph g(%x: f32[N,4]) -> (y=%e) stage kernel {
  param %w : f32[4,4] = zeros()
  %a = kernel one(%x, %w) : f32[N,4] {
    %p = matmul(%0, %1) : f32[N,4]
    yield %p
  }
  %b = kernel two(%a) : f32[N,4] {
    %p = exp(%0) : f32[N,4]
    yield %p
  }
  %c = reshape(%b) {shape=[N,2,2]} : f32[N,2,2]
  %d = kernel three(%w) : f32[4,4] {
    %p = negate(%0) : f32[4,4]
    yield %p
  }
  %e = kernel four(%c) : f32[N,2,2] {
    %p = tanh(%0) : f32[N,2,2]
    %q = negate(%p) : f32[N,2,2]
    yield %q
  }
  update %w = %d
}
"""
GRAPH = parse(TEXT)


def test_a_view_lies_on_its_source_and_an_update_on_its_parameter() -> None:
    own = {name: name for name in "xwabe"}
    assert homes(GRAPH) == {**own, "c": "b", "d": "w"}


def test_memory_lives_from_its_first_launch_to_its_last() -> None:
    assert lives(GRAPH) == {
        "x": (0, 5),  # inputs and parameters: always
        "w": (0, 5),
        "a": (0, 1),
        "b": (1, 4),  # until its view is read
        "e": (4, 5),  # an output until the end
    }


def test_a_result_may_take_over_what_is_read_for_the_last_time() -> None:
    assert takeovers(GRAPH) == {1: ((0, 0),), 4: ((0, 0),)}


def test_what_is_read_by_two_names_is_taken_over_by_neither() -> None:
    """One is a view of the other, and the body may still read it there."""
    text = TEXT.replace("four(%c) ", "four(%c, %f) ").replace(
        "  %d =", "  %f = reshape(%b) {shape=[N,2,2]} : f32[N,2,2]\n  %d ="
    )
    assert takeovers(parse(text)) == {1: ((0, 0),)}


@pytest.mark.parametrize(("batch", "row"), [(1, 16), (3, 48)])
def test_the_bytes_alive_at_each_launch(batch: int, row: int) -> None:
    """The input, 64 bytes of weights, and one value at a time: each takes over."""
    with_a = row + 64 + row
    expected = [with_a + 100, with_a, with_a, with_a, with_a, with_a]
    assert alive(GRAPH, batch, {"a": 100}) == expected


def kernel(body: str, types: str = "f32[N,4]", operands: str = "%x, %y") -> Graph:
    text = (
        "graph g(%x: f32[N,4], %y: f32[N,4], %m: bool[N,4], %s: f32[1,4]) -> ()"
        f" stage kernel {{\n  {'%a, %b' if ', f' in types else '%a'} = kernel k("
        f"{operands}) : {types} {{\n{body}  }}\n}}\n"
    )
    return parse(text)


@pytest.mark.parametrize(
    ("body", "pairs"),
    [
        ("%p = add(%0, %1) : f32[N,4]\nyield %p\n", ((0, 0), (1, 0))),
        ("%p = multiply(%0, %0) : f32[N,4]\nyield %p\n", ((0, 0),)),
        # along a chain, but not once another op reads the operand too
        (
            "%p = exp(%0) : f32[N,4]\n%q = add(%p, %1) : f32[N,4]\nyield %q\n",
            ((0, 0), (1, 0)),
        ),
        ("%p = exp(%0) : f32[N,4]\n%q = add(%p, %0) : f32[N,4]\nyield %q\n", ()),
        # a row of the result needs the whole row
        ("%p = softmax(%0) : f32[N,4]\nyield %p\n", ()),
        ("%p = softmax(%0) : f32[N,4]\n%q = exp(%p) : f32[N,4]\nyield %q\n", ()),
    ],
)
def test_elementwise_ops_work_in_place(
    body: str, pairs: tuple[tuple[int, int], ...]
) -> None:
    assert in_place(kernel(body).nodes[0]) == pairs


def test_a_broadcast_or_smaller_operand_is_not_replaced() -> None:
    body = "%p = add(%0, %1) : f32[N,4]\nyield %p\n"
    assert in_place(kernel(body, operands="%x, %s").nodes[0]) == ((0, 0),)
    body = "%p = apply_mask(%0, %1) : f32[N,4]\nyield %p\n"
    assert in_place(kernel(body, operands="%x, %m").nodes[0]) == ((0, 0),)
    body = "%p = greater_equal(%0, %1) : bool[N,4]\nyield %p\n"
    assert in_place(kernel(body, "bool[N,4]").nodes[0]) == ()


def test_each_result_has_its_own_operands() -> None:
    body = (
        "%p = exp(%0) : f32[N,4]\n%q = negate(%p) : f32[N,4]\n"
        "%r = log(%1) : f32[N,4]\nyield %q, %r\n"
    )
    both = kernel(body, "f32[N,4], f32[N,4]").nodes[0]
    assert in_place(both) == ((0, 0), (1, 1))


def test_a_value_stored_in_another_order_is_not_replaced() -> None:
    body = "%p = copy(%0) : f32[N,4]\nyield %p\n"
    plain, turned = (kernel(body, t).nodes[0] for t in ("f32[N,4]", "f32[N,4]{1,0}"))
    assert in_place(plain) == ((0, 0),)
    assert in_place(turned) == ()


@pytest.mark.parametrize("text", [TENSOR, KERNEL, PLANNED])
def test_every_value_has_a_home_and_every_home_a_life(text: str) -> None:
    graph = parse(text)
    end, span = len(graph.nodes), lives(graph)
    for value in graph.values():
        first, last = span[homes(graph)[value.name]]
        assert 0 <= first <= last <= end
    assert len(alive(graph, 1, {})) == end + 1
