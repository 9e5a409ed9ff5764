"""Dense layers and their parts."""

import pytest

from convc.ir.errors import ModelError
from convc.ir.verifier import verify
from convc.layers import bias_add, dense, matmul
from convc.tracing import Tensor, get_variable, trace


def test_a_dense_layer_is_a_product_a_bias_and_an_activation() -> None:
    graph = verify(trace(lambda x: dense(x, 5, "tanh", name="fc"), {"x": "f32[N,3]"}))
    assert [n.op for n in graph.nodes] == ["matmul", "bias_add", "tanh"]
    names = [f"{p.value.name} {p.value.type}" for p in graph.parameters]
    assert names == ["fc/kernel f32[3,5]", "fc/biases f32[5]"]
    assert {n.locs[0].layer for n in graph.nodes} == {"fc"}


def test_a_dense_layer_is_shared_by_name() -> None:
    def net(x: Tensor) -> Tensor:
        return dense(dense(x, 3, name="fc"), 3, name="fc", reuse=True)

    graph = verify(trace(net, {"x": "f32[N,3]"}))
    assert len(graph.parameters) == 2


def test_an_image_is_answered_with_flatten() -> None:
    said = r"dense: inputs must have 2 axes, has 4 \(inputs: .*\); flatten\(x\) first"
    with pytest.raises(ModelError, match=said):
        trace(lambda x: dense(x, 5), {"x": "f32[N,2,2,1]"})
    with pytest.raises(ModelError, match=r"2 axes, has 1 \(inputs: f32\[N\]\)\n"):
        trace(lambda x: dense(x, 5), {"x": "f32[N]"})


def test_units_are_counted_from_one() -> None:
    with pytest.raises(ModelError, match="dense: units must be a whole number of at"):
        trace(lambda x: dense(x, 0), {"x": "f32[N,3]"})
    assert trace(lambda x: dense(x, 1), {"x": "f32[N,3]"}).nodes


def test_integers_are_refused_by_the_product() -> None:
    with pytest.raises(ModelError, match="matmul: .*float dtype"):
        trace(lambda x: dense(x, 5), {"x": "i32[N,3]"})


def test_matmul_and_bias_add_take_variables() -> None:
    def net(x: Tensor) -> Tensor:
        y = matmul(x, get_variable("w", [3, 4]))
        return bias_add(y, get_variable("b", [4], "zeros"))

    assert len(verify(trace(net, {"x": "f32[N,3]"})).nodes) == 2
    with pytest.raises(
        ModelError, match="inner dimensions must agree, a has 3, b has 4"
    ):
        trace(lambda x: matmul(x, get_variable("w", [4, 4])), {"x": "f32[N,3]"})
    with pytest.raises(ModelError, match="bias_add: x has 3 channels, b has 4"):
        trace(lambda x: bias_add(x, get_variable("b", [4])), {"x": "f32[N,3]"})
