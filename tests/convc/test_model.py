"""A model is traced once and gives the steps that people need."""

from typing import Any

import numpy as np
import pytest
from compiled import inputs_for, ran

from convc.ir.errors import ModelError
from convc.ir.types import DType
from convc.layers import batch_norm, conv2d, dense, dropout, flatten
from convc.losses import softmax_cross_entropy
from convc.model import IMAGE, LABELS, Fed, Model, fed, takes
from convc.networks import NETWORKS
from convc.optimizers import SGD
from convc.pipeline import INFERENCE, Step
from convc.tracing import Tensor


def net(image: Tensor) -> Tensor:
    x = conv2d(image, 3, 3, activation="relu", name="conv1")
    x = batch_norm(x, name="norm")
    return dense(dropout(flatten(x), keep=0.5), 4, name="logits")


MODEL = Model(net, image="f32[N,5,4,1]")


def test_the_default_input_is_an_mnist_image() -> None:
    (image,) = Model(NETWORKS["strided"]).graph.inputs
    assert (image.name, str(image.type)) == ("image", IMAGE)


def test_a_model_has_its_functions_name_or_the_one_given() -> None:
    assert MODEL.name == MODEL.graph.name == "net"
    named = Model(net, name="mine", image="f32[N,5,4,1]")
    assert named.name == named.graph.name == named.training_step().graph.name == "mine"


def test_the_forward_graph_is_in_training_form() -> None:
    ops = [n.op for n in MODEL.graph.nodes]
    assert {"dropout_mask", "apply_mask", "moving_average"} <= set(ops)
    assert [name for name, _ in MODEL.graph.outputs] == ["output"]
    assert MODEL.graph is MODEL.graph


def test_a_training_step_takes_labels_and_gives_loss_and_hits() -> None:
    step = MODEL.training_step(optimizer=SGD(0.1))
    labels = next(v for v in step.graph.inputs if v.name == "labels")
    assert str(labels.type) == LABELS
    program = step.compile(batch=3, threads=1)
    assert [name for name, _ in program.graph.outputs] == ["loss", "correct"]


def test_gradients_are_outputs_on_demand() -> None:
    program = MODEL.training_step(keep_gradients=True).compile(batch=3, threads=1)
    names = {name for name, _ in program.graph.outputs}
    weights = {p.value.name for p in MODEL.graph.parameters if p.trainable}
    assert names == {"loss", "correct", *(f"gradient/{name}" for name in weights)}


def test_evaluation_changes_nothing_and_has_no_dropout() -> None:
    program = MODEL.evaluation_step().compile(batch=3, threads=2)
    ops = {i.op for n in program.graph.nodes if n.region for i in n.region.nodes}
    assert not ops & {"dropout_mask", "apply_mask", "reduce_variance"}
    assert program.graph.updates == ()
    program.initialize(3)
    feeds, start = inputs_for(program.graph, 3), program.state()
    first, second = (ran(program, feeds) for _ in range(2))
    assert np.array_equal(first.outputs["loss"], second.outputs["loss"])
    assert all(np.array_equal(first.updates[k], start[k]) for k in start)


def test_inference_gives_logits_image_by_image() -> None:
    program = MODEL.inference().compile(batch=4, threads=2)
    program.initialize(3)
    images = inputs_for(program.graph, 4)["image"]
    together = program(image=images)["output"]
    assert together.shape == (4, 4)
    for i in range(4):
        alone = program(image=images[i : i + 1])["output"][0]
        assert np.allclose(alone, together[i], rtol=1e-5, atol=1e-6)


def test_hits_and_loss_belong_to_the_logits() -> None:
    """By the same weights, computed once more from the logits."""
    evaluation = MODEL.evaluation_step().compile(batch=5, threads=1)
    inference = MODEL.inference().compile(batch=5, threads=1)
    for program in (evaluation, inference):
        program.initialize(3)
    feeds = inputs_for(evaluation.graph, 5)
    found = evaluation(**feeds)
    logits = inference(image=feeds["image"])["output"].astype(float)
    assert found["correct"] == (logits.argmax(1) == feeds["labels"]).sum()
    peaks = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), feeds["labels"]]
    assert abs(found["loss"] - peaks.mean()) < 1e-5


def test_a_loss_of_ones_own() -> None:
    def twice(logits: Tensor, labels: Tensor) -> Tensor:
        loss = softmax_cross_entropy(logits, labels)
        return loss + loss

    once = MODEL.evaluation_step().compile(batch=3, threads=1)
    double = MODEL.evaluation_step(loss=twice).compile(batch=3, threads=1)
    feeds = inputs_for(once.graph, 3)
    assert double(**feeds)["loss"] == 2 * once(**feeds)["loss"]


def test_training_lowers_the_loss() -> None:
    program = Model(NETWORKS["strided"]).training_step().compile(batch=16, threads=2)
    program.initialize(1)
    feeds = inputs_for(program.stages[0].graph, 16)
    losses = [float(program(**feeds)["loss"]) for _ in range(30)]
    assert losses[-1] < losses[0] / 4


def test_two_runs_with_one_seed_end_with_the_same_bits() -> None:
    states = []
    for _ in range(2):
        program = MODEL.training_step().compile(batch=6, threads=2)
        program.initialize(11)
        for n in (6, 6, 2):
            program(**inputs_for(program.stages[0].graph, n))
        states.append(program.state())
    assert all(states[0][k].tobytes() == states[1][k].tobytes() for k in states[0])


def test_a_mistake_in_the_network_is_reported_at_its_line() -> None:
    def broken(image: Tensor) -> Tensor:
        return dense(image, 10)

    with pytest.raises(ModelError, match=r"test_model\.py:\d+"):
        _ = Model(broken, image="f32[N,5,4,1]").graph


def test_the_summary_lists_the_layers() -> None:
    text = str(MODEL.summary())
    assert all(layer in text for layer in ("conv1", "norm", "logits"))


def test_precision_is_the_steps_or_else_the_models() -> None:
    """And fp16 scales its loss by 1024, a power of two."""
    for model, step in (
        (Model(net, precision="bf16", image="f32[N,5,4,1]"), {}),
        (MODEL, {"precision": "bf16"}),
    ):
        for made in (model.training_step(**step), model.inference(**step)):
            names = [p.name for p in made.passes]
            kept = made.passes[: names.index("choose-precision") + 1]
            graph = Step(made.graph, kept).stages(batch=2)[-1].graph
            assert any(v.type.dtype is DType.BF16 for v in graph.values())
    assert MODEL.evaluation_step(precision="fp32").passes == INFERENCE


@pytest.mark.parametrize(("asked", "scale"), [({}, 1024.0), ({"loss_scale": 8}, 8.0)])
def test_the_loss_of_a_step_in_fp16_is_scaled(
    asked: dict[str, float], scale: float
) -> None:
    step = MODEL.training_step(precision="fp16", **asked)
    names = [p.name for p in step.passes]
    kept = step.passes[: names.index("differentiate") + 1]
    graph = Step(step.graph, kept).stages(batch=2)[-1].graph
    constants = [n.attrs["value"] for n in graph.nodes if n.op == "constant"]
    weights = sum(p.trainable for p in graph.parameters)
    assert constants.count(scale) == 1
    assert constants.count(1 / scale) == weights


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"precision": "fp8"}, "precision is one of fp32, tf32, bf16, fp16, got 'fp8'"),
        ({"precision": "bf16", "loss_scale": 2}, "loss_scale is for precision fp16"),
        ({"loss_scale": 1.0}, "this step is in fp32"),
        ({"precision": "fp16", "loss_scale": 1000}, "must be a power of two from 1 to"),
        ({"precision": "fp16", "loss_scale": 0.5}, "rounds nothing, got 0.5"),
        ({"precision": "fp16", "loss_scale": float("inf")}, "got inf"),
        ({"precision": "fp16", "loss_scale": float("nan")}, "got nan"),
    ],
)
def test_a_precision_that_there_is_not_is_refused(
    asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError) as error:
        MODEL.training_step(**asked)
    assert message in str(error.value)
    with pytest.raises(ModelError, match="precision is one of"):
        Model(net, precision="half")


@takes(x="f32[N,6]", keep_prob=fed(train=0.5, test=1.0))
def dropping(x: Tensor, keep_prob: Tensor) -> Tensor:
    x = dense(x, 8, activation="relu", name="fc")
    return dense(dropout(x, keep=keep_prob, name="drop"), 4, name="logits")


def test_a_number_is_fed_one_value_in_training_and_another_in_tests() -> None:
    model = Model(dropping)
    assert dropping.takes["keep_prob"] == Fed(0.5, 1.0)  # type: ignore[attr-defined]
    assert (str(model.image), model.graph.feeds) == ("f32[N,6]", (("keep_prob", 1.0),))
    assert model.training_step().graph.feeds == (("keep_prob", 0.5),)
    for step in (model.evaluation_step(), model.inference()):
        assert step.graph.feeds == (("keep_prob", 1.0),)
    again = Model(dropping, x="f32[N,6]", keep_prob=fed(train=0.25, test=0.5))
    assert again.training_step().graph.feeds == (("keep_prob", 0.25),)


@pytest.mark.parametrize("backend", ["numpy", "triton:interpret"])
def test_a_share_that_is_fed_is_what_dropout_keeps(backend: str) -> None:
    """In training as with the number itself, bit for bit; all of it in a test."""

    def fixed(keep: float) -> Model:
        return Model(lambda x: dropping(x, keep), name="dropping", x="f32[N,6]")

    model, feeds = Model(dropping), inputs_for(Model(dropping).graph, 3)
    feeds = {"x": feeds["x"], "labels": np.int32([0, 3, 1])}
    program = model.training_step().compile(backend, 4, check=backend == "numpy")
    same = fixed(0.5).training_step().compile(backend, 4)
    for _ in range(2):
        found, want = ran(program, feeds), ran(same, feeds)
        assert found.outputs == want.outputs
    assert all(np.array_equal(found.updates[k], want.updates[k]) for k in want.updates)
    test, plain = (m.evaluation_step().compile(backend, 4) for m in (model, fixed(1.0)))
    for evaluation in (test, plain):
        evaluation.load(program.parameters)
    assert test(**feeds) == plain(**feeds)
    assert "keep_mask" in {n.op for n in test.stages[1].graph.nodes}  # it was asked for


def test_what_is_fed_must_be_a_finite_number() -> None:
    for wrong in (float("nan"), True, "0.5"):
        with pytest.raises(ModelError, match="fed: test must be a finite number, got"):
            fed(train=0.5, test=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("exact", [False, True])
def test_an_exact_model_is_computed_as_sums(exact: bool) -> None:
    """Forward and backward; by default the larger convolution is by transforms."""
    model = Model(NETWORKS["two_conv"], exact=exact)
    for step in (model.training_step(), model.evaluation_step(), model.inference()):
        graph = step.stages(batch=128, threads=2)[-1].graph
        algorithms = [str((n.schedule or {}).get("algorithm")) for n in graph.nodes]
        by_transforms = sum(a in ("dft", "winograd") for a in algorithms)
        kernels = 2 if step.kind == "training" else 1
        assert by_transforms == (0 if exact else kernels)
