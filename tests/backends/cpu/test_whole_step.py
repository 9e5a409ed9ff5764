"""A training step of the MNIST network, beside PyTorch's autograd and Adam."""

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_reference as reference
from compiled import State, faults, ran
from torch import Tensor
from two_conv_data import WEIGHTS, feeds, weights

from convc.ir import philox
from convc.ir.graph import Graph
from convc.ir.interpreter import Result
from convc.ir.rounding import Bounds, bounded
from convc.model import Model
from convc.networks import two_conv
from convc.optimizers import Adam
from convc.program import Program

IMAGES = 2
RATE = 1e-3


def forward(image: Tensor, p: dict[str, Tensor], kept: Tensor) -> Tensor:
    """The network in PyTorch; ``kept`` is the dropout mask."""
    x = image
    for layer in ("conv1", "conv2"):
        x = reference.conv2d(x, p[f"{layer}/kernel"], padding="same")
        x = (x + p[f"{layer}/biases"]).relu()
        x = reference.max_pool2d(x, (2, 2), (2, 2))
    x = (x.flatten(1) @ p["fc/kernel"] + p["fc/biases"]).relu()
    x = torch.where(kept, x / 0.75, 0.0)
    return x @ p["logits/kernel"] + p["logits/biases"]


def mask(graph: Graph, state: State) -> Tensor:
    """The dropout mask of this step, from the generator itself."""
    (node,) = (n for n in graph.nodes if n.op == "dropout_mask")
    seed, step = int(state["training/seed"]), int(state["training/step"])
    stream = node.attrs["stream"]
    assert isinstance(stream, int)
    kept = philox.keep_mask(seed, stream, step, IMAGES * 1024, 0.75)
    return torch.tensor(kept.reshape(IMAGES, 1024))


def in_torch(graph: Graph, inputs: State, state: State) -> Result:
    """The step in float64: loss, gradients, new weights and moments."""
    wide = {name: torch.tensor(state[name], dtype=torch.float64) for name in WEIGHTS}
    leaves = {name: torch.nn.Parameter(w) for name, w in wide.items()}
    image = torch.tensor(inputs["image"], dtype=torch.float64)
    labels = torch.tensor(inputs["labels"]).long()
    logits = forward(image, leaves, mask(graph, state))
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    adam = torch.optim.Adam(leaves.values(), lr=RATE)
    for name, leaf in leaves.items():
        adam.state[leaf] = {
            "step": torch.tensor(float(state["training/step"])),
            "exp_avg": _slot("m", name, state),
            "exp_avg_sq": _slot("v", name, state),
        }
    adam.step()
    outputs: dict[str, Any] = {
        "loss": loss.detach(),
        "correct": (logits.argmax(1) == labels).sum(),
    }
    outputs |= {f"gradient/{name}": leaf.grad for name, leaf in leaves.items()}
    updates: dict[str, Any] = {k: leaf.detach() for k, leaf in leaves.items()}
    for slot, key in (("m", "exp_avg"), ("v", "exp_avg_sq")):
        updates |= {
            f"optimizer/{slot}/{k}": adam.state[w][key] for k, w in leaves.items()
        }
    updates["training/step"] = state["training/step"] + 1
    return Result(
        {name: np.asarray(v) for name, v in outputs.items()},
        {name: np.asarray(v) for name, v in updates.items()},
    )


def _slot(slot: str, name: str, state: State) -> Tensor:
    return torch.tensor(state[f"optimizer/{slot}/{name}"], dtype=torch.float64)


@cache
def three_steps() -> list[tuple[Bounds, Result, Result]]:
    """For each of three steps: the bounds, what torch gives and what we give.

    Each has new weights, and the moments and counters that the one before left. All
    is made of sums: what transforms make of zeros is not quite zero.
    """
    step = Model(two_conv, exact=True).training_step(
        optimizer=Adam(RATE), keep_gradients=True
    )
    program: Program = step.compile(batch=IMAGES + 2, threads=2)
    program.initialize(4)
    graph = next(s.graph for s in program.stages if s.name == "apply-optimizer")
    steps = []
    for number in range(3):
        program.load({**program.state(), **weights(number, graph)})
        inputs, state = feeds(number), program.state()
        theirs = in_torch(graph, inputs, state)
        bounds = bounded(graph, inputs, state)
        ours = ran(program, inputs)
        assert not faults(graph, bounds, ours)
        steps.append((bounds, theirs, ours))
    return steps


def test_torch_and_the_oracle_agree_in_float64() -> None:
    """To a billionth of the largest element: they mean the same."""
    for bounds, theirs, _ in three_steps():
        for reference_, found in (
            (bounds.outputs, theirs.outputs),
            (bounds.updates, theirs.updates),
        ):
            assert reference_.keys() == found.keys()
            for name, array in reference_.items():
                scale = 1e-9 * max(1e-6, float(np.abs(array).max()))
                assert np.abs(found[name] - array).max() <= scale, name


def test_loss_and_gradients_are_torchs_within_rounding() -> None:
    """The bound is what float32 may lose on the way, derived from the data."""
    for bounds, theirs, ours in three_steps():
        assert ours.outputs["correct"] == theirs.outputs["correct"]
        for name in ("loss", *(f"gradient/{k}" for k in WEIGHTS)):
            error = np.abs(ours.outputs[name] - theirs.outputs[name])
            slack = 1e-9 * np.abs(theirs.outputs[name]).max()
            assert (error <= bounds.output_bounds[name] + slack).all(), name


def test_weights_and_moments_are_torchs_within_rounding() -> None:
    for number, (bounds, theirs, ours) in enumerate(three_steps()):
        assert ours.updates["training/step"] == number + 1
        for name, array in theirs.updates.items():
            error = np.abs(ours.updates[name] - array)
            slack = 1e-9 * max(1e-6, float(np.abs(array).max()))
            assert (error <= bounds.update_bounds[name] + slack).all(), name


def test_the_bounds_say_something() -> None:
    """No gradient may be off by more than a tenth of the largest, the loss by 1e-3."""
    for bounds, _, _ in three_steps():
        assert bounds.output_bounds["loss"] < 1e-3
        for name in WEIGHTS:
            allowed = bounds.output_bounds[f"gradient/{name}"]
            largest = np.abs(bounds.outputs[f"gradient/{name}"]).max()
            assert allowed.max() < largest / 10, name


def test_nobody_else_changes_the_seed() -> None:
    for _, _, ours in three_steps():
        assert ours.updates["training/seed"] == 4
