"""Rivals run the network that convc runs; those that are not installed are skipped."""

from importlib import import_module

import numpy as np
import pytest

from convc.ir.errors import CompileError
from convc.rivals import RIVALS
from convc.rivals.base import LABEL_SETS, Runner, Task, rate_of
from convc.rivals.ours import Ours
from convc.rivals.pytorch import Torch

SMALL = "f32[N,8,8,1]"
NEEDED = {"onnxruntime": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


def made(name: str, kind: str, model: str = "two_conv") -> Runner:
    for package in NEEDED.get(name, (name.partition(":")[0],)):
        pytest.importorskip(package)
    module, of, _ = RIVALS[name]
    runner: Runner = getattr(import_module(f"convc.rivals.{module}"), of)(
        Task(model, kind, 3, 1, SMALL), name
    )
    return runner


ABLE = [(n, kind) for n, (*_, kinds) in RIVALS.items() for kind in kinds]
QUICK = [(n, kind) for n, kind in ABLE if n != "torch:compile"]


@pytest.mark.parametrize("model", ["two_conv", "strided", "four_conv"])
@pytest.mark.parametrize("name", [n for n, kind in QUICK if kind == "inference"])
def test_answers_are_those_of_the_network(name: str, model: str) -> None:
    runner = made(name, "inference", model)
    error = runner.error()
    assert error is not None
    assert error < 1e-5
    assert len(runner.turn(0)) == 1
    assert all(runner.versions()[p] != "" for p in runner.packages)


@pytest.mark.parametrize("name", [n for n, kind in QUICK if kind == "training"])
def test_training_learns(name: str) -> None:
    """The same labels again and again are learned by heart, as ours does."""
    runner = made(name, "training", "strided")
    labels = np.int32([3, 1, 4])
    losses = [float(runner._call(labels)) for _ in range(60)]
    ours = Ours(Task("strided", "training", 3, 1, SMALL), "numpy")
    expected = [float(ours._call(labels)) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]
    assert losses[-1] == pytest.approx(expected[-1], rel=0.1)


def test_labels_rotate() -> None:
    runner = Torch(Task("strided", "training", 2, 1, SMALL), "torch")
    seen = []
    runner._call = lambda labels: seen.append(labels.tobytes())
    for _ in range(2 * LABEL_SETS):
        runner._step()
    assert seen[:LABEL_SETS] == seen[LABEL_SETS:]
    assert len(set(seen)) > 1


def test_training_has_no_error_to_tell() -> None:
    assert Torch(Task("strided", "training", 2, 1, SMALL), "torch").error() is None


def test_an_optimizer_that_rivals_do_not_have_is_refused() -> None:
    model = Task("fast", "training", 2, 1).load()
    with pytest.raises(CompileError, match="written for rivals"):
        rate_of(model)


@pytest.mark.parametrize(
    ("name", "model"),
    [("jax", "fast"), ("tensorflow", "fast"), ("onnxruntime", "fast")],
)
def test_an_op_that_is_not_written_for_a_rival_is_refused(
    name: str, model: str
) -> None:
    for package in NEEDED.get(name, (name,)):
        pytest.importorskip(package)
    module, of, _ = RIVALS[name]
    with pytest.raises(CompileError, match="not written for"):
        getattr(import_module(f"convc.rivals.{module}"), of)(
            Task("fast", "inference", 2, 1), name
        )
