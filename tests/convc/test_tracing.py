"""Tracing: handles, scopes, names, sharing, and errors with the user's line."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convc.ir.errors import ModelError
from convc.ir.graph import Graph
from convc.ir.interpreter import interpret
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.ir.types import DType, TensorType
from convc.ir.verifier import verify
from convc.layers import conv2d, convolve, dense, dropout, flatten, max_pool2d, relu
from convc.tracing import (
    MAX_PATH,
    Tensor,
    get_variable,
    layer_scope,
    trace,
    variable_scope,
)

IMAGE = "f32[N,8,8,1]"
Network = Callable[..., Any]


def traced(function: Network, kind: str = IMAGE) -> Graph:
    return verify(trace(function, {"x": kind}))


def parameters(graph: Graph) -> list[str]:
    return [p.value.name for p in graph.parameters]


def layers(graph: Graph) -> list[str]:
    return list(dict.fromkeys(n.locs[0].layer for n in graph.nodes))


def line_of(function: Network, text: str) -> int:
    """The line of this file where ``text`` stands in ``function``."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def fails(function: Network, match: str, kind: str = IMAGE) -> str:
    with pytest.raises(ModelError, match=match) as caught:
        trace(function, {"x": kind})
    return str(caught.value)


# -- the graph


def test_a_network_becomes_a_graph_that_verifies_and_round_trips() -> None:
    def net(x: Tensor) -> Tensor:
        x = conv2d(x, 4, 3, padding="same", activation="relu", name="conv1")
        return dense(flatten(max_pool2d(x)), 10, name="logits")

    graph = traced(net)
    assert parse(print_graph(graph)) == graph
    assert graph.name == "net"
    assert [(v.name, str(v.type)) for v in graph.inputs] == [("x", IMAGE)]
    assert [(k, str(v.type)) for k, v in graph.outputs] == [("output", "f32[N,10]")]
    assert parameters(graph) == [
        *("conv1/kernel", "conv1/biases", "logits/kernel", "logits/biases")
    ]
    assert [n.op for n in graph.nodes] == [
        *("conv2d", "bias_add", "relu", "max_pool2d", "reshape", "matmul", "bias_add")
    ]


def test_every_node_and_parameter_has_the_users_line_and_its_layer() -> None:
    def net(x: Tensor) -> Tensor:
        with variable_scope("block"):
            x = conv2d(x, 4, 3, activation="relu", name="conv1")
        return max_pool2d(x)  # the pool

    graph = traced(net)
    conv, bias, act, pool = (n.locs for n in graph.nodes)
    assert conv == bias == act == graph.parameters[0].locs
    assert (conv[0].line, conv[0].layer) == (line_of(net, "conv2d("), "block/conv1")
    assert (pool[0].line, pool[0].layer) == (line_of(net, "the pool"), "max_pool2d")


def test_a_file_below_the_current_folder_is_named_by_its_relative_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    assert traced(relu_net).nodes[0].locs[0].file == "convc/test_tracing.py"
    monkeypatch.chdir(tmp_path)
    assert traced(relu_net).nodes[0].locs[0].file == "test_tracing.py"


def relu_net(x: Tensor) -> Tensor:
    return relu(x)


def test_a_dict_of_tensors_becomes_named_outputs() -> None:
    graph = traced(lambda x: {"twice": x + x, "same": x})
    assert [(k, v.name) for k, v in graph.outputs] == [("twice", "1"), ("same", "x")]


def test_inputs_are_passed_by_name_and_one_alone_by_position() -> None:
    def two(a: Tensor, b: Tensor) -> Tensor:
        return a - b

    graph = trace(two, {"b": "f32[N,2]", "a": "f32[N,2]"})
    assert [v.name for v in graph.nodes[0].operands] == ["a", "b"]
    assert [v.name for v in trace(lambda it: -it, {"x": "f32[N]"}).inputs] == ["x"]
    with pytest.raises(
        ModelError, match=r"two takes \(a: .*, b: .*\), its inputs are x"
    ):
        trace(two, {"x": "f32[N,2]"})


def test_the_name_is_the_functions_unless_given() -> None:
    assert trace(relu_net, {"x": IMAGE}, name="mine").name == "mine"
    assert trace(lambda x: x, {"x": IMAGE}).name == "model"


def test_tracing_twice_gives_equal_graphs() -> None:
    def net(x: Tensor) -> Tensor:
        return dropout(conv2d(conv2d(x, 2, 3), 2, 3), keep=0.5)

    assert traced(net) == traced(net)


# -- tensors


def test_a_tensor_knows_its_shape_and_dtype() -> None:
    def net(x: Tensor) -> Tensor:
        assert x.shape == ("N", 8, 8, 1)
        assert (x.rank, x.dtype, str(x.type)) == (4, DType.F32, IMAGE)
        assert repr(x) == f"<Tensor %x: {IMAGE}>"
        return x

    traced(net)


def test_operators_compute_what_numpy_does() -> None:
    def net(x: Tensor, y: Tensor) -> Tensor:
        left = (x + y) * (2 - x) / (1.5 + y * 2)
        return 3 / (-left - 1 + np.float32(0.5) * x * np.float64(2))

    graph = verify(trace(net, {"x": "f32[N,3,4]", "y": "f32[4]"}))
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 3, 4)), rng.random(4)
    result = interpret(graph, {"x": x, "y": y}, {}, float64=True).outputs["output"]
    left = (x + y) * (2 - x) / (1.5 + y * 2)
    np.testing.assert_allclose(result, 3 / (-left - 1 + x), rtol=1e-12)


def test_the_matrix_operator_is_matmul() -> None:
    def net(x: Tensor) -> Tensor:
        return x @ get_variable("w", [4, 5])

    assert str(traced(net, "f32[N,4]").outputs[0][1].type) == "f32[N,5]"


@pytest.mark.parametrize("side", [True, "2", None, [1.0], np.ones(3), 1j])
def test_only_tensors_and_numbers_stand_beside_a_tensor(side: Any) -> None:
    kind = type(side).__name__
    fails(lambda x: x + side, f"add: a {kind} cannot stand beside <Tensor %x")
    fails(lambda x: side * x, f"multiply: a {kind} cannot stand beside <Tensor %x")


def test_a_fraction_is_no_operand_of_integers() -> None:
    assert len(traced(lambda x: x + 1, "i32[N]").nodes) == 2
    fails(lambda x: x + 0.5, "add: the number 0.5 is no i32", "i32[N]")


def test_a_tensor_has_no_truth_value() -> None:
    message = fails(lambda x: x if x else -x, "has no truth value")
    assert f"at {__file__}:" in message


def test_shapes_that_do_not_broadcast_are_named_with_line_and_layer() -> None:
    def net(x: Tensor) -> Tensor:
        return x + get_variable("w", [3, 8, 2])

    message = fails(net, "add: shapes do not broadcast, an axis has 8 and 3")
    assert f"(x: {IMAGE}, y: f32[3,8,2])" in message
    assert "\n  in layer add\n" in message
    assert message.endswith(f"\n  at {__file__}:{line_of(net, 'return')}")


def test_a_tensor_of_another_trace_is_refused() -> None:
    kept: list[Tensor] = []

    def first(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    traced(first)
    fails(
        lambda x: x + kept[0], "add: <Tensor %x: .*> belongs to another trace, of first"
    )
    fails(lambda x: kept[0], "belongs to another trace, of first")


# -- names


def test_unnamed_layers_are_numbered_in_each_scope() -> None:
    def net(x: Tensor) -> Tensor:
        x = conv2d(conv2d(x, 1, 1), 1, 1)
        with variable_scope("a"):
            x = relu(conv2d(x, 1, 1))
        return conv2d(x, 1, 1)

    assert layers(traced(net)) == [
        *("conv2d", "conv2d_1", "a/conv2d", "a/relu", "conv2d_2")
    ]


def test_an_unnamed_layer_takes_no_name_that_was_given() -> None:
    def net(x: Tensor) -> Tensor:
        x = conv2d(conv2d(x, 1, 1), 1, 1, name="conv2d_1")
        return conv2d(x, 1, 1)

    assert layers(traced(net)) == ["conv2d", "conv2d_1", "conv2d_2"]


def test_an_activation_function_is_a_part_of_its_layer() -> None:
    def net(x: Tensor) -> Tensor:
        x = conv2d(x, 1, 1, activation=relu, name="a")
        return conv2d(x, 1, 1, activation=lambda y: y * relu(y), name="b")

    assert layers(traced(net)) == ["a", "b"]


def test_a_layer_inside_an_activation_keeps_the_outer_layers_place() -> None:
    def net(x: Tensor) -> Tensor:
        return conv2d(x, 1, 1, activation=lambda y: relu(conv2d(y, 1, 1)), name="a")

    graph = traced(net)
    assert [n.locs[0].layer for n in graph.nodes] == [
        *("a", "a", "a/conv2d", "a/conv2d", "a")
    ]


@pytest.mark.parametrize("name", ["1st", "", "a b", "é", "_a", ".", "a\n", 3])
def test_a_name_begins_with_a_letter_and_is_plain(name: Any) -> None:
    match = "a name begins with a letter and has letters, digits and _ . - only, got"
    fails(lambda x: conv2d(x, 1, 1, name=name), f"conv2d: {match}")
    fails(lambda x: get_variable(name, [1]), f"get_variable: {match}")
    fails(lambda x: {name: x}, f"output: {match}")


def test_a_slash_in_a_name_is_answered_with_nesting() -> None:
    fails(
        lambda x: conv2d(x, 1, 1, name="a/b"),
        "nest variable_scope instead of writing a",
    )
    assert "a.b-c_d1" in layers(traced(lambda x: relu(x, name="a.b-c_d1")))


def test_a_scope_path_has_a_longest_length() -> None:
    longest = "a" * MAX_PATH
    assert layers(traced(lambda x: conv2d(x, 1, 1, name=longest))) == [longest]
    fails(
        lambda x: conv2d(x, 1, 1, name=longest + "a"),
        f"the scope path has {MAX_PATH + 1} characters, the most is {MAX_PATH}",
    )


# -- clashes and sharing


def test_two_layers_of_one_name_clash_and_both_lines_are_named() -> None:
    def net(x: Tensor) -> Tensor:
        x = conv2d(x, 4, 3, name="conv1")
        return conv2d(x, 4, 3, name="conv1")  # again

    message = fails(net, "conv2d: the name conv1 is taken by the layer at")
    assert f"layer at {__file__}:{line_of(net, 'x = conv2d')}; give" in message
    assert "pass reuse=True to share its variables" in message
    assert message.endswith(f"at {__file__}:{line_of(net, 'again')}")


def test_pools_of_one_name_clash_too() -> None:
    fails(
        lambda x: max_pool2d(max_pool2d(x, name="p"), name="p"), "the name p is taken"
    )


def test_a_layer_with_reuse_shares_the_variables() -> None:
    def net(x: Tensor) -> Tensor:
        x = conv2d(x, 1, 3, name="c", reuse=True)
        return conv2d(x, 1, 3, name="c", reuse=True)

    graph = traced(net)
    assert parameters(graph) == ["c/kernel", "c/biases"]
    first, second = (n for n in graph.nodes if n.op == "conv2d")
    assert first.operands[1] == second.operands[1]


def test_a_scope_entered_again_with_reuse_shares_unnamed_layers_too() -> None:
    def tower(x: Tensor) -> Tensor:
        with variable_scope("tower", reuse=True):
            with variable_scope("inner"):
                x = conv2d(x, 1, 1)
            return conv2d(conv2d(x, 1, 1), 1, 1)

    graph = traced(lambda x: tower(x) + tower(x))
    assert parameters(graph) == [
        f"tower/{layer}/{kind}"
        for layer in ("inner/conv2d", "conv2d", "conv2d_1")
        for kind in ("kernel", "biases")
    ]


def test_a_scope_entered_again_without_reuse_goes_on_counting() -> None:
    def net(x: Tensor) -> Tensor:
        with variable_scope("a"):
            x = conv2d(x, 1, 1)
        with variable_scope("a"):
            return conv2d(x, 1, 1)

    assert layers(traced(net)) == ["a/conv2d", "a/conv2d_1"]


def test_a_variable_made_twice_is_an_error_and_shared_with_reuse() -> None:
    def net(x: Tensor, reuse: bool) -> Tensor:
        with variable_scope("s"):
            w = get_variable("w", [1])
        with variable_scope("s", reuse=reuse):
            return x * w * get_variable("w", [1])

    assert parameters(traced(lambda x: net(x, True))) == ["s/w"]
    message = fails(
        lambda x: net(x, False), "the variable s/w was already made at .*reuse=True"
    )
    assert f"made at {__file__}:{line_of(net, 'w = get_variable')};" in message
    assert message.endswith(f"at {__file__}:{line_of(net, 'return x')}")


def test_a_shared_variable_keeps_its_shape() -> None:
    def net(x: Tensor) -> Tensor:
        x = conv2d(x, 4, 3, name="c")
        return conv2d(x, 4, 3, name="c", reuse=True)

    message = fails(net, r"the shared variable c/kernel is f32\[3,3,1,4\]")
    assert "here it would be f32[3,3,4,4]" in message
    assert "in layer c" in message


def test_a_variable_is_trainable_unless_said_otherwise() -> None:
    def net(x: Tensor) -> Tensor:
        return x * get_variable("a", [1]) * get_variable("b", [1], trainable=False)

    assert [p.trainable for p in traced(net).parameters] == [True, False]


@pytest.mark.parametrize("shape", [[0], [-1], [2.0], [True], ["N"], "ab"])
def test_a_variables_shape_is_whole_numbers_from_one(shape: Any) -> None:
    fails(
        lambda x: get_variable("w", shape),
        "the shape of the variable w must be whole numbers from 1",
    )


def test_a_variable_may_be_a_scalar_or_given_one_number() -> None:
    def net(x: Tensor) -> Tensor:
        return x * get_variable("a", []) * get_variable("b", 8)  # type: ignore[arg-type]

    types = [str(p.value.type) for p in traced(net).parameters]
    assert types == ["f32[]", "f32[8]"]


def test_variables_and_convolve_write_a_network_the_low_way() -> None:
    def net(x: Tensor) -> Tensor:
        with variable_scope("conv1"):
            w = get_variable("weights", [5, 5, 1, 32])
            return convolve(x, w, strides=[1, 1, 1, 1], padding="SAME")

    assert str(traced(net).outputs[0][1].type) == "f32[N,8,8,32]"


# -- what a model function may not do


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "output is None; end it with `return x`"),
        (3.0, "output is a float"),
        ([1], "output is a list"),
        ({"a": None}, "a is None"),
        ({}, "it returned an empty dict"),
    ],
)
def test_a_model_returns_a_tensor(result: Any, said: str) -> None:
    def net(x: Tensor) -> Any:
        return result

    message = fails(net, f"net must return a tensor.*{said}")
    assert message.endswith(f"at {__file__}:{line_of(net, 'def net')}")


def test_a_layer_outside_of_a_model_says_what_to_do() -> None:
    with pytest.raises(
        ModelError, match="conv2d: used outside of a model; put it into"
    ):
        conv2d(None, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="get_variable: used outside of a model"):
        get_variable("w", [1])
    with pytest.raises(ModelError, match=f"at {__file__}:"), variable_scope("a"):
        pass


def test_a_model_is_a_function() -> None:
    with pytest.raises(
        ModelError, match="a model is a function of its inputs, got a int"
    ):
        trace(3, {"x": IMAGE})  # type: ignore[arg-type]


def test_the_users_own_exceptions_pass_through_and_end_the_trace() -> None:
    def net(x: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trace(net, {"x": IMAGE})
    with pytest.raises(ModelError, match="outside of a model"), layer_scope("relu"):
        pass


def test_input_types_are_text_or_types_and_checked() -> None:
    kind = TensorType(DType.F32, ("N", 3))
    assert trace(lambda x: x, {"x": kind}).inputs[0].type == kind
    fails(lambda x: x, r"a tensor type is written like f32\[N,28,28,1\]", "float32")
    fails(lambda x: x, "a dimension is N .* got 'M'", "f32[M,3]")
    fails(lambda x: x, "the batch N must be axis 0", "f32[3,N]")


def test_a_trace_inside_a_trace_leaves_the_outer_one_alone() -> None:
    def net(x: Tensor) -> Tensor:
        inner = trace(relu_net, {"x": "f32[N,2]"})
        assert len(inner.nodes) == 1
        return relu(x)

    assert [n.op for n in traced(net).nodes] == ["relu"]
