"""The verifier: each rule broken once; the message has both sides and the culprit."""

import re
from dataclasses import replace

import pytest
from ir_samples import KERNEL, PLANNED, SAMPLES, TENSOR
from op_bench import tensor

from convc.ir.errors import VerifyError
from convc.ir.graph import Graph, Node, Parameter, Value
from convc.ir.parser import parse
from convc.ir.verifier import underline, verify

X = Value("x", tensor("f32[N,3]"))


def refused(graph: Graph) -> tuple[str, str]:
    """The message's first line and the line that is underlined."""
    with pytest.raises(VerifyError) as error:
        verify(graph)
    lines = str(error.value).split("\n")
    carets = [i for i, line in enumerate(lines) if set(line) in ({"^"}, {"^", " "})]
    assert len(carets) == 1, error.value
    marked = lines[carets[0] - 1]
    start = len(marked) - len(marked.lstrip())
    assert lines[carets[0]].index("^") == start
    assert lines[carets[0]].count("^") == min(len(marked) - start, 100)
    return lines[0], marked.strip()


def edited(text: str, old: str, new: str) -> Graph:
    """A sample read with one piece replaced."""
    assert text.count(old) == 1, old
    return parse(text.replace(old, new))


@pytest.mark.parametrize("stage", SAMPLES)
def test_a_legal_graph_is_returned(stage: str) -> None:
    graph = parse(SAMPLES[stage])
    assert verify(graph) is graph


CHANNELS = (
    "conv2d: input has 1 channels, filter expects 4 (x: f32[N,4,4,1], w: f32[3,3,4,2])"
)
TEXT_EDITS = [
    # the type that the op's rule gives
    (
        *(TENSOR, "%2 = relu(%1) : f32[N,2,2,2]", "%2 = relu(%1) : f32[N,8]"),
        "relu: its rule gives f32[N,2,2,2], the program says f32[N,8]",
        "%2 = relu(%1) : f32[N,8]",
    ),
    (
        *(TENSOR, "[3,3,1,2]", "[3,3,4,2]"),
        CHANNELS,
        "%1 = conv2d(%image, %conv1/kernel)",
    ),
    (
        *(TENSOR, "%6 = add(%training/step, %one) : i64[]", "%6 = relu(%one) : i64[]"),
        "relu: operands must have one float dtype (x: i64[])",
        "%6 = relu(%one) : i64[]",
    ),
    # updates
    (
        *(TENSOR, "update %training/step = %6", "update %image = %6"),
        "update of %image: must name a parameter, each at most once",
        "update %image = %6",
    ),
    (
        *(KERNEL, "update %v = %d", "update %m = %d"),
        "update of %m: must name a parameter, each at most once",
        "update %m = %d",
    ),
    (
        *(TENSOR, "update %training/step = %6", "update %training/step = %7"),
        "update of %training/step: i64[] cannot take %7: f32[]",
        "update %training/step = %7",
    ),
    # parameters
    (
        *(TENSOR, "param %fc/kernel : f32[8,3]", "param %fc/kernel : f32[N,3]"),
        "a parameter has no batch axis, %fc/kernel is f32[N,3]",
        "param %fc/kernel : f32[N,3] = he_normal()",
    ),
    # stages
    (
        *(KERNEL, " stage kernel", ""),
        "a kernel cannot stand in a graph at the tensor stage",
        "%a = kernel dense_relu",
    ),
    (
        *(
            KERNEL,
            "%b = reshape(%a) {shape=[N,1,2]} : f32[N,1,2]",
            "%b = relu(%a) : f32[N,2]",
        ),
        "relu must stand in a kernel at the kernel stage",
        "%b = relu(%a) : f32[N,2]",
    ),
    (
        *(TENSOR, '(loss=%7, "the logits"=%4) {', "() stage planned {"),
        "conv2d must stand in a kernel at the planned stage",
        "%1 = conv2d",
    ),
    # kernels
    (
        *(KERNEL, "%2 = matmul(%0, %1) : f32[N,2]", "%2 = matmul(%0, %1) : f32[N,3]"),
        "matmul: its rule gives f32[N,2], the program says f32[N,3]",
        "%a = kernel dense_relu",
    ),
    (
        *(KERNEL, "yield %3\n  } schedule {a", "yield %0\n  } schedule {a"),
        "the kernel yields f32[N,3], its results are f32[N,2]",
        "%a = kernel dense_relu",
    ),
    # the arena
    (
        *(PLANNED, "%a 32 32 live 0 2", "%a 32 31 live 0 2"),
        "%a needs a buffer of 32 bytes, has 31",
        "%a = kernel act(%x)",
    ),
    (
        *(PLANNED, "    %x 0 32 live 0 2\n", ""),
        "%x needs a buffer of 32 bytes, has none",
        "graph planned",
    ),
    (
        *(PLANNED, "%b 32 32 live 0 2", "%b 64 64 live 0 2"),
        "%b lies outside the arena of 96 bytes",
        "%b 64 64 live 0 2",
    ),
    (
        *(PLANNED, "%x 0 32 live 0 2", "%x -1 32 live 0 0"),
        "%x lies outside the arena of 96 bytes",
        "%x -1 32 live 0 0",
    ),
    (
        *(PLANNED, "%a!scratch 64 32 live 0 0", "%a!scratch 0 -4 live 0 0"),
        "%a!scratch lies outside the arena of 96 bytes",
        "%a!scratch 0 -4 live 0 0",
    ),
    (
        *(PLANNED, "%x 0 32 live 0 2", "%x 0 32 live 1 0"),
        "%x dies at 0, before its 1",
        "%x 0 32 live 1 0",
    ),
    (
        *(PLANNED, "%x 0 32 live 0 2", "%x 0 32 live 0 2\n    %x 0 32 live 0 2"),
        "%x has 2 buffers",
        "%x 0 32 live 0 2",
    ),
    (
        *(PLANNED, "%a!scratch 64", "%a!scratch 0"),
        "%x and %a!scratch share bytes while both live",
        "%a!scratch 0 32 live 0 0",
    ),
    (
        *(PLANNED, "arena 96 batch 2 threads 1", "arena 96 batch 0 threads 1"),
        "an arena has a batch and threads of at least 1 and no negative size",
        "arena 96 batch 0 threads 1 {",
    ),
]


@pytest.mark.parametrize(("text", "old", "new", "reason", "culprit"), TEXT_EDITS)
def test_a_broken_rule_is_named_and_underlined(
    text: str, old: str, new: str, reason: str, culprit: str
) -> None:
    message, marked = refused(edited(text, old, new))
    assert message == reason
    assert marked.startswith(culprit)


def graph_of(*nodes: Node, **fields: object) -> Graph:
    """A graph with the input %x: f32[N,3]."""
    base = Graph("g", (X,), (), nodes, ())
    return replace(base, **fields)  # type: ignore[arg-type]


def relu(name: str, of: Value, **fields: object) -> Node:
    node = Node("relu", (of,), (Value(name, of.type),))
    return replace(node, **fields)  # type: ignore[arg-type]


Y, P = Value("y", X.type), Value("p", tensor("f32[3]"))
BUILT = [
    (
        graph_of(relu("1", Y)),
        "%y: f32[N,3] is used before it is defined",
        "%1 = relu(%y)",
    ),
    (
        graph_of(relu("1", Value("x", tensor("f32[3]")))),
        "%x is used as f32[3], defined as f32[N,3]",
        "%1 = relu(%x)",
    ),
    (graph_of(relu("x", X)), "%x is defined 2 times", "%x = relu(%x)"),
    (
        graph_of(relu("1", X), relu("1", X)),
        "%1 is defined 2 times",
        "%1 = relu(%x)",
    ),
    (
        graph_of(relu("a b", X)),
        "a name has letters, digits and _ . / - only, got 'a b'",
        "%a b = relu(%x)",
    ),
    (graph_of(relu("1", X, op="mish")), "unknown op 'mish'", "%1 = mish(%x)"),
    (
        graph_of(relu("1", X, attrs={"k": 1})),
        "relu: has no attribute 'k' (it has: none)",
        "%1 = relu(%x) {k=1}",
    ),
    (
        graph_of(relu("1", X, op="max_pool2d", attrs={})),
        "max_pool2d: needs the attribute 'window'",
        "%1 = max_pool2d(%x)",
    ),
    (
        graph_of(relu("1", X, op="softmax", operands=(X, X))),
        "softmax: takes 1 operands (x), got 2",
        "%1 = softmax(%x, %x)",
    ),
    (
        graph_of(relu("1", X, schedule={})),
        "relu: only a kernel has a schedule",
        "%1 = relu(%x)",
    ),
    (
        graph_of(outputs=(("y", Y),)),
        "output y is %y: f32[N,3], which nothing defines",
        "graph g",
    ),
    (
        graph_of(outputs=(("y", X), ("y", X))),
        "the output 'y' is declared 2 times",
        "graph g",
    ),
    (
        graph_of(
            parameters=(Parameter(P, "zeros"),),
            updates=((P, Y),),
        ),
        "update of %p is %y: f32[N,3], which nothing defines",
        "update %p = %y",
    ),
    (
        graph_of(
            parameters=(Parameter(P, "normal", {"stddev": float("nan")}),),
        ),
        "normal: stddev must be finite, is nan",
        "param %p : f32[3] = normal(stddev=nan)",
    ),
    (
        graph_of(stage="planned"),
        "a graph at the planned stage needs an arena",
        "graph g",
    ),
]


@pytest.mark.parametrize(("graph", "reason", "culprit"), BUILT)
def test_what_only_a_program_can_build_is_refused_too(
    graph: Graph, reason: str, culprit: str
) -> None:
    message, marked = refused(graph)
    assert message == reason
    assert marked.startswith(culprit)


def test_an_unknown_stage_is_refused_with_those_there_are() -> None:
    with pytest.raises(VerifyError, match="unknown stage 'fast', known: tensor, "):
        verify(graph_of(stage="fast"))


def test_attributes_must_be_complete() -> None:
    w = Value("w", tensor("f32[3,2]"))
    node = Node("matmul", (X, w), (Value("1", tensor("f32[N,2]")),), {})
    message, _ = refused(Graph("g", (X, w), (), (node,), ()))
    assert message.startswith("matmul: attributes are incomplete, expected {'trans")


def kernel(**fields: object) -> Graph:
    """The sample's first kernel with fields of its node or region replaced."""
    graph = parse(KERNEL)
    node = graph.nodes[0]
    assert node.region is not None
    inside = {k: v for k, v in fields.items() if k in ("inputs", "nodes", "yields")}
    outside = {k: v for k, v in fields.items() if k not in inside}
    region = replace(node.region, **inside)  # type: ignore[arg-type]
    node = replace(node, region=region, **outside)  # type: ignore[arg-type]
    return replace(graph, nodes=(node, *graph.nodes[1:]))


INNER = parse(KERNEL).nodes[0].region
assert INNER is not None
KERNELS = [
    (kernel(attrs={}), "a kernel has a name and no more, got {}"),
    (kernel(attrs={"name": "k", "a": 1}), "got {'name': 'k', 'a': 1}"),
    (kernel(op="relu"), "relu: only a kernel has a body"),
    (kernel(inputs=INNER.inputs[:1]), "a kernel's inputs must be %0, %1, … of its"),
    (kernel(nodes=(*INNER.nodes, INNER.nodes[0])), "%2 is defined twice in the kernel"),
    (kernel(nodes=INNER.nodes[:1]), "the kernel yields %3, which it does not define"),
    (kernel(yields=()), "the kernel yields , its results are f32[N,2]"),
    (kernel(nodes=(parse(KERNEL).nodes[0],)), "a kernel cannot stand inside a kernel"),
    (
        kernel(nodes=(relu("a b", INNER.inputs[0]), *INNER.nodes)),
        "a kernel's value cannot be called 'a b'",
    ),
]


@pytest.mark.parametrize(("graph", "reason"), KERNELS)
def test_a_malformed_kernel_is_refused(graph: Graph, reason: str) -> None:
    message, marked = refused(graph)
    assert reason in message
    assert marked.startswith(("%a = kernel", "%a = relu", '%a = kernel ""'))


CHAIN = """\
graph chain(%x: f32[N,4]) -> (y=%c) stage planned {
  state %m : f32[4] = zeros()
  %a = kernel one(%x) : f32[N,4] {
    %1 = exp(%0) : f32[N,4]
    yield %1
  }
  %b = kernel two(%a) : f32[N,4] {
    %p = negate(%0) : f32[N,4]
    %q = exp(%p) : f32[N,4]
    yield %q
  }
  %c, %n = kernel three(%b, %m) : f32[N,4], f32[4] {
    %2 = bias_add(%0, %1) : f32[N,4]
    %3 = exp(%1) : f32[4]
    yield %2, %3
  }
  update %m = %n
  arena 160 batch 2 threads 1 {
    %x 0 32 live 0 4
    %m 128 16 live 0 4
    %a 32 32 live 0 1
    %b 64 32 live 1 2
    %c 96 32 live 2 4
    %n 128 16 live 0 4
  }
}
"""


def test_two_values_may_share_bytes_when_one_dies_first() -> None:
    later = edited(CHAIN, "%c 96 32", "%c 32 32")
    assert verify(later) is later


@pytest.mark.parametrize(
    ("row", "moved"),
    [
        ("%b 64 32 live 1 2", "%b 32 32 live 1 2"),
        ("%c 96 32 live 2 4", "%c 64 32 live 2 4"),
    ],
)
def test_a_result_may_lie_on_an_operand_that_ends_there(row: str, moved: str) -> None:
    graph = edited(CHAIN, row, moved)
    assert verify(graph) is graph


READS = "%p = negate(%0) : f32[N,4]\n    %q = exp(%p)"
B = "%b 64 32 live 1 2"
ON_A = "%b 32 32 live 1 2"


@pytest.mark.parametrize(
    ("row", "moved", "old", "new"),
    [
        # neither at the same place nor, alive in the meantime, at the same launch
        (B, "%b 48 32 live 1 2", READS, READS),
        (B, "%b 32 32 live 0 2", READS, READS),
        ("%a 32 32 live 0 1", "%a 64 32 live 0 2", READS, READS),
        # an input, and operands that are read in another way
        ("%a 32 32 live 0 1", "%a 0 32 live 0 1", READS, READS),
        (B, ON_A, READS, "%q = softmax(%0)"),
        (B, ON_A, READS, READS.replace("exp(%p)", "add(%0, %p)")),
        (B, ON_A, "yield %q", "yield %0"),
    ],
)
def test_any_other_overlap_is_refused(row: str, moved: str, old: str, new: str) -> None:
    assert row in CHAIN
    message, _ = refused(edited(CHAIN.replace(row, moved), old, new))
    assert "share bytes while both live" in message


def test_an_operand_that_is_read_through_a_view_too_is_not_overwritten() -> None:
    text = CHAIN.replace("two(%a)", "two(%a, %v)")
    text = text.replace(
        "  %b = ", "  %v = reshape(%a) {shape=[N,4]} : f32[N,4]\n  %b = "
    )
    for old, new in (("2 4", "3 4"), ("1 2", "2 3"), ("0 1", "0 2")):
        text = text.replace(f"live {old}", f"live {new}")
    text = text.replace("    %b 64", "    %v 32 32 live 0 2\n    %b 64")
    graph = parse(text)
    assert verify(graph) is graph
    message, _ = refused(edited(text, "%b 64 32", "%b 32 32"))
    assert "share bytes while both live" in message


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("%a 32 32 live 0 1", "%a 32 32 live 0 0"),
        ("%x 0 32 live 0 4", "%x 0 32 live 0 2"),
        ("%c 96 32 live 2 4", "%c 96 32 live 3 4"),
        ("%m 128 16 live 0 4", "%m 128 16 live 1 4"),
    ],
)
def test_a_buffer_lives_while_it_is_needed(row: str, wrong: str) -> None:
    message, marked = refused(edited(CHAIN, row, wrong))
    assert re.match(r"%. is needed from launch \d to \d, its buffer lives", message)
    assert marked == wrong


def test_scratch_lives_while_its_kernel_runs() -> None:
    message, _ = refused(edited(PLANNED, "64 32 live 0 0", "64 32 live 1 1"))
    assert "%a!scratch is needed from launch 0 to 0, its buffer lives" in message


def test_a_donated_parameter_is_not_read_again() -> None:
    text = CHAIN.replace("  update %m", LATE + "  update %m")
    text = text.replace("    %n 128", "    %late 144 16 live 3 4\n    %n 128")
    message, marked = refused(parse(text))
    assert message == "%m is read after %n has taken its place"
    assert marked.startswith("%late = kernel four")


LATE = """  %late = kernel four(%m) : f32[4] {
    %1 = exp(%0) : f32[4]
    yield %1
  }
"""


def test_a_view_and_an_update_may_share_their_sources_bytes() -> None:
    text = (
        "graph g() -> () stage planned {\n"
        "  state %m : f32[2] = zeros()\n"
        "  %a = kernel k(%m) : f32[2] {\n"
        "    %1 = negate(%0) : f32[2]\n    yield %1\n  }\n"
        "  %b = reshape(%a) {shape=[2,1]} : f32[2,1]\n"
        "  update %m = %a\n"
        "  arena 8 batch 1 threads 1 {\n"
        "    %m 0 8 live 0 9\n    %a 0 8 live 0 9\n    %b 0 8 live 0 9\n  }\n}\n"
    )
    graph = parse(text)
    assert verify(graph) is graph


def test_the_culprit_is_found_beside_its_namesakes() -> None:
    """Buffers, bodies and updates that mention a name are not its definition."""
    graph = parse(PLANNED)
    head = "%a = kernel act(%x) : f32[N,4] {"
    text = underline(graph, "a", "why").split("\n")
    assert text[text.index("  " + "^" * len(head)) - 1] == "  " + head
    assert underline(graph, "nowhere", "why").split("\n")[1].startswith("graph planned")


MOVED = """
graph g(%x: f32[N,6]) -> (y=%1) stage planned {
  %1 = reshape(%x) {shape=[N,6]} : f32[N,6]{1,0}
  arena 48 batch 2 threads 1 {
    %x 0 48 live 0 1
    %1 0 48 live 0 1
  }
}
"""


def test_a_view_keeps_the_place_of_the_batch() -> None:
    with pytest.raises(VerifyError, match="keep the batch in different places"):
        verify(parse(MOVED.lstrip()))


def test_one_image_has_the_same_bytes_batch_first_and_last() -> None:
    verify(parse(MOVED.lstrip().replace("batch 2", "batch 1")))


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ((("y", 1.0),), "%y is fed a number: it must be an input, fed one only"),
        ((("p", 1.0), ("p", 2.0)), "%p is fed a number: it must be an input, fed one"),
        ((("x", 1.0),), "an input that is fed a number is f32[], %x is f32[N]"),
        ((("p", float("inf")),), "%p is fed inf; it must be finite"),
    ],
)
def test_only_a_scalar_input_is_fed_a_finite_number(
    feeds: tuple[tuple[str, float], ...], reason: str
) -> None:
    graph = parse("graph g(%x: f32[N], %p: f32[]) -> () {}")
    with pytest.raises(VerifyError, match=re.escape(reason)):
        verify(replace(graph, feeds=feeds))
