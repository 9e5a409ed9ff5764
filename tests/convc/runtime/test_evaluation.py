"""A trained network is asked whole data sets and single images."""

import numpy as np
import pytest

from convc.data.batches import Dataset
from convc.ir.errors import RunError
from convc.layers import dense, dropout, flatten
from convc.model import Model, fed
from convc.runtime.evaluation import (
    Weights,
    evaluate,
    predict,
    softmax,
    trained,
)
from convc.tracing import Tensor

IMAGES = np.random.default_rng(3).random((23, 4, 4, 1), dtype=np.float32)
LABELS = (np.arange(23) % 3).astype(np.int32)
DATA = Dataset(IMAGES, LABELS, "noise")


def linear(image: Tensor) -> Tensor:
    return dense(flatten(image), 3, name="logits")


def model() -> Model:
    return Model(linear, image="f32[N,4,4,1]")


def weights() -> Weights:
    draw = np.random.default_rng(4).standard_normal
    return {
        "logits/kernel": draw((16, 3), dtype=np.float32),
        "logits/biases": draw(3, dtype=np.float32),
    }


def reference() -> np.ndarray:
    """The probabilities in float64."""
    given = weights()
    kernel = given["logits/kernel"].astype(np.float64)
    logits = IMAGES.reshape(-1, 16) @ kernel + given["logits/biases"]
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("batch", [1, 8, 23, 64])
def test_evaluate_gives_mean_loss_and_accuracy_over_all_images(batch: int) -> None:
    """Whatever the batch, a smaller last one included."""
    expected = reference()
    losses = -np.log(expected[np.arange(23), LABELS])
    loss, accuracy = evaluate(model(), DATA, weights(), batch=batch, threads=1)
    assert loss == pytest.approx(losses.mean(), rel=64 * 2**-23)
    assert accuracy == np.mean(expected.argmax(1) == LABELS)


def test_evaluate_takes_a_compiled_program_and_its_weights() -> None:
    program = model().evaluation_step().compile(batch=5, threads=1)
    first = evaluate(program, DATA, weights())
    assert first == evaluate(program, DATA)
    assert first == evaluate(model(), DATA, weights(), batch=5, threads=1)


@pytest.mark.parametrize("batch", [4, 23])
def test_predict_gives_probabilities_and_the_likeliest_class(batch: int) -> None:
    answer = predict(model(), IMAGES, weights(), batch=batch, threads=1)
    expected = reference()
    assert answer.probabilities.shape == (23, 3)
    assert answer.probabilities.dtype == np.float32
    assert np.abs(answer.probabilities - expected).max() < 64 * 2**-23
    assert answer.classes.tolist() == expected.argmax(1).tolist()


def test_softmax_does_not_overflow() -> None:
    logits = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4]], dtype=np.float32)
    expected = [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(softmax(logits), expected, rtol=2**-22)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits/biases": None}, "logits/biases"),
        ({"logits/biases": np.zeros(4, np.float32)}, "logits/biases"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: dict[str, np.ndarray | None], message: str
) -> None:
    given = {k: v for k, v in {**weights(), **change}.items() if v is not None}
    with pytest.raises(RunError, match=message):
        evaluate(model(), DATA, given)


def test_a_model_alone_has_no_weights() -> None:
    with pytest.raises(RunError, match="evaluate: a model has no weights of its own"):
        evaluate(model(), DATA)
    with pytest.raises(RunError, match="predict: a model has no weights of its own"):
        predict(model(), IMAGES)


@pytest.mark.parametrize("shape", [(2, 5, 4, 1), (4, 4, 1), (2, 4, 4)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RunError, match=r"%image is f32\[N,4,4,1\].*have shape"):
        predict(model(), np.zeros(shape, np.float32), weights())


def test_no_images_are_refused() -> None:
    with pytest.raises(RunError, match="at least one is needed"):
        predict(model(), IMAGES[:0], weights())


def test_several_image_inputs_are_refused() -> None:
    def two(left: Tensor, right: Tensor) -> Tensor:
        return dense(flatten(left + right), 3, name="logits")

    double = Model(two, left="f32[N,4,4,1]", right="f32[N,4,4,1]")
    with pytest.raises(RunError, match="the graph has left, right"):
        predict(double.inference().compile(batch=2), IMAGES)


def test_trained_leaves_out_what_is_only_state() -> None:
    program = model().training_step().compile(batch=2, threads=1)
    assert set(trained(program)) == set(weights())
    assert "training/step" in program.parameters


def test_weights_need_no_counters_where_dropout_is_fed_its_share() -> None:
    """A test keeps all; so a weight file serves, which has no training state."""

    def dropped(image: Tensor, share: Tensor) -> Tensor:
        return dense(dropout(flatten(image), keep=share), 3, name="logits")

    dropping = Model(dropped, image="f32[N,4,4,1]", share=fed(train=0.5, test=1.0))
    assert evaluate(dropping, DATA, weights()) == evaluate(model(), DATA, weights())
    found, want = (predict(m, IMAGES, weights()) for m in (dropping, model()))
    assert np.array_equal(found.probabilities, want.probabilities)
