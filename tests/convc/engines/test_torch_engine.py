"""PyTorch on emitted files: gradients, its optimizers on ours, the order in memory."""

import sys

import numpy as np
import pytest
import torch
from compiled import State

from convc.engines.torch_engine import MODES, TorchNetwork
from convc.ir.errors import CompileError
from convc.ir.interpreter import Result
from convc.ir.rounding import bounded
from convc.model import Model
from convc.networks import strided, two_conv
from convc.optimizers import SGD, Adam, AdamW, Momentum, Optimizer
from convc.schedules import ExponentialDecay

IMAGES = 3


def data(classes: int = 10) -> State:
    rng = np.random.default_rng(5)
    image = rng.random((IMAGES, 28, 28, 1), np.float32)
    return {
        "image": image,
        "labels": rng.integers(0, classes, IMAGES).astype(np.int32),
    }


@pytest.mark.parametrize("mode", MODES[:2])
def test_autograd_agrees_with_our_rules(mode: str) -> None:
    """On the whole network, every gradient of it, within derived bounds."""
    step = Model(two_conv).training_step(keep_gradients=True)
    program = step.compile(batch=IMAGES, threads=1)
    state, inputs = program.state(), data()
    bounds = bounded(program.graph, inputs, state)
    network = TorchNetwork(step.graph, mode)
    network.load(state)
    trained = [p.value.name for p in step.graph.parameters if p.trainable]
    call, found = network.gradients(inputs, {"loss": np.float32(1)}, trained)
    outputs = {f"gradient/{name}": array for name, array in found.items()}
    outputs |= network(**inputs)
    assert not bounds.faults(Result(outputs, bounds.updates))
    assert len(call()) == len(trained)


@pytest.mark.parametrize(
    "rule",
    [
        SGD(0.1),
        SGD(0.1, weight_decay=0.5),
        Momentum(0.1, nesterov=True),
        Adam(0.01),
        Adam(0.01, weight_decay=0.5, decay_biases=False),
        AdamW(0.01, weight_decay=0.5),
    ],
    ids=str,
)
def test_pytorchs_optimizer_does_what_ours_does(rule: Optimizer) -> None:
    """Two steps; what is left between the two is rounding of each update."""
    step = Model(strided).training_step(optimizer=rule)
    program = step.compile(batch=IMAGES, threads=1)
    network, inputs = TorchNetwork(step.graph, "torch"), data()
    network.load(program.state())
    train = network.training(rule, inputs)
    for _ in range(2):
        ours = float(program(**inputs)["loss"])
        assert train({}) == pytest.approx(ours, rel=1e-4)
    state = program.state()
    for name, array in network.state().items():
        if not name.startswith("training/"):
            rate = float(rule.learning_rate)  # type: ignore[arg-type]
            assert np.abs(array - state[name]).max() <= 1e-2 * rate, name


def test_a_rate_that_changes_is_refused() -> None:
    rule = SGD(ExponentialDecay(0.1, 10, 0.5))
    graph = Model(strided).training_step(optimizer=rule).graph
    with pytest.raises(CompileError, match="a learning rate that is a number"):
        TorchNetwork(graph).training(rule, data())


def test_labels_may_change_from_step_to_step() -> None:
    step = Model(strided).training_step()
    network = TorchNetwork(step.graph)
    network.load(step.compile(batch=IMAGES).state())
    train = network.training(SGD(0.0), data())
    first, other = train({}), train({"labels": np.zeros(IMAGES, np.int32)})
    assert first != other
    assert train({}) == other


@pytest.mark.parametrize("mode", MODES[:2])
def test_images_and_filters_are_stored_as_the_mode_says(mode: str) -> None:
    graph = Model(two_conv, image="f32[N,28,28,3]").graph
    network = TorchNetwork(graph, mode)
    (image,) = network.tensors({"image": np.ones((2, 28, 28, 3), np.float32)})
    wanted = torch.channels_last if mode.endswith("last") else torch.contiguous_format
    assert image.shape == (2, 28, 28, 3)
    assert image.permute(0, 3, 1, 2).is_contiguous(memory_format=wanted)
    filters = [p for p in network.network.parameters() if p.dim() == 4]
    assert filters
    assert all(p.is_contiguous(memory_format=wanted) for p in filters)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_what_torch_compiles_gives_what_eager_gives() -> None:
    graph = Model(strided, image="f32[N,8,8,1]").inference().traced()
    image = np.random.default_rng(2).random((2, 8, 8, 1), np.float32)
    made = []
    for mode in ("torch", "torch:compile"):
        network = TorchNetwork(graph, mode)
        arrays = network.state()
        network.load({k: np.full_like(a, 0.1) for k, a in arrays.items()})
        made.append(network(image=image)["output"])
    assert np.allclose(*made, rtol=1e-5)


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CompileError, match="pip install torch"):
        TorchNetwork(Model(strided).graph)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(CompileError, match="torch:channels_last, torch:compile"):
        TorchNetwork(Model(strided).graph, "torch:fast")
