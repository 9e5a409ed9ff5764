"""The loss and the count of correct answers."""

from types import FunctionType

import numpy as np
import pytest

from convc.ir.errors import ModelError
from convc.ir.interpreter import interpret
from convc.ir.verifier import verify
from convc.layers import relu
from convc.losses import correct, softmax_cross_entropy
from convc.tracing import Tensor, trace

INPUTS = {"logits": "f32[N,4]", "labels": "i32[N]"}
LOGITS = np.array([[1.0, 2, 3, 4], [5, 5, 0, 0], [0, 0, 9, 0]])


def test_the_loss_is_the_mean_of_minus_log_probability() -> None:
    graph = verify(trace(softmax_cross_entropy, INPUTS))
    labels = np.array([3, 1, 0], np.int32)
    inputs = {"logits": LOGITS, "labels": labels}
    loss = interpret(graph, inputs, {}, float64=True).outputs["output"]
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log(p[range(3), labels]).mean(), rtol=1e-12)
    assert str(graph.outputs[0][1].type) == "f32[]"


def test_correct_counts_the_images_and_the_first_of_equal_logits() -> None:
    graph = verify(trace(correct, INPUTS))
    assert str(graph.outputs[0][1].type) == "i32[]"
    for labels, count in (([3, 0, 2], 3), ([3, 1, 2], 2), ([0, 1, 0], 0)):
        inputs = {"logits": LOGITS, "labels": np.array(labels, np.int32)}
        assert interpret(graph, inputs, {}).outputs["output"] == count


@pytest.mark.parametrize("function", [softmax_cross_entropy, correct])
def test_logits_and_labels_must_fit(function: FunctionType) -> None:
    name = function.__name__
    for logits, labels, said in (
        ("f32[N,2,2]", "i32[N]", r"logits must have 2 axes, has 3 .*; end the network"),
        (
            "f32[N,4]",
            "i32[N,4]",
            r"labels must be i32\[N\], are i32\[N,4\] .* not one-hot",
        ),
        ("f32[N,4]", "f32[N]", r"labels must be i32\[N\], are f32\[N\]"),
        ("f32[N,4]", "i32[7]", r"labels must be i32\[N\], are i32\[7\]"),
    ):
        with pytest.raises(ModelError, match=f"{name}: {said}"):
            trace(function, {"logits": logits, "labels": labels})
    with pytest.raises(
        ModelError, match=f"{name}: labels must be a tensor of the traced"
    ):
        trace(lambda logits: function(logits, np.zeros(3)), {"logits": "f32[N,4]"})


def test_a_loss_that_convc_adds_has_the_place_of_the_networks_end() -> None:
    """Traced from inside convc there is no line of the user's around the loss."""

    def net(logits: Tensor) -> Tensor:
        return relu(logits)

    step = eval(
        "lambda logits, labels: loss(net(logits), labels)",
        {"__name__": "convc.model", "loss": softmax_cross_entropy, "net": net},
    )
    relu_node, *rest = trace(step, INPUTS).nodes
    assert {n.locs[0].line for n in rest} == {relu_node.locs[0].line}
    assert {n.locs[0].layer for n in rest} == {"loss"}
