"""A diff says what was done to a program, once, whatever values are called."""

import re
from itertools import pairwise

import pytest
from pass_bench import graph_of

from convc.diff import KINDS, Change, diff
from convc.ir.graph import Graph
from convc.ir.printer import print_graph
from convc.model import Model
from convc.networks import NETWORKS
from convc.passes.manager import Stage
from convc.pipeline import LOWERING, Step

BASE = """
graph g(%x: f32[N,4,4,2]) -> (y=%4) {
  param %w : f32[3,3,2,2] = glorot_uniform()   @ net.py:1 conv1
  param %b : f32[2] = zeros()   @ net.py:1 conv1
  %1 = conv2d(%x, %w) {padding=same} : f32[N,4,4,2]   @ net.py:1 conv1
  %2 = bias_add(%1, %b) : f32[N,4,4,2]   @ net.py:1 conv1
  %3 = relu(%2) : f32[N,4,4,2]   @ net.py:1 conv1
  %4 = tanh(%3) : f32[N,4,4,2]   @ net.py:2 act
}
"""
KERNEL = """
graph g(%x: f32[N,4,4,2]) -> (y=%4) stage kernel {
  param %w : f32[3,3,2,2] = glorot_uniform()   @ net.py:1 conv1
  param %b : f32[2] = zeros()   @ net.py:1 conv1
  %3 = kernel conv1_conv_bias_relu(%x, %w, %b) : f32[N,4,4,2] {
    %a = conv2d(%0, %1) {padding=same} : f32[N,4,4,2]   @ net.py:1 conv1
    %b = bias_add(%a, %2) : f32[N,4,4,2]   @ net.py:1 conv1
    %c = relu(%b) : f32[N,4,4,2]   @ net.py:1 conv1
    yield %c
  }   @ net.py:1 conv1
  %4 = kernel act_tanh(%3) : f32[N,4,4,2] {
    %a = tanh(%0) : f32[N,4,4,2]   @ net.py:2 act
    yield %a
  }   @ net.py:2 act
}
"""


def changed(before: str, after: str) -> list[str]:
    """The changes between two texts, a line each, without locations."""
    return [line(change) for change in diff(graph_of(before), graph_of(after))]


def line(c: Change) -> str:
    key = f"[{c.key}]" if c.key else ""
    return f"{c.kind} {c.subject}{key}: {c.old} -> {c.new}"


def edited(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def stages(name: str, kind: str) -> list[Stage]:
    model = Model(NETWORKS[name])
    step = model.training_step() if kind == "training" else model.inference()
    return step.stages(batch=4, threads=1)


def renumbered(graph: Graph) -> Graph:
    """The same program with other numbers for its values."""
    text = re.sub(
        r"%(\d+)(?=[^\n]*(?:\n|$))",
        lambda m: f"%{1000 - int(m.group(1))}",
        print_graph(graph),
    )
    return graph_of(text)


@pytest.mark.parametrize("text", [BASE, KERNEL])
def test_nothing_changed_between_a_program_and_itself(text: str) -> None:
    assert changed(text, text) == []


@pytest.mark.parametrize("kind", ["training", "inference"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_diff_is_empty_where_the_text_is_the_same_and_only_there(
    name: str, kind: str
) -> None:
    for a, b in pairwise(stages(name, kind)):
        assert (a.text == b.text) == (diff(a.graph, b.graph) == ())


def test_other_numbers_are_no_change() -> None:
    """At the tensor stage, where a body's %0 is nobody's operand."""
    for stage in stages("two_conv", "training"):
        if stage.graph.stage == "tensor":
            again = renumbered(stage.graph)
            assert again != stage.graph
            assert diff(stage.graph, again) == ()


def test_other_names_are_no_change_in_kernels_either() -> None:
    pairs = ("%3", "%out"), ("%c", "%z")
    assert changed(KERNEL, edited(KERNEL, *pairs)) == []


def test_a_change_shows_once_and_not_at_every_reader() -> None:
    after = edited(BASE, ("relu", "sigmoid"))
    assert changed(BASE, after) == [
        "deleted relu %3: relu %3 -> ",
        "added sigmoid %3:  -> sigmoid %3",
        "operand tanh %4[0]: relu %3 -> sigmoid %3",
    ]


def test_fusing_is_said_of_each_op_and_of_nothing_else() -> None:
    kernel = "conv1_conv_bias_relu"
    assert changed(BASE, KERNEL) == [
        "stage graph: tensor -> kernel",
        f"fused conv2d %1:  -> {kernel}",
        f"fused bias_add %2:  -> {kernel}",
        f"fused relu %3:  -> {kernel}",
        "fused tanh %4:  -> act_tanh",
    ]
    assert changed(KERNEL, BASE) == [
        "stage graph: kernel -> tensor",
        f"unfused conv2d %1: {kernel} -> ",
        f"unfused bias_add %2: {kernel} -> ",
        f"unfused relu %3: {kernel} -> ",
        "unfused tanh %4: act_tanh -> ",
    ]


def test_kernels_of_one_name_are_told_apart_by_their_nodes() -> None:
    """A layer that is used twice gives two kernels that are called alike."""
    traced = """
graph g(%x: f32[N,4]) -> (y=%4) {
  param %w : f32[4,4] = glorot_uniform()   @ net.py:1 fc
  %1 = matmul(%x, %w) : f32[N,4]   @ net.py:1 fc
  %2 = relu(%1) : f32[N,4]   @ net.py:1 fc
  %3 = matmul(%2, %w) : f32[N,4]   @ net.py:2 fc
  %4 = relu(%3) : f32[N,4]   @ net.py:2 fc
}
"""
    stages = Step(graph_of(traced), LOWERING).stages(batch=4, threads=1)
    fused = next(s for s in stages if s.name == "fuse-dense")
    assert fused.before is not None
    lines = [line(c) for c in diff(fused.before, fused.graph) if c.kind == "fused"]
    assert lines == [
        "fused matmul %1:  -> fc_dense_relu %2",
        "fused relu %2:  -> fc_dense_relu %2",
        "fused matmul %3:  -> fc_dense_relu %4",
        "fused relu %4:  -> fc_dense_relu %4",
    ]


def test_a_kernel_that_joins_another_says_where_its_ops_were() -> None:
    after = """
    graph g(%x: f32[N,4,4,2]) -> (y=%4) stage kernel {
      param %w : f32[3,3,2,2] = glorot_uniform()   @ net.py:1 conv1
      param %b : f32[2] = zeros()   @ net.py:1 conv1
      %4 = kernel all(%x, %w, %b) : f32[N,4,4,2] {
        %a = conv2d(%0, %1) {padding=same} : f32[N,4,4,2]   @ net.py:1 conv1
        %b = bias_add(%a, %2) : f32[N,4,4,2]   @ net.py:1 conv1
        %c = relu(%b) : f32[N,4,4,2]   @ net.py:1 conv1
        %d = tanh(%c) : f32[N,4,4,2]   @ net.py:2 act
        yield %d
      }   @ net.py:1 conv1; net.py:2 act
    }
    """
    assert changed(KERNEL, after) == [
        "fused tanh %4: act_tanh -> all",
        "renamed kernel all: conv1_conv_bias_relu -> all",
    ]


def test_an_attribute_and_the_type_that_follows() -> None:
    after = edited(
        BASE,
        ("{padding=same} : f32[N,4,4,2]", "{padding=valid} : f32[N,2,2,2]"),
        ("(%1, %b) : f32[N,4,4,2]", "(%1, %b) : f32[N,2,2,2]"),
        ("relu(%2) : f32[N,4,4,2]", "relu(%2) : f32[N,2,2,2]"),
        ("tanh(%3) : f32[N,4,4,2]", "tanh(%3) : f32[N,2,2,2]"),
    )
    sizes = "f32[N,4,4,2] -> f32[N,2,2,2]"
    assert changed(BASE, after) == [
        "attribute conv2d %1[padding]: same -> valid",
        *(f"type {op}: {sizes}" for op in ("conv2d %1", "bias_add %2")),
        *(f"type {op}: {sizes}" for op in ("relu %3", "tanh %4")),
    ]


def test_exchanged_ops_have_moved_and_read_something_else() -> None:
    after = edited(
        BASE, ("= relu(%2)", "= tanh(%2)"), ("= tanh(%3)", "= relu(%3)")
    ).replace(
        "%3 = tanh(%2) : f32[N,4,4,2]   @ net.py:1 conv1",
        "%3 = tanh(%2) : f32[N,4,4,2]   @ net.py:2 act",
    )
    after = after.replace(
        "%4 = relu(%3) : f32[N,4,4,2]   @ net.py:2 act",
        "%4 = relu(%3) : f32[N,4,4,2]   @ net.py:1 conv1",
    )
    assert changed(BASE, after) == [
        "output y: tanh %4 -> relu %4",
        "moved tanh %3:  -> after bias_add %2",
        "operand tanh %3[0]: relu %3 -> bias_add %2",
        "operand relu %4[0]: bias_add %2 -> tanh %3",
    ]


def test_only_what_has_to_move_has_moved() -> None:
    lines = [
        f"  %{n} = {op}(%x) : f32[N]\n"
        for n, op in enumerate(("exp", "tanh", "cos", "relu"), 1)
    ]
    head, foot = "graph g(%x: f32[N]) -> (a=%1, b=%2, c=%3, d=%4) {\n", "}\n"
    before = head + "".join(lines) + foot
    last_first = head + "".join([lines[3], *lines[:3]]) + foot
    assert changed(before, last_first) == ["moved relu %4:  -> to the front"]
    first_last = head + "".join([*lines[1:], lines[0]]) + foot
    assert changed(before, first_last) == ["moved exp %1:  -> after relu %4"]


def test_what_was_computed_twice_and_is_now_read_from_one() -> None:
    before = """
    graph g(%x: f32[N]) -> (y=%3) {
      %1 = exp(%x) : f32[N]   @ net.py:1
      %2 = exp(%x) : f32[N]   @ net.py:2
      %3 = add(%1, %2) : f32[N]   @ net.py:3
    }
    """
    after = """
    graph g(%x: f32[N]) -> (y=%3) {
      %1 = exp(%x) : f32[N]   @ net.py:1; net.py:2
      %3 = add(%1, %1) : f32[N]   @ net.py:3
    }
    """
    assert changed(before, after) == ["deleted exp %2: exp %2 -> exp %1"]
    assert changed(after, before) == ["copied exp %2: exp %1 -> exp %2"]


def test_what_the_graph_declares() -> None:
    before = """
    graph g(%x: f32[N], %t: f32[N]) -> (y=%1, z=%2) {
      param %w : f32[] = zeros()   @ net.py:1 w
      state %s : f32[] = zeros()
      %1 = add(%x, %w) : f32[N]
      %2 = add(%t, %s) : f32[N]
      %3 = add(%s, %w) : f32[]
      update %s = %3
    }
    """
    after = """
    graph g(%x: f32[N], %t: f64[N]) -> (y=%1) {
      param %w : f32[] = ones()   @ net.py:1 w
      %1 = add(%x, %w) : f32[N]
    }
    """
    assert changed(before, after) == [
        "input %t: f32[N] -> f64[N]",
        "parameter %w: param f32[] = zeros() -> param f32[] = ones()",
        "parameter %s: state f32[] = zeros() -> ",
        "output z: add %2 -> ",
        "update %s: add %3 -> ",
        "deleted add %2: add %2 -> ",
        "deleted add %3: add %3 -> ",
    ]


def test_layouts_and_schedules() -> None:
    scheduled = edited(
        KERNEL,
        ("  }   @ net.py:1", "  } schedule {algorithm=im2col, rows=2}   @ net.py:1"),
    )
    how = "schedule kernel conv1_conv_bias_relu"
    assert changed(KERNEL, scheduled) == [f"{how}:  -> algorithm=im2col, rows=2"]
    assert changed(scheduled, edited(scheduled, ("rows=2", "rows=4"))) == [
        f"{how}[rows]: 2 -> 4"
    ]
    stored = edited(
        KERNEL, ("%b) : f32[N,4,4,2] {\n", "%b) : f32[N,4,4,2]{1,2,3,0} {\n")
    )
    assert changed(KERNEL, stored) == [
        "layout relu %3: f32[N,4,4,2] -> f32[N,4,4,2]{1,2,3,0}"
    ]


def test_where_buffers_lie() -> None:
    """A buffer goes with its value, and scratch with its kernel, also by a new name."""
    before = """
    graph g(%x: f32[N]) -> (y=%1) stage planned {
      %1 = kernel k(%x) : f32[N] {
        %a = exp(%0) : f32[N]
        yield %a
      } schedule {algorithm=elementwise, piece=64}
      arena 192 batch 4 threads 1 {
        %x 0 16 live 0 1
        %1 64 16 live 0 1
        %1!s 128 16 live 0 0
      }
    }
    """
    renamed = edited(before, ("%1", "%out"))
    assert changed(before, renamed) == []
    moved = edited(renamed, ("arena 192", "arena 128"), ("%out!s 128", "%out!s 0"))
    there = "16 bytes at {}, launches 0 to 0"
    assert changed(before, moved) == [
        "arena arena: 192 bytes, batch 4, threads 1 -> 128 bytes, batch 4, threads 1",
        f"buffer %out!s: {there.format(128)} -> {there.format(0)}",
    ]


def test_changes_carry_their_lines_and_come_in_the_order_of_their_kinds() -> None:
    found = [*stages("two_conv", "training")]
    for a, b in pairwise(found):
        changes = diff(a.graph, b.graph)
        places = [KINDS.index(change.kind) for change in changes]
        assert places == sorted(places)
        fused = [change for change in changes if change.kind == "fused"]
        assert all(c.locs for c in fused if "optimizer" not in c.kernel)
