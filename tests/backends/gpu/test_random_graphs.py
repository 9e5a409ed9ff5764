"""Random graphs mean the same in emitted Triton, and their training steps do."""

from compiled import agrees
from emitted_programs import emitted
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import Example, graphs

from convc.optimizers import SGD, Adam, AdamW, Momentum
from convc.passes.canonicalize import CANONICALIZE
from convc.passes.commute_relu import COMMUTE_RELU
from convc.passes.fold_padding import FOLD_PADDING
from convc.pipeline import LOWERING, training

AS_TRACED = (CANONICALIZE, FOLD_PADDING, COMMUTE_RELU, *LOWERING)
OPTIMIZERS = (
    SGD(0.125, weight_decay=0.5),
    Momentum(0.25, weight_decay=0.5, decay_biases=False),
    Adam(0.25, weight_decay=0.5),
    AdamW(0.25),
)
SPARE = st.sampled_from([0, 2])
"""How many images more the program is compiled for than it gets."""


@settings(max_examples=25)
@given(graphs(), SPARE)
def test_a_graph_runs_as_it_was_traced(example: Example, spare: int) -> None:
    """Outputs and updates, bit for bit where float32 rounds nothing."""
    batch = len(example.inputs["image"]) + spare
    program = emitted(example.graph, batch, passes=AS_TRACED)
    program.load({**program.state(), **example.parameters})
    _, wrong = agrees(example.graph, example.inputs, program, example.parameters)
    assert not wrong


@settings(max_examples=25)
@given(graphs(loss=True), SPARE, st.sampled_from(OPTIMIZERS))
def test_two_training_steps_agree_with_the_oracle(
    example: Example, spare: int, optimizer: Adam
) -> None:
    """Loss, gradients, parameters and states, each step from where the last ended."""
    batch = len(example.inputs["image"]) + spare
    passes = training(optimizer, keep_gradients=True)
    program = emitted(example.graph, batch, passes=passes)
    program.load({**program.state(), **example.parameters})
    graph = next(s.graph for s in program.stages if s.name == "apply-optimizer")
    for _ in range(2):
        _, wrong = agrees(graph, example.inputs, program)
        assert not wrong
