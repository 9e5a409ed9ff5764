"""Steps compile through a literal list of passes, with nothing guessed."""

import numpy as np
import pytest
from compiled import agrees, inputs_for
from pass_bench import graph_of

from convc.backends import backend_named
from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.layers import batch_norm, conv2d, dense, dropout, flatten, max_pool2d
from convc.model import Model
from convc.networks import NETWORKS
from convc.optimizers import SGD, Adam, AdamW, Momentum, Optimizer
from convc.passes.manager import Pass
from convc.pipeline import INFERENCE, LOWERING, Step, default_threads, training
from convc.tracing import Tensor


def small(image: Tensor) -> Tensor:
    """Everything that training treats in its own way."""
    x = conv2d(image, 4, 3, padding="same", activation="relu", name="conv1")
    x = batch_norm(max_pool2d(x, 2, name="pool1"), name="norm")
    y = conv2d(x, 4, 3, padding="same", name="left")
    x = y + conv2d(x, 4, 5, padding="same", name="right")
    x = dropout(dense(flatten(x), 8, activation="relu", name="fc"), keep=0.5)
    return dense(x, 5, name="logits")


SMALL = Model(small, image="f32[N,6,4,2]", exact=True)  # its bounds are of sums


def stage_of(step: Step, name: str, **options: int) -> Graph:
    return next(s.graph for s in step.stages(**options) if s.name == name)


def test_the_passes_of_a_training_step_in_order() -> None:
    assert [p.name for p in training(SGD(0.1))] == [
        *("canonicalize", "fold-padding", "commute-relu", "choose-precision"),
        *("differentiate", "keep-sums", "apply-optimizer", "simplify"),
        *(p.name for p in LOWERING),
    ]
    assert INFERENCE[0].name == "remove-dropout"
    assert [p.name for p in LOWERING][-4:] == [
        *("choose-layout", "choose-schedule", "recompute", "plan-memory"),
    ]


@pytest.mark.parametrize("kind", ["training", "evaluation", "inference"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_stage_reads_back_and_is_checked(name: str, kind: str) -> None:
    """Check mode on, at a small image so that the interpreter is quick."""
    model = Model(NETWORKS[name], image="f32[N,8,8,1]")
    step = {
        "training": model.training_step(),
        "evaluation": model.evaluation_step(),
        "inference": model.inference(),
    }[kind]
    stages = step.stages(batch=3, threads=2, check=True)
    assert [s.name for s in stages] == ["trace", *(p.name for p in step.passes)]
    for stage in stages[1:]:
        assert parse(stage.text) == stage.graph
        assert stage.checked


@pytest.mark.parametrize("name", ["simplify", "form-kernels", "choose-schedule"])
def test_a_dumped_stage_resumes_to_the_same_program(name: str) -> None:
    step = SMALL.training_step(optimizer=Adam())
    names = [p.name for p in step.passes]
    text = next(s.text for s in step.stages(batch=4, threads=2) if s.name == name)
    rest = Step(parse(text), step.passes[names.index(name) + 1 :])
    again = rest.compile(batch=4, threads=2)
    assert again.source == step.compile(batch=4, threads=2).source


@pytest.mark.parametrize("optimizer", [SGD(0.1), Momentum(0.1), Adam(), AdamW()])
@pytest.mark.parametrize("n", [1, 3])
def test_a_training_step_agrees_with_the_oracle(optimizer: Optimizer, n: int) -> None:
    """Three steps of a network of all layers; the oracle runs it before lowering."""
    step = SMALL.training_step(optimizer=optimizer, keep_gradients=True)
    program = step.compile(batch=3, threads=2)
    program.initialize(5)
    graph = stage_of(step, "apply-optimizer", batch=3)
    for _ in range(3):
        _, wrong = agrees(graph, inputs_for(graph, n), program)
        assert not wrong


def test_evaluation_agrees_with_the_oracle() -> None:
    step = SMALL.evaluation_step()
    program = step.compile(batch=4, threads=2)
    program.initialize(5)
    graph = stage_of(step, "remove-dropout", batch=4)
    _, wrong = agrees(graph, inputs_for(graph, 3), program)
    assert not wrong


def test_a_learning_rate_given_at_run_time() -> None:
    step = SMALL.training_step(optimizer=Adam("runtime"))
    program = step.compile(batch=2, threads=1, check=True)
    feeds = inputs_for(step.graph, 2)
    start = program.state()
    program(**feeds, learning_rate=np.float32(0))
    for name in ("conv1/kernel", "fc/kernel", "logits/biases"):
        assert np.array_equal(program.parameters[name], start[name])
    program(**feeds, learning_rate=np.float32(0.1))
    assert not np.array_equal(program.parameters["fc/kernel"], start["fc/kernel"])


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_no_image_is_refused(batch: int) -> None:
    with pytest.raises(CompileError, match=f"at least 1 image, got {batch}"):
        SMALL.inference().compile(batch=batch)


@pytest.mark.parametrize("threads", [0, -2])
def test_a_program_without_threads_is_refused(threads: int) -> None:
    with pytest.raises(CompileError, match=f"at least 1 thread, got {threads}"):
        SMALL.inference().compile(threads=threads)


def test_an_unknown_backend_is_refused_and_the_known_are_listed() -> None:
    with pytest.raises(CompileError, match="unknown backend 'fortran', known: numpy"):
        SMALL.inference().compile("fortran")


def test_threads_are_the_cores_of_this_process() -> None:
    numpy, triton = backend_named("numpy"), backend_named("triton")
    assert default_threads(numpy) >= 1 == default_threads(triton)
    assert SMALL.inference().compile(batch=2).threads == default_threads(numpy)


def test_a_single_image_is_not_shared_but_each_product_is() -> None:
    """One worker, and all threads in the BLAS library, unless weights are updated."""
    for step in (SMALL.inference(), SMALL.evaluation_step()):
        graph = step.stages(batch=1, threads=3)[-1].graph
        arena = graph.arena
        assert arena is not None
        assert (arena.threads, arena.blas) == (1, 3)
        assert " threads 1 blas 3 {" in print_graph(graph)
        assert parse(print_graph(graph)) == graph
        arena = step.stages(batch=2, threads=3)[-1].graph.arena
        assert arena is not None
        assert (arena.threads, arena.blas) == (3, 1)
    arena = SMALL.training_step().stages(batch=1, threads=3)[-1].graph.arena
    assert arena is not None
    assert (arena.threads, arena.blas) == (3, 1)


def test_a_pass_that_fails_is_named_by_compile() -> None:
    def fail(graph: Graph, context: object) -> Graph:
        raise CompileError("no")

    step = Step(SMALL.graph, (INFERENCE[0], Pass("failing", fail)))
    expected = "pass failing failed after trace, remove-dropout: no"
    with pytest.raises(CompileError, match=expected):
        step.compile()


def test_a_step_without_lowering_is_no_program() -> None:
    graph = graph_of("graph g(%x: f32[N]) -> (y=%x) {}")
    with pytest.raises(CompileError, match="needs a planned graph"):
        Step(graph, ()).compile()


# -- what may stand at the end of a graph

ENDS = {
    "an input": "graph g(%x: f32[N,4]) -> (y=%x) {}",
    "a view of an input": """
        graph g(%x: f32[N,4]) -> (y=%1) {
          %1 = reshape(%x) {shape=[N,2,2]} : f32[N,2,2]
        }""",
    "a parameter": """
        graph g(%x: f32[N]) -> (y=%w) {
          param %w : f32[4] = ones()
        }""",
    "a view of a parameter": """
        graph g(%x: f32[N]) -> (y=%1) {
          param %w : f32[4] = ones()
          %1 = reshape(%w) {shape=[2,2]} : f32[2,2]
        }""",
    "a view of a parameter that is updated": """
        graph g(%x: f32[N]) -> (y=%1) {
          param %w : f32[4] = ones()
          %1 = reshape(%w) {shape=[2,2]} : f32[2,2]
          %2 = add(%w, %w) : f32[4]
          update %w = %2
        }""",
    "a view of an update": """
        graph g(%x: f32[N]) -> (y=%1) {
          param %w : f32[4] = ones()
          %2 = add(%w, %w) : f32[4]
          %1 = reshape(%2) {shape=[2,2]} : f32[2,2]
          update %w = %2
        }""",
    "a constant": """
        graph g(%x: f32[N]) -> (y=%1, z=%1) {
          %1 = constant() {value=2.5} : f32[]
        }""",
    "an update shown": """
        graph g(%x: f32[4]) -> (y=%1) {
          param %w : f32[4] = ones()
          %1 = add(%w, %x) : f32[4]
          update %w = %1
        }""",
    "an optimizer's update shown": """
        graph g(%g: f32[4], %rate: f32[]) -> (y=%1) {
          param %w : f32[4] = ones()
          %1 = sgd(%w, %g, %rate) : f32[4]
          update %w = %1
        }""",
    "an update by an input": """
        graph g(%x: f32[4]) -> (y=%1) {
          param %w : f32[4] = ones()
          %1 = negate(%w) : f32[4]
          update %w = %x
        }""",
    "an update by a view": """
        graph g(%x: f32[2,2]) -> (y=%2) {
          param %w : f32[4] = ones()
          %1 = reshape(%x) {shape=[4]} : f32[4]
          %2 = negate(%w) : f32[4]
          update %w = %1
        }""",
    "one value for two parameters": """
        graph g(%x: f32[4]) -> (y=%2) {
          param %v : f32[4] = ones()
          param %w : f32[4] = ones()
          %1 = negate(%x) : f32[4]
          %2 = add(%v, %w) : f32[4]
          update %v = %1
          update %w = %1
        }""",
    "an update that is read with the old value": """
        graph g(%x: f32[4]) -> (y=%2) {
          param %w : f32[4] = ones()
          %1 = add(%w, %x) : f32[4]
          %2 = multiply(%1, %w) : f32[4]
          update %w = %1
        }""",
    "an update that is read before the old value": """
        graph g(%x: f32[4]) -> (y=%3) {
          param %w : f32[4] = ones()
          %1 = add(%w, %x) : f32[4]
          %2 = exp(%1) : f32[4]
          %3 = multiply(%2, %w) : f32[4]
          update %w = %1
        }""",
    "an update that is read with a view of the old value": """
        graph g(%x: f32[4]) -> (y=%4) {
          param %w : f32[4] = ones()
          %old = reshape(%w) {shape=[2,2]} : f32[2,2]
          %1 = add(%w, %x) : f32[4]
          %new = reshape(%1) {shape=[2,2]} : f32[2,2]
          %4 = multiply(%new, %old) : f32[2,2]
          update %w = %1
        }""",
    "an update of which the old value is used later": """
        graph g(%x: f32[4]) -> (y=%4) {
          param %w : f32[4] = ones()
          %1 = add(%w, %x) : f32[4]
          %2 = exp(%w) : f32[4]
          %3 = add(%2, %w) : f32[4]
          %4 = multiply(%3, %x) : f32[4]
          update %w = %1
        }""",
    "an update by another's update": """
        graph g(%x: f32[4]) -> (y=%x) {
          param %v : f32[4] = ones()
          param %w : f32[4] = ones()
          %1 = add(%w, %x) : f32[4]
          %2 = add(%1, %v) : f32[4]
          update %v = %2
          update %w = %1
        }""",
    "nothing is computed": """
        graph g(%x: f32[4]) -> (y=%x) {
          param %w : f32[4] = ones()
          update %w = %w
        }""",
    "dead code": """
        graph g(%x: f32[N,4]) -> (y=%1) {
          state %m : f32[4] = zeros()
          %1 = negate(%x) : f32[N,4]
          %2 = add(%1, %m) : f32[N,4]
          %3 = exp(%2) : f32[N,4]
        }""",
}


@pytest.mark.parametrize("what", ENDS)
def test_a_graph_may_end_with(what: str) -> None:
    """Two steps, so that what an update leaves behind is used."""
    graph = graph_of(ENDS[what])
    program = Step(graph, LOWERING).compile(batch=3, threads=2, check=True)
    for _ in range(2):
        state = {**program.state()}
        feeds = inputs_for(graph, 2)
        for p in graph.parameters:
            state.setdefault(p.value.name, np.zeros(p.value.type.bind(1), np.float32))
        result, wrong = agrees(graph, feeds, program, state)
        assert not wrong
        assert result.outputs.keys() == dict(graph.outputs).keys()


def test_two_parameters_that_change_places() -> None:
    """Right, or refused with what to do; never one lost."""
    text = """
    graph g(%x: f32[4]) -> (y=%x) {
      param %v : f32[4] = zeros()
      param %w : f32[4] = ones()
      update %v = %w
      update %w = %v
    }
    """
    with pytest.raises(CompileError, match="copy one first"):
        Step(graph_of(text), LOWERING).compile(batch=1)
