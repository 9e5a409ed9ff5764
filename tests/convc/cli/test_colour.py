"""Colour is for terminals: the same text is plain anywhere else."""

import io
import sys

import pytest

from convc.cli.colour import diff_text, ir_text, print_text
from convc.diff import Change, diff
from convc.ir.graph import Loc
from convc.model import Model
from convc.networks import two_conv

SOURCE = """\
# fuse-conv
graph g(%x: f32[N,4]) -> (y=%1) {
  param %w : f32[4,4] = glorot_uniform()   @ "a file.py":3 "graph(x)"
  %1 = matmul(%x, %w) {transpose_b=true} : f32[N,4]   @ net.py:3 relu
}
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def styles(source: str) -> dict[str, set[str]]:
    """The pieces of text that each style is given to."""
    text = ir_text(source)
    found: dict[str, set[str]] = {}
    for span in text.spans:
        found.setdefault(str(span.style), set()).add(source[span.start : span.end])
    return found


def test_each_kind_of_word_has_a_style_of_its_own() -> None:
    assert styles(SOURCE) == {
        "dim": {
            "# fuse-conv",
            '   @ "a file.py":3 "graph(x)"',
            "   @ net.py:3 relu",
        },
        "magenta": {"graph", "param"},
        "bold": {"g", "matmul", "glorot_uniform"},
        "green": {"f32"},
        "cyan": {"%x", "%1", "%w"},
    }


def test_text_is_kept_letter_by_letter() -> None:
    for stage in Model(two_conv).training_step().stages(batch=4, threads=1):
        assert ir_text(stage.text).plain == stage.text


@pytest.mark.parametrize(
    ("file", "no_color", "coloured"),
    [(Terminal, "", True), (Terminal, "1", False), (io.StringIO, "", False)],
)
def test_there_is_colour_on_a_terminal_unless_refused(
    monkeypatch: pytest.MonkeyPatch,
    file: type[io.StringIO],
    no_color: str,
    coloured: bool,
) -> None:
    out = file()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    print_text(ir_text(SOURCE))
    assert ("\x1b[" in out.getvalue()) == coloured
    assert coloured or out.getvalue() == SOURCE


def test_changes_are_grouped_under_the_op_they_are_of() -> None:
    here = (Loc("net.py", 3, "fc"),)
    changes = [
        Change("stage", "graph", "tensor", "fusing"),
        Change("fused", "matmul %1", "", "fc_dense", "", "fc_dense", here),
        Change("fused", "relu %2", "fc_relu", "fc_dense", "", "fc_dense", here),
        Change("deleted", "exp %3", "exp %3", "exp %1", "", "", here),
        Change("attribute", "matmul %1", "false", "true", "transpose_b", "", here),
        Change("operand", "add %9", "%x", "%y", "1", "k", ()),
        Change("type", "matmul %1", "f32[N,4]", "f32[N,5]", "", "", here),
        Change("schedule", "kernel k", "1", "2", "rows", "k", ()),
    ]
    assert diff_text(changes).plain.splitlines() == [
        "  stage: tensor -> fusing",
        "  fused into fc_dense   @ net.py:3 fc",
        "    matmul %1, relu %2 (from fc_relu)",
        "  deleted",
        "    exp %3; there is exp %1   @ net.py:3 fc",
        "  changed",
        "    matmul %1   @ net.py:3 fc",
        "      transpose_b: false -> true",
        "      type: f32[N,4] -> f32[N,5]",
        "    add %9 in k",
        "      operand 1: %x -> %y",
        "  schedules",
        "    k rows: 1 -> 2",
    ]


def test_the_ops_of_a_kernel_are_wrapped_for_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    ops = [Change("fused", f"relu %{i}", "", "k", "", "k") for i in range(6)]
    assert diff_text(ops).plain.splitlines() == [
        "  fused into k",
        "    relu %0, relu %1, relu %2,",
        "    relu %3, relu %4, relu %5",
    ]


def test_every_kind_of_change_has_its_line() -> None:
    """And none of the lists of a whole compilation is cut but that of the buffers."""
    stages = Model(two_conv).training_step().stages(batch=4, threads=1)
    changes = diff(stages[0].graph, stages[-1].graph)
    text = diff_text(changes).plain
    buffers = sum(c.kind == "buffer" for c in changes)
    assert f"    and {buffers - 20} more (--json has all)" in text
    flat = " ".join(text.split())
    for change in changes:
        if change.kind not in ("stage", "buffer", "arena", "schedule"):
            assert change.subject in flat, change
