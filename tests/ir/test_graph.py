"""Graph: reading it, renaming in it, ordering it."""

import pytest
from ir_samples import KERNEL, TENSOR

from convc.ir.graph import Loc, in_order, merge_locs, rename_uses, substitute
from convc.ir.parser import parse
from convc.ir.verifier import verify

GRAPH = parse(TENSOR)


def test_values_come_in_order_of_definition() -> None:
    names = [v.name for v in GRAPH.values()]
    assert names[:3] == ["image", "labels", "conv1/kernel"]
    assert names[-1] == "7"
    assert len(names) == 2 + 4 + 10


def test_ops_come_in_order_those_of_a_kernel_in_its_place() -> None:
    assert list(GRAPH.ops()) == list(GRAPH.nodes)
    found = [node.op for node in parse(KERNEL).ops()]
    assert found == ["matmul", "relu", "reshape", "add", "negate"]


def test_producers_and_users_are_found_by_name() -> None:
    assert GRAPH.producers()["flat"].op == "reshape"
    assert [n.op for n in GRAPH.users()["4"]] == ["softmax_cross_entropy"]
    assert GRAPH.users()["7"] == []
    assert "image" not in GRAPH.producers()


def test_a_node_that_reads_a_value_twice_is_one_user() -> None:
    graph = parse("graph g(%x: f32[]) -> () {\n %1 = add(%x, %x) : f32[]\n}")
    assert [n.name for n in graph.users()["x"]] == ["1"]


def test_outputs_and_updates_outlast_the_last_node() -> None:
    assert GRAPH.live_out() == {"7", "4", "6"}


def test_parameters_and_outputs_are_found_by_name() -> None:
    assert GRAPH.output("the logits").name == "4"
    assert not GRAPH.parameter("training/step").trainable
    with pytest.raises(KeyError):
        GRAPH.output("logits")


def test_renaming_reaches_operands_outputs_and_updates() -> None:
    one, image = GRAPH.producers()["one"].result, GRAPH.inputs[0]
    renamed = rename_uses(GRAPH, {"6": one, "1": image})
    assert renamed.updates[0][1] == one
    assert renamed.producers()["2"].operands == (image,)
    logits = rename_uses(GRAPH, {"4": image}).output("the logits")
    assert logits == image


def test_substituting_nothing_gives_the_node_itself() -> None:
    node = GRAPH.nodes[0]
    assert substitute(node, {"labels": GRAPH.inputs[0]}) is node


def test_the_dataflow_has_an_edge_for_each_value_passed_on() -> None:
    flow = GRAPH.dataflow()
    assert set(flow.successors("3")) == {"4"}
    assert set(flow.predecessors("3")) == {"flat", "mask"}


def test_nodes_out_of_order_are_sorted_with_few_moves() -> None:
    shuffled = [*GRAPH.nodes[5:], *GRAPH.nodes[:5]]
    ordered = in_order(GRAPH, shuffled)
    assert {n.name for n in ordered} == {n.name for n in GRAPH.nodes}
    seen: set[str] = set()
    for node in ordered:
        needed = {v.name for v in node.operands} & set(GRAPH.producers())
        assert needed <= seen
        seen.add(node.name)
    assert in_order(GRAPH, GRAPH.nodes) == GRAPH.nodes
    assert verify(GRAPH) is GRAPH


def test_merged_locations_are_each_named_once() -> None:
    locs = merge_locs(GRAPH.nodes)
    assert locs[:2] == (Loc("net.py", 4, "conv1"), Loc("a file.py", 7, "odd layer"))
    assert len(set(locs)) == len(locs)


def test_a_location_reads_file_line_layer() -> None:
    assert str(Loc("net.py", 4)) == "net.py:4"
    assert str(Loc("net.py", 4, "conv1")) == "net.py:4 conv1"


def test_the_result_of_a_node_is_its_only_one() -> None:
    assert GRAPH.nodes[0].result.name == GRAPH.nodes[0].name == "1"
