"""Masks drawn where they are read: the same bits, no kernel and no memory for them."""

import pytest
from fusion_bench import kernels
from pass_bench import same, stage_after

import convc as cc
from convc.backends.base import Candidate, Cost, Scratch
from convc.backends.cpu.backend import NumpyBackend
from convc.diff import diff
from convc.ir.graph import Graph, Node
from convc.ir.types import TensorType
from convc.model import Model
from convc.networks import NETWORKS
from convc.optimizers import SGD, Adam
from convc.passes.fuse_dense import FUSE_DENSE
from convc.passes.fuse_dropout import FUSE_DROPOUT
from convc.passes.lower import FORM_KERNELS
from convc.passes.manager import Context, Stage, run_passes
from convc.pipeline import Step
from convc.tracing import Tensor


class Drawing(NumpyBackend):
    """A target that draws faster than it reads, and runs any kernel in one way."""

    name = "drawing"
    redraws_masks = True

    def candidates(
        self, kernel: Node, batch: int, threads: int
    ) -> tuple[Candidate, ...]:
        return (Candidate({"algorithm": "any"}, Cost(seconds=1e-6)),)

    def check_schedule(self, kernel: Node, batch: int, threads: int) -> None:
        pass

    def reads_as_given(self, kernel: Node, operand: int) -> bool:
        return True

    def stores_weights(self, kernel: Node, operand: int, batch: int) -> TensorType:
        return kernel.operands[operand].type

    def scratch(self, kernel: Node, threads: int) -> tuple[Scratch, ...]:
        return ()

    def in_place(self, kernel: Node) -> tuple[tuple[int, int], ...]:
        return ()


def stages_of(step: Step, check: bool = True) -> dict[str, Stage]:
    """Every stage for the target that draws, each pass checked for its meaning."""
    context = Context(Drawing(), 4, 2)
    return {s.name: s for s in run_passes(step.graph, step.passes, context, check)}


def training(network: object) -> Step:
    model = Model(network, image="f32[N,12,12,1]")
    return model.training_step(optimizer=SGD(0.1), keep_gradients=True)


BEFORE = """
graph g(%x: f32[N,3], %c: f32[N,2]) -> (y=%4, d=%5) {
  param %k : f32[3,2] = zeros()   @ n.py:1 fc
  state %s : i64[] = seed()
  state %t : i64[] = zeros()
  %m = dropout_mask(%s, %t) {shape=[N,2], keep=0.5, stream=7} : bool[N,2]   @ n.py:2 d
  %1 = matmul(%x, %k) : f32[N,2]   @ n.py:1 fc
  %4 = apply_mask(%1, %m) {scale=2.0} : f32[N,2]   @ n.py:2 d
  %5 = apply_mask(%c, %m) {scale=2.0} : f32[N,2]   @ n.py:3 again
  %one = constant() {value=1.0, dtype=i64} : i64[]
  %n = add(%t, %one) : i64[]
  update %t = %n
}
"""
AFTER = """
graph g(%x: f32[N,3], %c: f32[N,2]) -> (y=%4, d=%5) stage fusing {
  param %k : f32[3,2] = zeros()   @ n.py:1 fc
  state %s : i64[] = seed()
  state %t : i64[] = zeros()
  %4 = kernel fc_dense_dropout(%x, %k, %s, %t) : f32[N,2] {
    %a = dropout_mask(%2, %3) {shape=[N,2], keep=0.5, stream=7} : bool[N,2]   @ n.py:2 d
    %b = matmul(%0, %1) : f32[N,2]   @ n.py:1 fc
    %c = apply_mask(%b, %a) {scale=2.0} : f32[N,2]   @ n.py:2 d
    yield %c
  }   @ n.py:1 fc; n.py:2 d
  %5 = kernel again_dropout(%c, %s, %t) : f32[N,2] {
    %a = dropout_mask(%1, %2) {shape=[N,2], keep=0.5, stream=7} : bool[N,2]   @ n.py:2 d
    %b = apply_mask(%0, %a) {scale=2.0} : f32[N,2]   @ n.py:3 again
    yield %b
  }   @ n.py:3 again; n.py:2 d
  %one = constant() {value=1.0, dtype=i64} : i64[]
  %n = add(%t, %one) : i64[]
  update %t = %n
}
"""


def test_every_kernel_draws_the_mask_that_it_reads() -> None:
    """Also an ``apply_mask`` that stands alone, as a kernel of its own."""
    stage = stage_after(FUSE_DENSE, FUSE_DROPOUT, of=BEFORE, backend=Drawing())
    assert stage.checked
    assert same(stage.graph, AFTER)
    assert not stage.refusals


def test_a_backend_that_reads_faster_keeps_the_mask_and_says_so() -> None:
    before = stage_after(FUSE_DENSE, of=BEFORE)
    after = stage_after(FUSE_DENSE, FUSE_DROPOUT, of=BEFORE)
    assert after.graph == before.graph
    (reason,) = map(str, after.refusals)
    assert reason == (
        "d_dropout_mask: drawn once: numpy reads bits faster than it draws them"
    )


@pytest.mark.parametrize(
    ("reader", "output", "named"),
    [
        ("%f = cast(%m) {dtype=f32} : f32[N,2]", "f=%f", "cast"),
        ("", "m=%m", "an output of the program"),
    ],
)
def test_a_mask_that_others_read_is_made_for_them(
    reader: str, output: str, named: str
) -> None:
    text = BEFORE.replace("d=%5", f"d=%5, {output}").replace(
        "  update", f"  {reader}\n  update"
    )
    stage = stage_after(FUSE_DENSE, FUSE_DROPOUT, of=text, backend=Drawing())
    assert [n.op for n in stage.graph.ops()].count("dropout_mask") == 3
    (reason,) = map(str, stage.refusals)
    assert reason == f"d_dropout_mask: also kept in memory, for {named}"


def test_the_step_counter_is_updated_when_all_have_read_it() -> None:
    """The update stands first here: it must wait for those who draw from the counter.

    Without the pass nothing but the mask reads the counter.
    """
    lines = BEFORE.splitlines(keepends=True)
    update = [at for at, line in enumerate(lines) if "%one" in line]
    moved = [lines.pop(at) for at in reversed(update)]
    first = next(at for at, line in enumerate(lines) if "%m =" in line)
    text = "".join([*lines[:first], *reversed(moved), *lines[first:]])
    passes = FUSE_DENSE, FUSE_DROPOUT, FORM_KERNELS
    graph = stage_after(*passes, of=text, backend=Drawing()).graph
    assert [n.name for n in graph.nodes] == ["4", "5", "n"]


# -- whole steps


def masks_in(graph: Graph) -> list[list[str]]:
    """The ops of the kernels that draw a mask."""
    return [ops for ops in kernels(graph) if "dropout_mask" in ops]


def test_the_mask_of_two_conv_is_no_kernel_and_no_memory() -> None:
    step = Model(NETWORKS["two_conv"]).training_step(optimizer=Adam())
    drawn = stages_of(step, check=False)["plan-memory"].graph
    kept = step.stages(batch=4, threads=2)[-1].graph
    assert ["dropout_mask"] in kernels(kept)
    assert ["dropout_mask"] not in kernels(drawn)
    forward, backward = masks_in(drawn)
    assert forward == ["dropout_mask", "matmul", "bias_add", "relu", "apply_mask"]
    assert backward[0] == "dropout_mask"
    assert "13" in {b.name for b in kept.arena.buffers}
    assert "13" not in {b.name for b in drawn.arena.buffers}


def convolved(image: Tensor) -> Tensor:
    """Dropout behind a pool, whose kernel takes no mask in, and twice in a row."""
    x = cc.conv2d(image, 2, 3, padding="same", activation="relu", name="conv1")
    x = cc.dropout(cc.max_pool2d(x, 2), keep=0.8, name="drop1")
    x = cc.dense(cc.flatten(x), 4, activation="tanh", name="fc")
    x = cc.dropout(cc.dropout(x, keep=0.75, name="drop2"), keep=0.5, name="drop3")
    return cc.dense(x, 10, name="logits")


def test_a_step_with_many_masks_means_the_same_bit_for_bit() -> None:
    stages = stages_of(training(convolved))
    assert stages["fuse-dropout"].checked
    for name in ("fuse-dropout", "plan-memory"):
        graph = stages[name].graph
        assert not any(n.op == "dropout_mask" for n in graph.nodes)
        assert len(masks_in(graph)) == 6
        assert ["dropout_mask", "apply_mask"] in masks_in(graph)


def test_nothing_is_left_to_make_again() -> None:
    """No kernel draws a mask for others, so none waits."""
    stages = stages_of(training(convolved), check=False)
    assert stages["recompute"].graph == stages["choose-schedule"].graph
    assert not any("mask" in r.subject for r in stages["recompute"].refusals)


COPY = "dropout_mask %a of again_dropout"


def test_what_the_pass_did_can_be_said() -> None:
    stage = stage_after(FUSE_DENSE, FUSE_DROPOUT, of=BEFORE, backend=Drawing())
    said = {(c.kind, c.subject, c.new) for c in diff(stage.before, stage.graph)}
    assert said == {
        ("fused", "dropout_mask %m", "fc_dense_dropout"),
        ("fused", "apply_mask %5", "again_dropout"),
        ("copied", COPY, COPY),
    }


def test_a_mask_for_a_share_that_is_an_input_is_drawn_where_it_is_read() -> None:
    text = BEFORE.replace("%c: f32[N,2])", "%c: f32[N,2], %p: f32[] = 0.5)")
    text = text.replace("dropout_mask(%s, %t)", "keep_mask(%s, %t, %p)")
    text = text.replace(" keep=0.5, stream", " stream")
    text = text.replace("apply_mask", "apply_keep").replace(") {scale=2.0}", ", %p)")
    stage = stage_after(FUSE_DENSE, FUSE_DROPOUT, of=text, backend=Drawing())
    assert kernels(stage.graph)[:2] == [
        ["keep_mask", "matmul", "apply_keep"],
        ["keep_mask", "apply_keep"],
    ]
    names = [n.attrs["name"] for n in stage.graph.nodes if n.region]
    assert names == ["fc_dense_dropout", "again_dropout"]
