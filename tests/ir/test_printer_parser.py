"""The text form: it round-trips, and bad text is refused at its line and column."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_samples import KERNEL, PLANNED, SAMPLES, TENSOR

from convc.ir import lexer
from convc.ir.errors import IRSyntaxError, TypeRuleError, VerifyError
from convc.ir.graph import Attr, Graph, Loc, Node, Parameter, Value
from convc.ir.parser import MAX_DEPTH, parse
from convc.ir.printer import attr_text, print_graph
from convc.ir.types import DType, TensorType
from convc.ir.verifier import verify

SCALAR = TensorType(DType.F32, ())


@pytest.mark.parametrize("stage", SAMPLES)
def test_text_is_printed_as_it_was_read(stage: str) -> None:
    graph = parse(SAMPLES[stage])
    assert verify(graph) is graph
    assert print_graph(graph) == SAMPLES[stage]
    assert parse(print_graph(graph)) == graph


def test_the_samples_use_every_kind_of_item() -> None:
    fused = parse(KERNEL)
    assert fused.nodes[0].schedule == {
        "algorithm": "gemm",
        "tile": (2, (4, 8)),
        "rate": 1e-08,
        "exact": True,
        "note": "true",
    }
    assert fused.nodes[2].schedule == {}
    assert fused.nodes[0].locs == (Loc("net.py", 6, "fc"), Loc("net.py", 7))
    assert fused.inputs[0].type.layout == (1, 0)
    assert parse(TENSOR).nodes[1].locs[1] == Loc("a file.py", 7, "odd layer")
    arena = parse(PLANNED).arena
    assert arena is not None
    assert arena.buffers[-1].name == "a!scratch"


def test_white_space_and_comments_mean_nothing() -> None:
    text = "#\n" + TENSOR.replace("  %2", "\t\r\n  %2").replace("{\n", "{ # open\n", 1)
    assert parse(text) == parse(TENSOR)


def odd_graph(name: str, attrs: dict[str, Attr], loc: Loc) -> Graph:
    """A graph whose every free string is odd."""
    x = Value("x", SCALAR)
    parameter = Parameter(Value("p", SCALAR), name, attrs, True, (loc,))
    node = Node("relu", (x,), (Value("1", SCALAR),), {}, (loc, loc))
    return Graph(name, (x,), (parameter,), (node,), ((name, x),))


TEXT = st.text(max_size=12) | st.sampled_from(
    ["true", "schedule", "a b", '"', "\\", "%x", "N", "update", "1", "-", "->", "\n@#"]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(10**16), 10**16)
ATTRS: st.SearchStrategy[Attr] = st.recursive(
    st.booleans() | WHOLE | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@given(
    TEXT, st.dictionaries(TEXT, ATTRS, max_size=3), TEXT, TEXT, st.integers(0, 10**9)
)
def test_any_string_number_or_list_survives(
    name: str, attrs: dict[str, Attr], file: str, layer: str, line: int
) -> None:
    graph = odd_graph(name, attrs, Loc(file, line, layer))
    again = parse(print_graph(graph))
    assert again == graph
    assert print_graph(again) == print_graph(graph)


def test_a_numpy_float_prints_as_a_number() -> None:
    assert attr_text((np.float64(0.1), 1e-8)) == "[0.1,1e-08]"


def broken(line: str) -> str:
    """A graph with one line of the reader's choice; that line is number 3."""
    return f"graph g(%x: f32[N,3]) -> () {{\n\n{line}\n}}\n"


BAD_LINES = [
    ("%1 = relu(%y) : f32[N,3]", 11, "%y is not defined here"),
    ("%1 = relu(%1) : f32[N,3]", 11, "%1 is not defined here"),
    ("%x = relu(%x) : f32[N,3]", 1, "%x is defined twice"),
    ("%1 = mish(%x) : f32[N,3]", 6, "unknown op 'mish'; known: adam, add,"),
    ("%1 = relu(%x) : f8[N,3]", 17, "unknown dtype 'f8', known: bf16, bool, f16, f32,"),
    ("%1 = relu(%x) : f32[3,N]", 17, "the batch N must be axis 0, not axis 1"),
    ("%1 = relu(%x) : f32[N,0]", 17, "a dimension is N or between 1 and"),
    ("%1 = relu(%x) : f32[M]", 21, "expected an integer, found 'M'"),
    ("%1 = relu(%x) : f32[N,3]{1,1}", 17, "a layout is a permutation of the 2 axes"),
    ("%1 = relu(%x) : f32[N,3], f32[]", 15, "1 results have 2 types"),
    ("%1, %2 = relu(%x) : f32[N,3]", 19, "2 results have 1 types"),
    ("%1 = relu(%x, %x) : f32[N,3]", 6, "relu: takes 1 operands (x), got 2"),
    ("%1 = relu(%x,) : f32[N,3]", 14, "expected a %value, found ')'"),
    ("%1 = relu(%x %x) : f32[N,3]", 14, "expected ',', found '%x'"),
    ("%1 = relu %x : f32[N,3]", 11, "expected '(', found '%x'"),
    ("%1 relu(%x) : f32[N,3]", 4, "expected '=', found 'relu'"),
    ("%1 = relu(%x) {k=1} : f32[N,3]", 6, "relu: has no attribute 'k' (it has: none)"),
    ("%1 = softmax(%x) f32[N,3]", 18, "expected ':', found 'f32'"),
    ("%1 = reshape(%x) : f32[N,3]", 6, "reshape: needs the attribute 'shape'"),
    ("%1 = reduce_sum(%x) {axes=0} : f32[N]", 6, "axes must be a list of integers"),
    ("%1 = reduce_sum(%x) {axes=[0,true]} : f32[]", 6, "got (0, True)"),
    ("%1 = reduce_sum(%x) {axes=[-1]} : f32[]", 6, "axes must be at least 0"),
    ("%1 = cast(%x) {dtype=f8} : f32[N,3]", 6, "cast: dtype is one of f64, f32,"),
    ("%1 = reduce_sum(%x) {axes=[0], axes=[1]} : f32[]", 32, "axes is given twice"),
    ("%1 = constant() {value=1e999} : f32[]", 24, "a number this large is no float"),
    ("%1 = constant() {value=inf} : f32[]", 6, "value must be a finite number"),
    ("%1 = constant() {value=" + "9" * 19 + "} : f32[]", 24, "at most 18 digits"),
    ("%1 = relu(%x) : f32[" + "9" * 5000 + "]", 21, "an integer has at most 18 digits"),
    ('%1 = relu(%x) : f32[N,3] @ "a', 28, "a quoted string must end on its line"),
    (r'%1 = relu(%x) : f32[N,3] @ "\q":1', 28, "bad escape in a quoted string"),
    ('%1 = relu(%x) : f32[N,3] @ "a\tb":1', 28, "bad escape in a quoted string"),
    ("%1 = relu(%x) : f32[N,3] @ a.py:x", 33, "expected an integer, found 'x'"),
    ("%1 = relu(%x) : f32[N,3]\0", 25, r"unexpected character '\x00'"),
    ("%1 = relu(%x) : f32[N,3] !", 26, "unexpected character '!'"),
    ("% = relu(%x) : f32[N,3]", 1, "unexpected character '%'"),
    ("relu(%x) : f32[N,3]", 1, "expected '}', found 'relu'"),
    ("update %x = %y", 13, "%y is not defined here"),
    ("arena 1 batch 1 thread 1 {}", 17, "expected 'threads', found 'thread'"),
    ("arena 1 batch 1 threads 1 { %x 0 4 0 0 }", 36, "expected 'live', found '0'"),
    ("%1 = kernel k(%x) : f32[N,3] { yield %1 }", 38, "%1 is not defined here"),
    ("%1 = kernel k(%x) : f32[N,3] { yield }", 38, "expected a %value, found '}'"),
    ("%1 = kernel k(%x) : f32[N,3] { %2 = kernel", 37, "cannot stand inside a kernel"),
    ("%1 = kernel k(%x) : f32[N,3] { %2 = relu(%x)", 42, "%x is not defined here"),
    ("%1 = kernel k(%x) : f32[N,3] { yield %0 } schedule { [", 54, "expected a name"),
]


@pytest.mark.parametrize(("line", "column", "reason"), BAD_LINES)
def test_bad_text_is_shown_with_a_caret(line: str, column: int, reason: str) -> None:
    with pytest.raises(IRSyntaxError) as error:
        parse(broken(line))
    assert reason in error.value.reason
    assert (error.value.line, error.value.column) == (3, column)
    message, excerpt, caret = str(error.value).split("\n")
    assert message == f"line 3, column {column}: {error.value.reason}"
    assert len(excerpt) <= 102
    assert len(caret) - 2 <= 61
    shown = line.replace("\t", " ").replace("\0", "?")
    under = excerpt[len(caret) - 1 :]
    assert shown[column - 1 :].startswith(under)
    assert under


BAD_GRAPHS = [
    ("", 1, 1, "expected 'graph', found 'end of text'"),
    ("# nothing", 1, 10, "expected 'graph', found 'end of text'"),
    ("graph", 1, 6, "expected a name, found 'end of text'"),
    ("graph g(", 1, 9, "expected a %value, found 'end of text'"),
    ("graph g() {}", 1, 11, "expected '->', found '{'"),
    ("graph g() -> (%x) {}", 1, 15, "expected a name, found '%x'"),
    ("graph g() -> (y=%x) {}", 1, 17, "%x is not defined here"),
    ("graph g(%x: f32[], %x: f32[]) -> () {}", 1, 20, "%x is defined twice"),
    ("graph g() -> () stage fast {}", 1, 23, "unknown stage 'fast', known: tensor,"),
    ("graph g() -> () {} graph", 1, 20, "expected the end of the text, found 'graph'"),
    ("graph g() -> ()\n{\n", 3, 1, "expected '}', found 'end of text'"),
    ("graph g() -> () {\nparam %p : f32[] = zeros(\n}", 3, 1, "expected a name"),
    ("graph g() -> () {\nparam %p : f32[] = z() @ a\n}", 3, 1, "expected ':', found"),
    ("\ufeffgraph g() -> () {}", 1, 1, "unexpected character '\\ufeff'"),
    ("# \u2028 \x0b \x85 \r is one line\n!", 2, 1, "unexpected character '!'"),
]


@pytest.mark.parametrize(("text", "line", "column", "reason"), BAD_GRAPHS)
def test_a_bad_frame_is_refused(text: str, line: int, column: int, reason: str) -> None:
    with pytest.raises(IRSyntaxError) as error:
        parse(text)
    assert reason in error.value.reason
    assert (error.value.line, error.value.column) == (line, column)
    assert str(error.value).split("\n")[2] == "  " + " " * (column - 1) + "^"


def test_lists_are_nested_to_a_bound() -> None:
    def nested(depth: int) -> str:
        attr = "[" * depth + "]" * depth
        return f"graph g() -> () {{ param %p : f32[] = zeros(a={attr}) }}"

    assert parse(nested(MAX_DEPTH))
    with pytest.raises(IRSyntaxError, match=f"nested {MAX_DEPTH} deep at most"):
        parse(nested(MAX_DEPTH + 1))
    with pytest.raises(IRSyntaxError, match=f"nested {MAX_DEPTH} deep at most"):
        parse(nested(100_000))


def test_kernels_are_not_nested_however_deep_the_text() -> None:
    text = broken("%1 = kernel k(%x) : f32[] { " * 5_000)
    with pytest.raises(IRSyntaxError, match="cannot stand inside a kernel"):
        parse(text)


@pytest.mark.parametrize(
    "filler", ['"' + "a" * 10**6, '"' + "\\a" * 10**5, "9" * 10**6]
)
def test_a_long_bad_token_is_refused_in_one_pass(filler: str) -> None:
    with pytest.raises(IRSyntaxError) as error:
        parse("graph " + filler)
    assert len(str(error.value)) < 300


def test_text_beyond_the_limit_is_refused_before_any_work() -> None:
    with pytest.raises(IRSyntaxError, match="IR text has at most 4194304 characters"):
        parse(" " * (lexer.MAX_TEXT + 1))


def test_an_error_message_holds_no_control_characters() -> None:
    with pytest.raises(IRSyntaxError) as error:
        parse("graph g() \x1b[31m \x07 red")
    assert "graph g() ?[31m ? red" in str(error.value)


def test_a_value_name_is_bounded() -> None:
    with pytest.raises(IRSyntaxError):
        parse(f"graph g(%{'a' * 300}: f32[]) -> () {{}}")


def test_an_illegal_graph_prints_all_the_same() -> None:
    """The verifier shows what it refuses."""
    node = parse(TENSOR).nodes[0]
    odd = replace(node, op="mish", attrs={"a": 1})
    graph = replace(parse(TENSOR), nodes=(odd,))
    assert "%1 = mish(%image, %conv1/kernel) {a=1} : f32[N,2,2,2]" in print_graph(graph)
    kernel = parse(KERNEL).nodes[0]
    nameless = replace(parse(KERNEL), nodes=(replace(kernel, attrs={}),))
    assert '%a = kernel ""(%x, %w)' in print_graph(nameless)


PIECES = [
    *("%1", "%x", "%y", "f32", "[N,3]", "{", "}", "(", ")", "=", ":", ",", "@", ";"),
    *("kernel", "yield", "schedule", "update", "arena", "stage", "param", "state"),
    *("-1", "0", "99999999999999999999", "1e400", "[[[[", "]", '"', "\\", "\0", "N"),
    *("relu", "conv2d", "broadcast_to", "same", "axes=[7]", "groups=3", "é", "\n"),
]


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """A sample with a few pieces cut, doubled, swapped or put in."""
    text = draw(st.sampled_from(list(SAMPLES.values())))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        kind = draw(st.sampled_from(["cut", "double", "put", "digit"]))
        if kind == "cut":
            text = text[:start] + text[end:]
        elif kind == "double":
            text = text[:end] + text[start:]
        elif kind == "put":
            text = text[:start] + draw(st.sampled_from(PIECES)) + text[start:]
        else:
            digit = str(draw(st.integers(0, 9)))
            text = text[:start] + re.sub(r"\d", digit, text[start:], count=1)
    return text


@settings(max_examples=600)
@given(mutations())
def test_mutated_text_is_read_or_refused_but_never_crashes(text: str) -> None:
    try:
        graph = verify(parse(text))
    except (IRSyntaxError, TypeRuleError, VerifyError):
        return
    assert parse(print_graph(graph)) == graph


def test_a_number_that_an_input_is_fed_stands_behind_its_type() -> None:
    text = "graph g(%x: f32[N], %p: f32[] = 0.75, %q: f32[] = 1e-08) -> () {\n}\n"
    graph = verify(parse(text))
    assert graph.feeds == (("p", 0.75), ("q", 1e-08))
    assert print_graph(graph) == text
    whole = parse("graph g(%p: f32[] = 2) -> () {}")
    assert whole.feeds == (("p", 2.0),)
    for wrong in ("true", "[1]", "fast", '"1"'):
        with pytest.raises(IRSyntaxError, match="expected a number, found") as error:
            parse(f"graph g(%p: f32[] = {wrong}) -> () {{}}")
        assert error.value.column == 21
