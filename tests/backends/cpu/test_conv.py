"""Every algorithm for a convolution gives what the oracle gives."""

from collections.abc import Iterator, Sequence

import pytest
from compiled import compiled, faults, inputs_for, parameters_for, ran
from layer_cases import ENDINGS, POOLED, WIDE, layer
from pass_bench import graph_of
from schedules import candidates_of, holds, scheduled
from window_cases import CONVOLUTIONS

from convc.ir.errors import CompileError
from convc.ir.graph import Attrs, Graph
from convc.ir.rounding import bounded
from convc.passes.manager import Pass
from convc.pipeline import EXACT_LOWERING, LOWERING, Step
from convc.program import Program
from convc.trust.bisect import KERNELS

BATCH = 7
SETTINGS = ((2, 5), (9, 7))
"""Threads and images: fewer images than planned, and more threads than images."""
SUMS = ("sum", "bias sum_before relu", "bias sigmoid", "bias pool argmax sum tanh")
"""Endings with a residual or another activation."""


def tried(
    graph: Graph, threads: int, only: Sequence[str] = ()
) -> Iterator[tuple[str, Program]]:
    """A program for the best and the worst tile of every algorithm, or some."""
    chosen: dict[object, list[Attrs]] = {}
    for candidate in candidates_of(graph, "conv2d", BATCH, threads):
        algorithm = candidate.schedule["algorithm"]
        if not only or algorithm in only:
            chosen.setdefault(algorithm, [])[1:] = [candidate.schedule]
    assert chosen
    for schedule in (s for several in chosen.values() for s in several):
        passes = scheduled("conv2d", schedule)
        yield f"{schedule} {threads}", compiled(graph, BATCH, threads, passes)


def wrong(graph: Graph, only: Sequence[str] = ()) -> list[str]:
    """What is wrong with any algorithm, by the bound of how it is computed.

    That is 0 for sums of whole numbers.
    """
    found = []
    for threads, n in SETTINGS:
        tests = [
            (inputs_for(graph, n, whole), parameters_for(graph, whole))
            for whole in (True, False)
        ]
        for name, program in tried(graph, threads, only):
            own = [bounded(program.graph, *test) for test in tests]
            for (feeds, given), bounds in [*zip(tests, own, strict=True)] * 2:
                program.load(given)
                result = ran(program, feeds)
                found += [f"{name}: {f}" for f in faults(graph, bounds, result)]
    return found


@pytest.mark.parametrize("ending", ["bare", "bias", "bias_relu"])
@pytest.mark.parametrize("note", CONVOLUTIONS)
def test_every_algorithm_agrees_with_the_oracle(note: str, ending: str) -> None:
    assert not wrong(layer(CONVOLUTIONS[note], ENDINGS[ending]))


@pytest.mark.parametrize("window", [(2, 2), (1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("note", POOLED)
def test_pooling_on_the_tile_agrees_with_the_oracle(
    note: str, window: tuple[int, int]
) -> None:
    """With and without bias, ReLU and the index of the largest."""
    number = list(POOLED).index(note) + window[0]
    for ending in list(ENDINGS.values())[4 + number % 2 :: 2]:
        assert not wrong(layer(POOLED[note], ending, window))


def algorithms(graph: Graph) -> set[object]:
    found = candidates_of(graph, "conv2d", BATCH, 2)
    return {c.schedule["algorithm"] for c in found}


def test_an_algorithm_is_offered_where_it_can_serve() -> None:
    always = {"im2col_rows"}
    plain = ((6, 6), 2, (3, 3), 4, {"padding": "same"})
    assert algorithms(layer(plain)) == always | {"shifted_gemm"}
    assert algorithms(layer(plain, "pool")) == always | {
        "shifted_gemm",
        "pooled_direct",
    }
    assert algorithms(layer(CONVOLUTIONS["groups"])) == always
    assert algorithms(layer(CONVOLUTIONS["same_dilated"])) == always
    assert algorithms(layer(POOLED["rows_of_padding"])) == always
    many = ((6, 6), 4, (3, 3), 4, {"padding": "same"})
    assert "pooled_direct" not in algorithms(layer(many, "pool"))


def test_a_one_by_one_convolution_is_one_product_per_tile() -> None:
    graph = layer(((6, 6), 8, (1, 1), 4, {}))
    passes = scheduled("conv2d", {"algorithm": "shifted_gemm", "images": 8, "rows": 6})
    program = compiled(graph, 16, 1, passes)
    emitted = program.kernels[-1]
    lines = program.source.splitlines()[emitted.first - 1 : emitted.last]
    calls = [line for line in lines if "yield call(" in line]
    assert [c.strip() for c in calls] == ["yield call(matmul, a, s, out=z[at])"]


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ({"algorithm": "winograd", "images": 0, "m": 2}, "positive images, has 0"),
        ({"algorithm": "winograd", "images": 4}, "wants .*'m'"),
        (
            {"algorithm": "im2col_rows", "images": 4, "rows": -1},
            "positive rows, has -1",
        ),
        (
            {"algorithm": "fft", "images": 4, "rows": 1},
            "unknown algorithm 'fft', known",
        ),
    ],
)
def test_a_schedule_that_cannot_run_is_refused(schedule: Attrs, reason: str) -> None:
    with pytest.raises(CompileError, match=reason):
        compiled(layer(WIDE["odd"]), BATCH, 1, scheduled("conv2d", schedule))


@pytest.mark.parametrize(("images", "rows"), [(1, 1), (5, 3), (100, 100)])
@pytest.mark.parametrize(
    "algorithm", ["im2col_rows", "shifted_gemm", "pooled_direct", "winograd"]
)
def test_any_tile_size_gives_the_same_numbers(
    algorithm: str, images: int, rows: int
) -> None:
    """Also more images or rows than there are."""
    case = WIDE["same"] if algorithm == "winograd" else POOLED["as_in_two_conv"]
    size = {"m": 2} if algorithm == "winograd" else {"rows": rows}
    schedule = {"algorithm": algorithm, "images": images, **size}
    graph = layer(case, "bias pool argmax relu")
    given, feeds = parameters_for(graph, True), inputs_for(graph, BATCH, True)
    program = compiled(graph, BATCH, 2, scheduled("conv2d", schedule))
    program.load(given)
    assert not faults(graph, bounded(graph, feeds, given), ran(program, feeds))


TIED = """
graph g(%x: f32[N,8,8,64]) -> (y=%2) {
  param %w : f32[3,3,64,64] = zeros()
  %1 = conv2d(%x, %w) {padding=same} : f32[N,8,8,64]
  %2 = relu(%1) : f32[N,8,8,64]
}
"""
GRADIENT = TIED.replace("(y=%2)", "(y=%2, d=%5)").replace(
    "\n}",
    """
  %3 = max_pool2d_argmax(%2) {window=[2,2], strides=[2,2]} : u8[N,4,4,64]
  %4 = max_pool2d(%2) {window=[2,2], strides=[2,2]} : f32[N,4,4,64]
  %5 = max_pool2d_grad(%3, %4) {window=[2,2], strides=[2,2], size=[8,8]} : f32[N,8,8,64]
}""",
)


def forward_of(text: str, passes: Sequence[Pass]) -> tuple[str, list[str]]:
    """The algorithm that passes give a graph's conv2d, and what they refused."""
    stages = Step(graph_of(text), tuple(passes)).stages(batch=64, threads=2)
    (chosen,) = (s for s in stages if s.name == "choose-schedule")
    node = next(n for n in chosen.graph.nodes if holds(n, "conv2d"))
    assert node.schedule
    return str(node.schedule["algorithm"]), [r.reason for r in chosen.refusals]


def test_an_exact_step_is_made_of_sums() -> None:
    """Where exact is asked for; else the best prediction counts."""
    assert forward_of(TIED, LOWERING) == ("winograd", [])
    assert forward_of(GRADIENT, LOWERING) == ("winograd", [])
    algorithm, reasons = forward_of(GRADIENT, EXACT_LOWERING)
    assert algorithm not in ("winograd", "dft")
    assert any(" is predicted to be faster, but does not sum" in r for r in reasons)
    found = candidates_of(graph_of(TIED), "conv2d", 64, 2)
    indirect = {c.schedule["algorithm"] for c in found if not c.direct}
    assert indirect == {"winograd", "dft"}


FORWARD = """
graph g(%x: f32[N,5,5,2]) -> (y=%k) stage kernel {{
  param %w : f32[3,3,2,3] = zeros()
  %k = kernel pooled(%x, %w) : f32[N,2,2,3] {{
    %a = conv2d(%0, %1) {{padding=same}} : f32[N,5,5,3]
    %b = max_pool2d(%a) {{{0}}} : f32[N,2,2,3]
    yield %b
  }}
}}
"""
BACKWARD = """
graph g(%x: f32[N,5,5,2], %i: u8[N,2,2,3], %dy: f32[N,2,2,3]) -> (y=%k) stage kernel {{
  %k = kernel unpooled(%x, %i, %dy) : f32[3,3,2,3] {{
    %a = max_pool2d_grad(%1, %2) {{{0}, size=[5,5]}} : f32[N,5,5,3]
    %b = conv2d_filter_grad(%0, %a) {{kernel=[3,3], padding=same}} : f32[3,3,2,3]
    yield %b
  }}
}}
"""


@pytest.mark.parametrize("text", [FORWARD, BACKWARD])
@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        ("window=[3,3], strides=[2,2]", "windows of the pool overlap or leave gaps"),
        ("window=[2,2], strides=[3,3]", "windows of the pool overlap or leave gaps"),
        (
            "window=[3,3], strides=[3,3], padding=same",
            "windows of the pool reach into its padding",
        ),
    ],
)
def test_a_pool_that_tiles_cannot_hold_is_refused(
    text: str, pool: str, reason: str
) -> None:
    """Though no pass puts it there: a stage may come from a file."""
    with pytest.raises(CompileError, match=reason):
        Step(graph_of(text.format(pool)), KERNELS).compile(batch=4, threads=1)
