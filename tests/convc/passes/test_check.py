"""Check mode runs graphs before and after a pass, and remembers what it has run."""

import pytest
from pass_bench import graph_of, stage_after

from convc.ir import interpreter
from convc.ir.graph import Node
from convc.ir.ops.base import Array
from convc.passes.check import Checker
from convc.passes.manager import Pass


def test_labels_are_classes_even_where_there_is_one() -> None:
    text = """
    graph g(%x: f32[N,1], %labels: i32[N]) -> (loss=%l) {
      %e = softmax_cross_entropy(%x, %labels) : f32[N]
      %l = reduce_mean(%e) {axes=[0]} : f32[]
    }
    """
    assert stage_after(Pass("keep", lambda graph, context: graph), of=text).checked


def test_what_did_not_change_is_not_evaluated_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = """
    graph g(%x: f32[N,4]) -> (y=%2) {
      %1 = relu(%x) : f32[N,4]
      %2 = negate(%1) : f32[N,4]
    }
    """
    ran: list[str] = []
    evaluate = interpreter._evaluate

    def spy(node: Node, *given: object) -> list[Array]:
        ran.append(node.op)
        return evaluate(node, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(interpreter, "_evaluate", spy)
    checker, graph = Checker(), graph_of(text)
    longer = graph_of(
        text.replace("y=%2", "y=%2, z=%3").replace(
            "    }", "      %3 = exp(%2) : f32[N,4]\n    }"
        )
    )
    assert checker.equal(graph, graph).values == 2 * 12
    assert sorted(ran) == ["negate", "negate", "relu", "relu"]
    checker.equal(graph, longer)
    assert sorted(ran[4:]) == ["exp", "exp"]
