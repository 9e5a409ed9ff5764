"""Random graphs print, parse, verify and run; and the drawer keeps its promises."""

from collections import Counter

import numpy as np
from hypothesis import find, given, settings
from random_graphs import LIMIT, Example, graphs

from convc.autodiff import add_gradients
from convc.ir.builder import GraphBuilder
from convc.ir.interpreter import interpret
from convc.ir.ops import OPS
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.ir.verifier import verify

FORWARD = {
    *("conv2d", "max_pool2d", "avg_pool2d", "bias_add", "relu", "tanh", "sigmoid"),
    *("negate", "add", "subtract", "multiply", "maximum", "minimum", "constant"),
    *("concat", "slice", "pad", "reshape", "transpose", "matmul", "reduce_mean"),
    *("reduce_sum", "reduce_variance", "batch_norm", "moving_average", "softmax"),
    *("log_softmax", "softmax_cross_entropy", "dropout_mask", "apply_mask"),
}


@given(graphs())
def test_a_random_graph_is_legal_and_survives_its_text(example: Example) -> None:
    graph = verify(example.graph)
    assert parse(print_graph(graph)) == graph


@given(graphs())
def test_every_result_has_the_type_its_rule_inferred(example: Example) -> None:
    graph, batch = example.graph, example.inputs["image"].shape[0]
    shown = GraphBuilder(graph.name, graph)
    for node in graph.nodes:
        shown.output(f"value {node.name}", node.result)
    out = interpret(shown.finish(), example.inputs, example.parameters).outputs
    for node in graph.nodes:
        array = out[f"value {node.name}"]
        assert array.shape == node.result.type.bind(batch)
        assert array.dtype == node.result.type.dtype.numpy
        assert np.isfinite(array).all()


@given(graphs())
def test_an_exact_example_has_no_rounding(example: Example) -> None:
    feeds = (example.graph, example.inputs, example.parameters)
    narrow, wide = interpret(*feeds), interpret(*feeds, float64=True)
    for name, array in narrow.outputs.items():
        if example.exact:
            assert np.array_equal(array, wide.outputs[name])
            assert np.abs(array).max() < LIMIT
        else:
            assert array.shape == wide.outputs[name].shape


@settings(max_examples=50)
@given(graphs(loss=True))
def test_the_gradient_of_a_random_loss_is_a_legal_graph(example: Example) -> None:
    assert example.loss is not None
    b = GraphBuilder("step", example.graph)
    for value in example.trainable:
        (gradient,) = add_gradients(b, example.loss, [value])
        if gradient is not None:
            assert gradient.type == value.type
            b.output(f"d {value.name}", gradient)
    graph = verify(b.finish())
    assert parse(print_graph(graph)) == graph
    interpret(graph, example.inputs, example.parameters)


def test_the_drawer_reaches_every_forward_op_and_both_kinds_of_example() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=300)
    @given(graphs())
    def collect(example: Example) -> None:
        seen.update({n.op for n in example.graph.nodes})
        seen["exact" if example.exact else "rounded"] += 1
        seen["loss" if example.loss else "no loss"] += 1

    collect()
    assert FORWARD - set(seen) == set()
    assert FORWARD - set(OPS) == set()
    assert min(seen[k] for k in ("exact", "rounded", "loss", "no loss")) >= 30


def test_a_value_may_have_several_uses_and_a_training_state() -> None:
    twice = find(graphs(), lambda e: any(len(u) > 1 for u in e.graph.users().values()))
    assert verify(twice.graph)
    state = find(graphs(), lambda e: bool(e.graph.updates))
    assert verify(state.graph)
