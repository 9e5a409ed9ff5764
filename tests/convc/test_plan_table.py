"""Each kernel stands once in the table, and what is known of it adds up."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Node
from convc.ir.ops import OPS
from convc.layers import dense, flatten
from convc.model import Model
from convc.networks import strided, two_conv
from convc.passes.manager import Stage
from convc.plan_table import (
    Plan,
    Work,
    amount,
    digits,
    duration,
    kernel_work,
    plan_table,
)
from convc.roofline import Peaks
from convc.tracing import Tensor, get_variable

PEAKS = Peaks(gemm=100e9, memory=10e9, cache=40e9)


def stages(step: str = "training") -> list[Stage]:
    model = Model(two_conv)
    chosen = model.training_step() if step == "training" else model.inference()
    return chosen.stages(batch=8, threads=2)


@pytest.fixture(scope="module")
def training() -> list[Stage]:
    return stages()


@pytest.fixture(scope="module")
def plan(training: list[Stage]) -> Plan:
    return plan_table(training)


def kernels(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.region is not None]


def test_every_kernel_stands_once(training: list[Stage], plan: Plan) -> None:
    listed = sorted(kernel.node for kernel in plan.kernels)
    assert listed == sorted(n.name for n in kernels(training[-1].graph))


def test_layers_stand_as_the_user_wrote_them(plan: Plan) -> None:
    assert [row.layer for row in plan.layers][:4] == [
        "conv1",
        "pool1",
        "conv2",
        "pool2",
    ]
    conv1 = plan.layers[0]
    assert (conv1.kind, conv1.output, conv1.params) == (
        "conv2d",
        "f32[N,28,28,32]",
        832,
    )


def test_a_layer_in_anothers_kernel_says_in_whose(plan: Plan) -> None:
    rows = {row.layer: row for row in plan.layers}
    assert rows["pool1"].kernels == ()
    assert rows["pool1"].within == ("conv1",)
    assert all("pool1" in kernel.others for kernel in rows["conv1"].kernels)
    assert "pool1 (max_pool2d) in conv1 " in str(plan)


def test_a_layer_that_leads_nothing_and_is_in_nothing_has_no_kernel() -> None:
    rows = {row.layer: row for row in plan_table(stages("inference")).layers}
    assert (rows["flatten"].kernels, rows["flatten"].within) == ((), ())
    assert "dropout (dropout), no kernel" in str(plan_table(stages("inference")))


def test_variables_outside_of_all_layers_lead_nothing_that_is_not_theirs() -> None:
    def net(image: Tensor) -> Tensor:
        image = image + get_variable("shift", [28, 28, 1])
        return dense(flatten(image), 10, name="logits")

    plan = plan_table(Model(net).training_step().stages(batch=4, threads=1))
    assert plan.layers[0].layer == "(variables)"
    assert plan.cells()[0][0] == "(variables) in optimizer"
    assert "optimizer" in [kernel.name for kernel in plan.others]


def test_no_layer_leads_the_optimizer(plan: Plan) -> None:
    assert [k.name for k in plan.others] == ["image_stored", "optimizer"]


def test_flops_are_those_of_the_ops_whatever_kernel_they_are_in(
    training: list[Stage], plan: Plan
) -> None:
    graph = training[-1].graph
    body = [
        n for kernel in kernels(graph) if kernel.region for n in kernel.region.nodes
    ]
    wanted = sum(
        OPS[n.op].flops([v.type for v in n.operands], n.attrs, 8) for n in body
    )
    assert sum(kernel.work.flops for kernel in plan.kernels) == wanted


def test_bytes_are_those_of_operands_and_results(training: list[Stage]) -> None:
    graph = training[-1].graph
    assert graph.arena is not None
    node = next(n for n in kernels(graph) if n.attrs["name"] == "logits_dense_bias")
    numbers = 8 * 1024 + 1024 * 10 + 10 + 8 * 10
    assert kernel_work(node, graph.arena, "numpy").nbytes == 4 * numbers


def test_the_prediction_is_that_of_the_schedule_the_kernel_has(
    training: list[Stage],
) -> None:
    graph = training[-1].graph
    assert graph.arena is not None
    node = kernels(graph)[2]
    work = kernel_work(node, graph.arena, "numpy")
    assert work.predicted is not None
    assert work.predicted > 0
    other = replace(node, schedule={"algorithm": "by hand"})
    assert kernel_work(other, graph.arena, "numpy") == replace(work, predicted=None)


def test_totals_are_the_sums(plan: Plan) -> None:
    *_, total = plan.cells()
    assert total[2] == "3,274,634"
    assert total[3] == amount(sum(k.work.flops for k in plan.kernels))
    predicted = [k.work.predicted for k in plan.kernels]
    assert total[6] == duration(sum(p for p in predicted if p is not None))


def test_a_run_adds_its_times_their_ratio_and_the_roof(training: list[Stage]) -> None:
    before = plan_table(training)
    times = {k.node: 2 * (k.work.predicted or 0.0) for k in before.kernels}
    measured = plan_table(training, "numpy", times, PEAKS)
    assert measured.headings()[-3:] == ("measured", "ratio", "roof")
    assert measured.cells()[-1][-2] == "2.00"
    for kernel in measured.kernels:
        work = kernel.work
        assert work.roof is not None
        assert work.roof == PEAKS.share(work.flops, work.nbytes, times[kernel.node])


def test_a_run_without_known_peaks_has_times_and_no_roof(training: list[Stage]) -> None:
    times = {node.name: 2e-3 for node in kernels(training[-1].graph)}
    table = plan_table(training, times=times)
    assert table.headings()[-3:] == ("measured", "ratio", "roof")
    assert all(row[-1] == "" for row in table.cells())
    assert table.cells()[-1][-3] == f"{2 * len(times)}.0 ms"
    assert "roof:" not in str(table)
    assert "ratio: measured / predicted" in str(table)


def test_a_bad_prediction_is_printed_as_it_is() -> None:
    work = Work(flops=10, nbytes=10, predicted=1e-3, measured=1.0, least=1e-9)
    assert work.ratio == 1000
    assert Work(predicted=None, measured=1.0).ratio is None
    assert (work + Work(predicted=None, measured=1.0)).predicted is None


def test_what_was_not_measured_has_no_total() -> None:
    one = Work(nbytes=1, measured=None)
    assert (one + Work(nbytes=1, measured=1.0)).measured is None


def test_the_plain_table_is_as_wide_as_a_terminal_and_loses_nothing(
    training: list[Stage],
) -> None:
    before = plan_table(training)
    assert max(len(line) for line in str(before).splitlines()[:-1]) <= 100
    times = {k.node: 1.0 for k in before.kernels}
    rows = str(plan_table(training, "numpy", times, PEAKS)).splitlines()
    assert max(len(row) for row in rows[:-3]) <= 120
    assert all(
        kernel.name.split("_", 1)[-1] in str(before) for kernel in before.kernels
    )


def test_rich_draws_the_same_rows(plan: Plan) -> None:
    out = StringIO()
    Console(file=out, width=140).print(plan)
    for line in str(plan).splitlines()[3:-3]:
        assert line.split() in [row.split() for row in out.getvalue().splitlines()]


def test_the_arena_stands_below_it(plan: Plan) -> None:
    assert str(plan).splitlines()[-1] == str(plan.memory)


def test_names_of_nested_layers_go_from_their_kernels_names() -> None:
    table = plan_table(Model(strided).inference().stages(batch=2, threads=1))
    assert "  conv_bias_relu" in str(table)


def test_only_a_planned_program_has_a_plan() -> None:
    with pytest.raises(CompileError, match="only a planned program has a plan"):
        plan_table(stages()[:3])


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (0.0, "0.00 us"),
        (34.1e-6, "34.1 us"),
        (0.15e-3, "150 us"),
        (0.9996e-3, "1.00 ms"),
        (2.134e-3, "2.13 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (1.2, "1.20 s"),
    ],
)
def test_times_have_three_digits(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1.00 k"),
        (80_340_000, "80.3 M"),
        (4e12, "4.00 T"),
    ],
)
def test_amounts_have_three_digits(number: float, said: str) -> None:
    assert amount(number) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(0.004, "0.00"), (9.996, "10.0"), (99.96, "100"), (1234, "1234")],
)
def test_digits_round_to_the_next_decade(number: float, said: str) -> None:
    assert digits(number) == said
