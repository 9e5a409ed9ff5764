"""The audit passes right gradients of every network, and none that is wrong."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from seed_networks import SEED_NETWORKS

import convc as cc
from convc.backends.cpu.backend import NumpyBackend
from convc.ir.graph import Graph, Node, Value, substitute
from convc.model import Model
from convc.tracing import Tensor
from convc.trust.audit import Audit, Row, blocks, with_loss
from convc.trust.window import window


def network(image: Tensor) -> Tensor:
    x = cc.conv2d(image, 4, 3, 2, padding="same", activation="relu", name="conv1")
    x = cc.max_pool2d(x, 2, name="pool1")
    x = cc.conv2d(x, 3, 3, padding="same", activation="tanh", name="conv2")
    x = cc.dropout(cc.flatten(x), keep=0.75, name="drop")
    return cc.dense(x, 10, name="logits")


MODEL = Model(network, name="network", image="f32[N,8,8,2]")


def rows_of(model: Model) -> list[Row]:
    return list(Audit(model.training_step().graph, threads=2).rows())


@pytest.mark.parametrize("name", SEED_NETWORKS)
def test_right_gradients_pass(name: str) -> None:
    rows = rows_of(SEED_NETWORKS[name].model(name, 4))
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    assert {row.test for row in rows} == {"adjoint", "differences"}
    assert not any(row.loose for row in rows if row.layer != "network")


def test_every_layer_with_parameters_has_rows_for_each_of_them() -> None:
    rows = rows_of(MODEL)
    layers = [*dict.fromkeys(row.layer for row in rows)]
    assert layers == ["conv1", "conv2", "logits", "network"]
    assert {row.of for row in rows if row.layer == "network"} == {
        *(f"{layer}/{kind}" for layer in layers[:3] for kind in ("kernel", "biases")),
        "input/image",
    }
    of = [row.of for row in rows if row.layer == "conv2" and not row.direction]
    assert of[:2] == ["conv2d dX", "conv2d dW"]
    assert of[2:4] == ["conv2/kernel", "conv2/biases"]
    assert of[4].startswith("input/")


def test_on_whole_numbers_adjoints_are_exact() -> None:
    for row in rows_of(MODEL):
        if row.test == "adjoint" and not row.direction:
            assert row.error == row.bound == 0
            assert row.compiled != 0


Change = Callable[[Node], Node]


def _each(change: Change) -> Callable[[Graph], Graph]:
    def changed(graph: Graph) -> Graph:
        nodes = []
        for node in graph.nodes:
            if node.region is not None:
                body = tuple(change(n) for n in node.region.nodes)
                node = replace(node, region=replace(node.region, nodes=body))
            nodes.append(node)
        return replace(graph, nodes=tuple(nodes))

    return changed


def _turned(node: Node) -> Node:
    backward = node.op in ("conv2d_filter_grad", "conv2d_input_grad")
    if not backward or node.attrs["strides"] != (2, 2):
        return node
    return replace(node, attrs={**node.attrs, "padding": ((1, 0), (0, 1))})


def _no_relu_grad(graph: Graph) -> Graph:
    """Hand on dy where relu's gradient is meant."""
    nodes = []
    for node in graph.nodes:
        table: dict[str, Value] = {}
        body = []
        for inner in node.region.nodes if node.region else ():
            inner = substitute(inner, table)
            if inner.op == "relu_grad":
                table[inner.name] = inner.operands[1]
            else:
                body.append(inner)
        if node.region and body:
            node = replace(node, region=replace(node.region, nodes=tuple(body)))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


@pytest.mark.parametrize(
    ("change", "test"),
    [(_each(_turned), "adjoint"), (_no_relu_grad, "differences")],
)
def test_wrong_code_fails(
    change: Callable[[Graph], Graph], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = NumpyBackend.emit
    monkeypatch.setattr(
        NumpyBackend, "emit", lambda self, graph: right(self, change(graph))
    )
    wrong = [row for row in rows_of(MODEL) if not row.ok]
    assert any(row.layer == "conv1" and row.test == test for row in wrong)


def test_a_nan_is_not_within_any_bound() -> None:
    assert not Row("a", "adjoint", "dX", 0, float("nan"), 0.0, 1.0).ok


def test_a_bound_as_large_as_what_it_bounds_is_loose() -> None:
    assert Row("a", "differences", "w", 0, 0.5, 0.5, 0.2).loose
    assert not Row("a", "adjoint", "dX", 0, 300.0, 300.0, 0.2).loose


def test_a_block_is_a_layer_with_what_follows_it() -> None:
    graph = MODEL.training_step().graph
    found = dict(blocks(graph))
    assert list(found) == ["conv1", "conv2", "logits"]
    assert [n.op for n in found["conv1"]][:3] == ["conv2d", "bias_add", "relu"]
    assert found["conv1"][-1].op == "max_pool2d"
    part = with_loss(window(graph, [n.name for n in found["conv2"]]))
    assert [p.value.name for p in part.parameters if p.trainable][:2] == [
        *("conv2/kernel", "conv2/biases"),
    ]
    assert [name for name, _ in part.outputs] == ["loss"]
