"""The page of a layer: what stands on it, and how it is cut to a screen."""

from dataclasses import replace

import pytest

from convc.backends.base import Cost
from convc.cli.colour import WIDTH
from convc.cli.explanation import MOST_ALTERNATIVES, explanation_text
from convc.explain import (
    Alternative,
    Code,
    Explanation,
    KernelFacts,
    Line,
    Memory,
    Touch,
)
from convc.plan_table import KernelRow, Work

WORK = Work(flops=2_000_000, nbytes=1_000_000, predicted=1e-3, measured=None)
KERNEL = KernelFacts(
    row=KernelRow("conv1_conv_pool", "4", "conv1", ("conv1", "pool1"), WORK),
    ops=(
        ("conv1", ("conv2d",)),
        ("pool1", ("max_pool2d", "max_pool2d")),
        ("", ("add",)),
    ),
    schedule="im2col, rows=5",
    origin="cost model",
    cost=Cost(flops=1_500_000, nbytes=1_000_000, local=0, calls=12, seconds=1e-3),
    alternatives=(
        Alternative("im2col, rows=5", 1e-3, None, True),
        Alternative("shifted, rows=5", 2e-3, None, False),
    ),
    memory=Memory(1_000_000, 0, 0.25),
    share=0.125,
    code=Code(
        "conv1_conv_pool", 41, ("def conv1_conv_pool(mem, n, t):", "", "    pass")
    ),
)
PAGE = Explanation(
    layer="conv1",
    kind="conv2d",
    output="f32[N,28,28,8]",
    lines=(Line("net.py", 6, "x = conv2d(image, 8, 3)"),),
    ops=("%1 = conv2d(%image, %conv1/kernel) : f32[N,28,28,8]",),
    parameters=("param %conv1/kernel : f32[3,3,1,8] = zeros()",),
    passes=(
        Touch("fuse-conv", ("fused conv2d %1 into conv1_conv_pool",)),
        Touch("commute", (), (("relu %2", "it is read twice"),)),
    ),
    kernels=(KERNEL,),
)
SHOWN = """\
conv1 (conv2d) f32[N,28,28,8]
  net.py:6  x = conv2d(image, 8, 3)

ops as traced
  %1 = conv2d(%image, %conv1/kernel) : f32[N,28,28,8]

parameters
  param %conv1/kernel : f32[3,3,1,8] = zeros()

passes
  fuse-conv  fused conv2d %1 into conv1_conv_pool
  commute    refused: relu %2: it is read twice

kernel conv1_conv_pool
  ops       conv2d; max_pool2d x2 of pool1; add of the step
  schedule  im2col, rows=5
            chosen by the cost model, of 2
            predicted
              1.00 ms  im2col, rows=5  <- chosen
              2.00 ms  shifted, rows=5
  work      2.00 MFLOP by definition, 1.00 MB in and out, 2.00 FLOP/B; predicted for
            this algorithm: 1.50 MFLOP, 0 B more through the caches, 12 calls of each
            worker
  time      predicted 1.00 ms, 12.5% of the step's predicted time
  memory    1.00 MB of values and 0 B of scratch, 25.0% of the arena
  code      conv1_conv_pool, from line 41
     41  def conv1_conv_pool(mem, n, t):
     42
     43      pass
"""


def page(kernel: KernelFacts) -> str:
    return explanation_text(replace(PAGE, kernels=(kernel,))).plain


def test_the_page() -> None:
    assert explanation_text(PAGE).plain == SHOWN


def test_a_layer_without_a_kernel_says_so() -> None:
    text = explanation_text(replace(PAGE, kernels=())).plain
    assert text.endswith("\nno kernel runs any of it\n")


def test_a_run_adds_what_was_measured() -> None:
    work = replace(WORK, measured=4e-3, least=1e-3)
    kernel = replace(KERNEL, row=replace(KERNEL.row, work=work))
    said = (
        "predicted 1.00 ms, measured 4.00 ms (ratio 4.00), 25% of the roofline, 12.5%"
    )
    assert said in page(kernel)
    assert "of the step's time" in page(kernel)


def test_a_lockfile_adds_a_column_of_measured_times() -> None:
    one, two = KERNEL.alternatives
    kernel = replace(KERNEL, alternatives=(replace(one, measured=3e-3), two))
    assert page(replace(kernel, origin="lockfile")).count("\n            ") >= 5
    lines = page(replace(kernel, origin="lockfile")).splitlines()
    at = lines.index("            predicted   measured")
    assert lines[at - 1].strip() == "measured the fastest, from the lockfile, of 2"
    assert (
        lines[at + 1] == "              1.00 ms    3.00 ms  im2col, rows=5  <- chosen"
    )
    assert lines[at + 2] == "              2.00 ms             shifted, rows=5"


def test_a_schedule_given_by_hand_need_not_have_a_prediction() -> None:
    alone = Alternative("by hand", None, None, True)
    row = replace(KERNEL.row, work=replace(WORK, predicted=None))
    kernel = replace(
        KERNEL, row=row, origin="given", cost=None, alternatives=(alone,), share=None
    )
    assert "given by hand, the only one" in page(kernel)
    assert "time      predicted by nobody\n" in page(kernel)


@pytest.mark.parametrize("chosen_at", [0, 20])
def test_of_many_alternatives_the_best_and_the_chosen_are_shown(chosen_at: int) -> None:
    found = [
        Alternative(f"rows={i}", (i + 1) * 1e-3, None, i == chosen_at)
        for i in range(21)
    ]
    text = page(replace(KERNEL, alternatives=tuple(found)))
    assert f"rows={chosen_at}  <- chosen" in text
    assert text.count(" ms  rows=") == MOST_ALTERNATIVES + 1
    assert f"and {21 - MOST_ALTERNATIVES - 1} more (--json has all)" in text


@pytest.mark.parametrize("columns", [None, 70, 200])
def test_long_phrases_are_wrapped_below_themselves(
    columns: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the width of a terminal, if that is narrower than the page."""
    if columns:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
    long = Touch("fuse-conv", ("fused " + ", ".join(["conv2d %1"] * 20),))
    lines = explanation_text(replace(PAGE, passes=(long,))).plain.splitlines()
    widest = min(WIDTH, columns or WIDTH)
    assert widest - 10 < max(map(len, lines)) <= widest
    at = lines.index("passes")
    assert len(lines[at + 2]) - len(lines[at + 2].lstrip()) == len("  fuse-conv  ")
