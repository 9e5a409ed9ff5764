"""GraphBuilder: inferred types, names, what it refuses."""

import pytest
from ir_samples import TENSOR
from op_bench import tensor

from convc.ir.builder import GraphBuilder
from convc.ir.errors import TypeRuleError
from convc.ir.graph import Loc
from convc.ir.parser import parse
from convc.ir.verifier import verify


def builder() -> GraphBuilder:
    b = GraphBuilder("g")
    b.input("x", tensor("f32[N,3]"))
    return b


def test_types_are_inferred_and_defaults_filled() -> None:
    b = builder()
    w = b.parameter("w", tensor("f32[4,3]"))
    y = b("matmul", b.inputs[0], w, transpose_b=True)
    assert str(y.type) == "f32[N,4]"
    assert b.nodes[-1].attrs == {
        "transpose_a": False,
        "transpose_b": True,
        "precision": "ieee",
        "out": "same",
    }
    b.output("y", y)
    assert verify(b.finish()).output("y") == y


def test_results_are_numbered_past_every_number_in_use() -> None:
    b = builder()
    b.input("7", tensor("f32[]"))
    assert b("relu", b.inputs[0]).name == "8"
    assert b("relu", b.inputs[0]).name == "9"
    again = GraphBuilder("g", b.finish())
    assert again("relu", again.inputs[0]).name == "10"


def test_a_base_graph_is_continued() -> None:
    base = parse(TENSOR)
    assert GraphBuilder(base.name, base).finish() == base


def test_results_may_be_named() -> None:
    b = builder()
    p = b.parameter("p", tensor("f32[2]"))
    lr = b.input("lr", tensor("f32[]"))
    names = ("new/p", "new/v")
    results = b.emit("momentum", [p, p, p, lr], {}, names)
    assert tuple(v.name for v in results) == names


def test_nodes_and_parameters_carry_the_location_set_when_they_were_made() -> None:
    b = builder()
    b.locs = (Loc("net.py", 3, "fc"),)
    b.parameter("w", tensor("f32[3]"))
    b("relu", b.inputs[0])
    b.locs = ()
    b("relu", b.inputs[0])
    assert b.parameters[0].locs == b.nodes[0].locs == (Loc("net.py", 3, "fc"),)
    assert b.nodes[1].locs == ()


def test_a_constant_takes_the_dtype_of_what_it_meets() -> None:
    b = builder()
    assert str(b.constant(2, tensor("i64[N]")).type) == "i64[]"
    assert str(b.constant(0.5, tensor("f64[3]")).type) == "f64[]"


@pytest.mark.parametrize("name", ["x", "", "a b", "-a", "a%", "ü", "a\n", "a" * 201])
def test_a_name_that_is_taken_or_misspelt_is_refused(name: str) -> None:
    b = builder()
    with pytest.raises(TypeRuleError, match="a name has letters|the name %x is taken"):
        b.input(name, tensor("f32[]"))


def test_an_unknown_op_is_refused_with_those_there_are() -> None:
    b = builder()
    with pytest.raises(TypeRuleError, match="unknown op 'mish'; known: .*relu"):
        b("mish", b.inputs[0])


def test_an_output_is_declared_once() -> None:
    b = builder()
    b.output("y", b.inputs[0])
    with pytest.raises(TypeRuleError, match="the output 'y' is declared twice"):
        b.output("y", b.inputs[0])


def test_an_update_has_the_type_of_its_parameter() -> None:
    b = builder()
    p, q = b.parameter("p", tensor("f32[2]")), b.parameter("q", tensor("f32[3]"))
    with pytest.raises(TypeRuleError) as error:
        b.update(p, q)
    assert str(error.value) == "update of %p: f32[2] cannot take f32[3]"
