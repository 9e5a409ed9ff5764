"""DOT text names every op once, and no name can break out of its quotes."""

import re

from pass_bench import graph_of

from convc.draw import dot
from convc.matching import ops_of
from convc.model import Model
from convc.networks import two_conv

STRING = r'"(?:[^"\\\n]|\\.)*"'
ATTR = rf"\w+=(?:{STRING}|\w+)"
LINE = re.compile(
    rf"(?:digraph {STRING} \{{|subgraph cluster_\d+ \{{|\}}|label={STRING}"
    rf"|\w+(?: -> \w+)?(?: \[{ATTR}(?:, {ATTR})*\])?)"
)


def lines_of(text: str) -> list[str]:
    """The statements of a drawing, each of which must be one of the language."""
    lines = [line.strip() for line in text.splitlines()]
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert text.count("{\n") == text.count("}\n")
    return lines


def test_every_op_kernel_and_end_of_every_stage_is_drawn_once() -> None:
    for stage in Model(two_conv).training_step().stages(batch=4, threads=1):
        lines = lines_of(dot(stage.graph))
        boxes = [x.split()[0] for x in lines if re.match(r"[nve]\d+ \[", x)]
        assert len(boxes) == len(set(boxes))
        ops = [name for name in boxes if name.startswith("n")]
        assert len(ops) == len(ops_of(stage.graph).items)
        ends = [name for name in boxes if name.startswith("e")]
        assert len(ends) == len(stage.graph.outputs) + len(stage.graph.updates)
        frames = [x for x in lines if x.startswith("subgraph")]
        assert len(frames) == sum(n.op == "kernel" for n in stage.graph.nodes)
        edges = [re.match(r"(\w+) -> (\w+)", x) for x in lines if " -> " in x]
        assert {end for e in edges if e for end in e.groups()} <= set(boxes)


def test_a_kernel_is_a_frame_with_its_schedule_and_edges_pass_through_it() -> None:
    text = """
    graph g(%x: f32[N]) -> (y=%2) stage kernel {
      %1 = kernel k(%x) : f32[N] {
        %a = exp(%0) : f32[N]   @ net.py:1 e
        yield %a
      } schedule {algorithm=elementwise, piece=64}   @ net.py:1 e
      %2 = kernel m(%1) : f32[N] {
        %a = relu(%0) : f32[N]
        yield %a
      }
    }
    """
    assert lines_of(dot(graph_of(text)))[4:] == [
        'v0 [shape=ellipse, label="%x\\nf32[N]"]',
        "subgraph cluster_0 {",
        'label="k\\nalgorithm=elementwise, piece=64"',
        'n0 [label="exp\\nnet.py:1 e"]',
        "}",
        "subgraph cluster_1 {",
        'label="m"',
        'n1 [label="relu"]',
        "}",
        "v0 -> n0",
        'n0 -> n1 [label="f32[N]"]',
        'e0 [shape=ellipse, label="y"]',
        'n1 -> e0 [label="f32[N]"]',
        "}",
    ]


def test_names_cannot_leave_their_quotes() -> None:
    evil = '"a\\"];x->y;[\\\\n\\" {"'
    text = f"graph {evil}(%x: f32[N]) -> ({evil}=%1) {{\n"
    text += f"  %1 = exp(%x) : f32[N]   @ {evil}:1 {evil}\n}}\n"
    assert len(lines_of(dot(graph_of(text)))) == 10
