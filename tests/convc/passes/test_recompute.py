"""Values that are made twice: only where it pays, and with the same bits."""

import re
from dataclasses import replace

import numpy as np
import pytest
from compiled import inputs_for, poison, ran
from pass_bench import context, graph_of

import convc as cc
from convc.ir.graph import Graph
from convc.model import Model
from convc.networks import NETWORKS
from convc.optimizers import SGD, Adam
from convc.passes import recompute as module
from convc.passes.manager import Context, Stage
from convc.passes.recompute import RECOMPUTE, recompute
from convc.pipeline import LOWERING, Step
from convc.program import Program
from convc.tracing import Tensor

UNTIL = LOWERING[: LOWERING.index(RECOMPUTE)]


def leaky(image: Tensor) -> Tensor:
    """Leaky ReLUs: alpha · x is wanted again by the gradient, and x is there anyway."""
    x = cc.leaky_relu(cc.conv2d(image, 16, 3, padding="same", name="conv1"))
    x = cc.leaky_relu(cc.conv2d(x, 16, 3, padding="same", name="conv2"))
    return cc.dense(cc.flatten(cc.max_pool2d(x, 2)), 10, name="logits")


def masked(image: Tensor) -> Tensor:
    """A dropout mask for every pixel and filter of the first convolution."""
    x = cc.conv2d(image, 16, 3, padding="same", activation="relu", name="conv1")
    x = cc.dropout(x, keep=0.8, name="drop")
    x = cc.conv2d(x, 16, 3, padding="same", activation="relu", name="conv2")
    return cc.dense(cc.flatten(cc.max_pool2d(x, 2)), 10, name="logits")


def step_of(network: object) -> Step:
    model = Model(network, image="f32[N,28,28,1]")
    return model.training_step(optimizer=SGD(0.1), keep_gradients=True)


def without(step: Step) -> Step:
    """The same step with every value kept."""
    return replace(step, passes=tuple(p for p in step.passes if p is not RECOMPUTE))


def stage_of(step: Step, batch: int = 8) -> Stage:
    stages = step.stages(batch=batch, threads=2)
    return next(s for s in stages if s.name == "recompute")


def repeated(graph: Graph) -> list[str]:
    """The names of the kernels that make something again."""
    names = (str(n.attrs.get("name")) for n in graph.nodes)
    return [name for name in names if name.endswith("_again")]


def two_steps(program: Program, step: Step) -> list[dict[str, np.ndarray]]:
    """Outputs and parameters of two steps over an arena of NaN."""
    feeds, found = inputs_for(step.graph, 8), []
    program.initialize(5)
    for _ in range(2):
        poison(program)
        result = ran(program, feeds)
        found += [result.outputs, result.updates]
    return found


def same_bits(step: Step) -> tuple[Program, Program]:
    """The step with and without the pass, which must not be told apart."""
    programs = [
        s.compile(batch=8, threads=2, check=True) for s in (step, without(step))
    ]
    ours, kept = (two_steps(program, step) for program in programs)
    for a, b in zip(ours, kept, strict=True):
        assert a.keys() == b.keys()
        assert all(a[k].tobytes() == b[k].tobytes() for k in a)
    return programs[0], programs[1]


def test_a_product_by_a_constant_is_made_again_for_the_gradient() -> None:
    ours, kept = same_bits(step_of(leaky))
    assert repeated(ours.graph) == ["leaky_relu_multiply_again"]
    assert ours.memory.arena_bytes < 0.96 * kept.memory.arena_bytes
    assert ours.memory.bound_bytes < kept.memory.bound_bytes


def test_a_mask_drawn_again_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any price, for philox in NumPy costs more than a mask's bytes are worth."""
    monkeypatch.setattr(module, "WORTH", 0.0)
    ours, kept = same_bits(step_of(masked))
    assert repeated(ours.graph) == ["drop_dropout_mask_again"]
    assert ours.memory.arena_bytes < kept.memory.arena_bytes


def test_a_mask_that_costs_more_time_than_it_saves_memory_is_kept() -> None:
    stage = stage_of(step_of(masked))
    assert not repeated(stage.graph)
    (reason,) = (r for r in stage.refusals if r.subject == "drop_dropout_mask")
    assert "kept in memory: making it again would save" in reason.reason
    assert "of the step's time" in reason.reason
    assert reason.locs[0].layer == "drop"


@pytest.mark.parametrize("batch", [8, 128])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_built_in_networks_keep_everything(name: str, batch: int) -> None:
    """They have few values that wait, and the peak is not where those do."""
    step = Model(NETWORKS[name]).training_step(optimizer=Adam())
    stage = stage_of(step, batch)
    assert not repeated(stage.graph)
    if name == "two_conv":
        (mask,) = (r for r in stage.refusals if r.subject == "dropout_dropout_mask")
        assert "it does not wait while the peak passes, at conv2_" in mask.reason


# -- one rule at a time


WAITING = """
graph g(%x: f32[N,64]) -> (y=%6) {
  param %p : f32[64,64] = zeros()
  param %w : f32[64,1024] = zeros()
  %m = exp(%p) : f32[64,64]
  EARLY
  %2 = matmul(%1, %w) : f32[N,1024]
  %3 = softmax(%2) : f32[N,1024]
  %4 = matmul(%3, %w) {transpose_b=true} : f32[N,64]
  BETWEEN
  %6 = matmul(%5, %m) : f32[N,64]
  UPDATE
}
"""
READ = "%1 = matmul(%x, %m) : f32[N,64]"
UNREAD = "%1 = exp(%x) : f32[N,64]"


@pytest.fixture
def at_any_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the step takes."""
    monkeypatch.setattr(module, "WORTH", 0.0)


def rewritten(
    early: str, between: str = "%5 = exp(%4) : f32[N,64]", update: str = ""
) -> tuple[Graph, Context]:
    """The graph after the pass alone, and its refusals."""
    text = WAITING.replace("EARLY", early).replace("BETWEEN", between)
    graph = graph_of(text.replace("UPDATE", update))
    scheduled = Step(graph, UNTIL).stages(batch=4, threads=2)[-1].graph
    told = context()
    return recompute(scheduled, told), told


def test_the_copy_stands_before_the_first_late_reader(at_any_price: None) -> None:
    graph, _ = rewritten(READ)
    names = [n.name for n in graph.nodes]
    assert names.count("m") == 1
    assert names.index("m.again") == names.index("6") - 1
    readers = {n.name: {v.name for v in n.operands} for n in graph.nodes}
    assert "m" in readers["1"]
    assert {"m", "m.again"} & readers["6"] == {"m.again"}


def test_what_nobody_reads_early_is_only_made_later(at_any_price: None) -> None:
    graph, _ = rewritten(UNREAD)
    names = [n.name for n in graph.nodes]
    assert "m" not in names
    assert names.index("m.again") == names.index("6") - 1


def test_nothing_is_made_again_from_a_parameter_that_has_changed(
    at_any_price: None,
) -> None:
    """A late reader needs the update, which has taken the parameter's place by then."""
    changed = "%n = negate(%p) : f32[64,64]\n  %5 = matmul(%4, %n) : f32[N,64]"
    graph, told = rewritten(READ, changed, "update %p = %n")
    assert "m.again" not in {n.name for n in graph.nodes}
    (reason,) = (r.reason for r in told.refusals if r.subject == "exp")
    assert reason == "kept in memory: %p has its new value by then"


def test_a_copy_that_needs_its_operands_longer_saves_nothing() -> None:
    """What GELU's tanh reads ends with it; made again, that would have to wait too."""

    def smooth(image: Tensor) -> Tensor:
        x = cc.gelu(cc.conv2d(image, 8, 3, padding="same", name="conv1"))
        x = cc.gelu(cc.conv2d(x, 8, 3, padding="same", name="conv2"))
        return cc.dense(cc.flatten(x), 10, name="logits")

    told = stage_of(step_of(smooth)).refusals
    reasons = {r.reason for r in told if r.subject == "gelu_tanh"}
    assert "kept in memory: making it again would not lower the peak" in reasons
    assert not any("save -" in r.reason for r in told)


def test_little_memory_is_not_worth_a_launch(
    at_any_price: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST", 0.5)
    graph, told = rewritten(READ)
    assert "m.again" not in {n.name for n in graph.nodes}
    (reason,) = (r.reason for r in told.refusals if r.subject == "exp")
    assert re.fullmatch(
        r"kept in memory: making it again would save \d+\.\d% of the arena at most",
        reason,
    )
