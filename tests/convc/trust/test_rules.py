"""Every op's gradient rule is checked alone, at the geometry where it is met."""

from typing import Any

import pytest
from pass_bench import graph_of
from seed_networks import SEED_NETWORKS

from convc.ir.errors import CompileError
from convc.ir.graph import Node, Value
from convc.ir.ops import OPS
from convc.trust.rules import around, checked_rules, raise_wrong, wrong_rule


@pytest.mark.parametrize("name", SEED_NETWORKS)
def test_the_rules_of_every_network_are_right(name: str) -> None:
    graph = SEED_NETWORKS[name].model(name, 4).training_step().graph
    rules = list(checked_rules(graph))
    assert len(rules) >= 4
    assert not [rule for rule in rules if rule.wrong]


def test_a_geometry_is_checked_once() -> None:
    text = """
    graph g(%x: f32[N,4]) -> (y=%4, z=%5) {
      param %w : f32[4,4] = zeros()
      %1 = matmul(%x, %w) : f32[N,4]
      %2 = relu(%1) : f32[N,4]
      %3 = matmul(%2, %w) : f32[N,4]
      %4 = relu(%3) : f32[N,4]
      %5 = relu(%x) : f32[N,4]
    }
    """
    assert [r.node.name for r in checked_rules(graph_of(text))] == ["1", "2"]


def test_a_logarithm_gets_positive_numbers() -> None:
    text = """
    graph g() -> (y=%1) {
      param %w : f32[4] = ones()
      %1 = log(%w) : f32[4]
    }
    """
    (rule,) = checked_rules(graph_of(text))
    assert not rule.wrong


def test_an_operand_that_is_read_twice_gets_both_gradients() -> None:
    text = """
    graph g() -> (y=%1) {
      param %w : f32[4] = ones()
      %1 = multiply(%w, %w) : f32[4]
    }
    """
    (rule,) = checked_rules(graph_of(text))
    assert not rule.wrong


def test_a_wrong_rule_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(self: Any, b: Any, node: Node, dy: Value) -> list[Value]:
        return [b("add", dy, dy)]

    monkeypatch.setattr(type(OPS["tanh"]), "gradient", twice)
    text = """
    graph g() -> (y=%1) {
      param %w : f32[4] = ones()
      %1 = tanh(%w) : f32[4]
    }
    """
    graph = around(graph_of(text).nodes[0])
    assert "the gradient of x0 is wrong" in wrong_rule(graph)
    with pytest.raises(CompileError, match="the gradient rule of tanh: the gradient"):
        raise_wrong(graph)
